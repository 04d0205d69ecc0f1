"""Letting a suspect run alone: a job that saw its worker die, and may have been the reason.

Were it to kill this process too, jobs that ran beside it would be charged, and in the end buried,
for nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from queue_max import forking


class Company:
    """Who runs jobs in this process: many together, or one alone."""

    def __init__(self) -> None:
        self._reset()
        forking.in_child(self._reset)

    def _reset(self) -> None:
        """Begin with nobody: at first, and in a child of fork."""
        self._changed = threading.Condition()
        self._running = 0
        self._loners = 0

    def join(self, before_waiting: Callable[[], object]) -> None:
        """Begin to run beside others; waits while one runs alone, or waits to. Then `leave`."""
        with self._changed:
            while self._loners:
                before_waiting()
                self._changed.wait()
            self._running += 1

    def leave(self) -> None:
        """Run no longer."""
        with self._changed:
            self._running -= 1
            if self._loners or not self._running:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run with nobody else; waits until all others have ended."""
        with self._changed:
            self._loners += 1
            self._changed.wait_for(lambda: not self._running)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._loners -= 1
            self.leave()


in_this_process = Company()
