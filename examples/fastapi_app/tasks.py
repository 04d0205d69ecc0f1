"""What the app leaves to workers; `queue-max worker --app tasks` finds it by its name."""

import time
from collections import Counter

from queue_max import RunningJob, task


@task(max_retries=3, retry_delay=1, keep_result=3600)
def count_words(
    pages: list[str], seconds_a_page: float = 0.0, *, ctx: RunningJob | None = None
) -> dict[str, int]:
    """Count the words of all pages; `seconds_a_page` stands for work that takes its time."""
    words: Counter[str] = Counter()
    for number, page in enumerate(pages, start=1):
        time.sleep(seconds_a_page)
        words.update(page.lower().split())
        if ctx is not None:
            ctx.update_progress(100 * number / len(pages))
    return dict(words)
