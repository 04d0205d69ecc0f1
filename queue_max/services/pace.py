"""How many jobs to claim at once, and how many workers they need."""

import math

from queue_max.domain.job import Lease

WORK_HELD = 0.1
"""Seconds of work that a process claims ahead of its workers, at most."""

LARGEST_CLAIM = 256
"""Jobs claimed at once, at most."""

LARGEST_WEIGHT = 4 * 1024 * 1024
"""Characters of payloads claimed at once, about."""

WORTH_WAKING = 0.001
"""Seconds of work for which a thread is woken: less is sooner done by one that is awake."""

_SHARE = 0.1  # of the newest job in the average


class Pace:
    """An estimate of how long jobs take, of those that run just now too.

    Claims are of one job until one has ended, and then at most double, so that the first of many
    slow jobs do not all end up in one process. Threads use it without a lock: each step is one of
    Python's, and where two meet, the estimate is none the worse for it.
    """

    def __init__(self) -> None:
        self._begun: dict[Lease, float] = {}
        self._seconds: float | None = None
        self._weight = 0.0
        self._most = 1

    def began(self, lease: Lease, now: float) -> None:
        """Note that a job begins."""
        self._begun[lease] = now

    def ended(self, lease: Lease, now: float) -> None:
        """Note that a job has ended."""
        begun = self._begun.pop(lease, None)
        if begun is None:
            return
        seconds = now - begun
        before = seconds if self._seconds is None else self._seconds
        self._seconds = before + _SHARE * (seconds - before)

    def claimed(self, number: int, weight: int) -> None:
        """Note how many jobs came, at least one, and how many characters their payloads have."""
        self._most = min(2 * number, LARGEST_CLAIM)
        self._weight = weight / number

    def appetite(self, workers: int, now: float) -> int:
        """Say how many jobs so many workers can take at once."""
        if self._seconds is None:
            return 1
        most, seconds = self._most, max(self._seconds, self._running_for(now))
        if seconds > 0:
            most = min(most, int(WORK_HELD * workers / seconds))
        if self._weight > 0:
            most = min(most, int(LARGEST_WEIGHT / self._weight))
        return max(1, most)

    def crew(self, number: int, now: float) -> int:
        """Say how many workers to wake for so many jobs, beside the one that claimed them.

        At least one: it may find the next jobs where these came from.
        """
        if self._seconds is None:
            return max(1, number)
        seconds = max(self._seconds, self._running_for(now))
        return max(1, min(number, math.ceil(number * seconds / WORTH_WAKING)))

    def is_slow(self, now: float) -> bool:
        """Tell whether jobs take so long that it is not worth waiting for those who run them."""
        seconds = self._seconds
        return seconds is None or max(seconds, self._running_for(now)) >= WORTH_WAKING

    def _running_for(self, now: float) -> float:
        """Tell for how long the jobs that run have done so, on average."""
        begun = list(self._begun.values())
        return now - sum(begun) / len(begun) if begun else 0.0
