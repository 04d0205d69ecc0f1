"""What the app leaves to workers, who call it in the context of the app."""

import os
import time
from pathlib import Path

from flask import current_app

from queue_max.contrib.flask import QueueExtension

jobs = QueueExtension()


@jobs.task(max_retries=3, retry_delay=1, keep_result=3600)
def welcome(number: int, address: str) -> str:
    """Write a letter into the outbox; a second run writes the same one, and does no harm."""
    outbox = Path(current_app.config["OUTBOX"])
    outbox.mkdir(parents=True, exist_ok=True)
    time.sleep(current_app.config["SECONDS_A_LETTER"])
    draft, letter = outbox / f"{number}.{os.getpid()}.draft", outbox / f"{number}.txt"
    draft.write_text(f"Dear {address}, welcome to {current_app.config['SHOP']}!\n")
    draft.replace(letter)
    return letter.name
