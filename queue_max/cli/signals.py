"""Hearing SIGINT and SIGTERM: the first one asks a process to stop, a second one to leave."""

import math
import signal
import time

LOOK_EVERY = 0.05
"""Seconds between two looks."""


class Signals:
    """Notes SIGINT and SIGTERM from now on.

    Nothing is locked for it: a handler runs in the midst of what the main thread does, and would
    wait for ever for a lock that thread holds.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._first_at = math.inf
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self.note(number))

    def note(self, number: int) -> None:
        """Take a signal in."""
        if not self.received:
            self._first_at = time.monotonic()
        self.received.append(number)

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until that many have come; False when `timeout` seconds are over before."""
        deadline = time.monotonic() + timeout
        while len(self.received) < count and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY)
        return len(self.received) >= count

    def since_first(self) -> float:
        """Tell how many seconds ago the first one came; less than none when none has."""
        return time.monotonic() - self._first_at
