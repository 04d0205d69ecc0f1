"""The verdict on a failed attempt: try again at a given time, or bury the job."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from queue_max.domain.job import Job

MAX_DELAY = timedelta(hours=1)
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Retry:
    """Run the job again, not before `at`."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Bury:
    """Give the job up, for a `reason` in words."""

    reason: str


class RetryPolicy:
    """Exponential back-off with jitter: `retry_delay` times 2 to the attempts made, ± 20 %.

    With the default of 60 seconds the waits are about 120 s, 240 s, 480 s and so on, never more
    than an hour. The jitter keeps jobs that failed together from coming back together (Marc
    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def judge(self, job: Job, now: datetime, *, permanent: bool = False) -> Retry | Bury:
        """Decide on a job whose attempt has just failed."""
        if permanent:
            return Bury("permanent")
        if job.attempts >= job.max_attempts:
            return Bury(f"{job.attempts} of {job.max_attempts} attempts made")
        return Retry(now + self.delay(job.retry_delay, job.attempts))

    def delay(self, base_seconds: int, attempts: int) -> timedelta:
        """Give the wait after that many attempts; an hour at most, the jitter included."""
        # 2**40 s is beyond any cap; more would only overflow.
        seconds = base_seconds * 2.0 ** min(attempts, 40)
        seconds *= self._rng.uniform(1 - JITTER, 1 + JITTER)
        return timedelta(seconds=min(seconds, MAX_DELAY.total_seconds()))
