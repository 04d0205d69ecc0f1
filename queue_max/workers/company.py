"""Letting a suspect run alone: a job that saw its worker die, and may have been the reason.

Were it to kill this process too, jobs that ran beside it would be charged, and in the end buried,
for nothing.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from queue_max import forking


class Abandoned(BaseException):
    """The thread was given up together with its job: another one has taken its place."""


class Company:
    """Who runs jobs in this process: many together, or one alone."""

    def __init__(self) -> None:
        self._reset()
        forking.in_child(self._reset)

    def _reset(self) -> None:
        """Begin with nobody: at first, and in a child of fork."""
        self._changed = threading.Condition()
        self._membership = _Membership(self)
        self._running = 0
        self._loners = 0
        self._is_alone = False

    def beside(self, before_waiting: Callable[[], object]) -> AbstractContextManager[None]:
        """Run beside others within the block; waits while one runs alone, or waits to."""
        self.join(before_waiting)
        return self._membership

    def alone(self) -> AbstractContextManager[None]:
        """Run with nobody else within the block; waits until all others have ended."""
        self.join_alone()
        return self._membership

    def join(self, before_waiting: Callable[[], object]) -> None:
        """Begin to run beside others, until `leave`."""
        with self._changed:
            while self._loners:
                before_waiting()
                self._changed.wait()
            self._running += 1

    def join_alone(self) -> None:
        """Begin to run with nobody else, until `leave`."""
        with self._changed:
            self._loners += 1
            self._changed.wait_for(lambda: not self._running)
            self._running += 1
            self._is_alone = True

    def leave(self) -> None:
        """Run no longer."""
        with self._changed:
            self._running -= 1
            if self._is_alone:
                self._is_alone = False
                self._loners -= 1
            if self._loners or not self._running:
                self._changed.notify_all()


class _Membership(AbstractContextManager[None]):
    """Leaves at the end of a block, unless that was done for the thread already."""

    def __init__(self, company: Company) -> None:
        self._company = company

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not Abandoned:
            self._company.leave()


in_this_process = Company()
