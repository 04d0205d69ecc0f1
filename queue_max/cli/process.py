"""The life of a worker process: it runs jobs until a signal, or until it ends by itself."""

import math
import os
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

from queue_max.cli import lifeline, output
from queue_max.cli.base import FAILURE, GRACE_OVER, Fault
from queue_max.cli.endings import Endings
from queue_max.cli.lifeline import Lifeline
from queue_max.cli.signals import LOOK_EVERY, Signals
from queue_max.exceptions import QueueError
from queue_max.workers.pool import WorkerPool
from queue_max.workers.worker import WorkerState

STATS_EVERY = 60.0  # seconds

MOMENT = 1.0
"""Seconds that workers without a job are given to end, when the grace of the others is over."""


class WorkerProcess:
    """Runs a pool of workers in this process, and says what becomes of it.

    - `grace`: seconds that running jobs have, from the first signal on.
    - `line`: leads to the supervisor, where there is one; its death counts as a first signal.
    """

    def __init__(
        self,
        pool: WorkerPool,
        endings: Endings,
        *,
        grace: float = math.inf,
        line: Lifeline | None = None,
    ) -> None:
        self._pool = pool
        self._endings = endings
        self._grace = grace
        self._line = line
        self._name = f"[{os.getpid()}] " if line else ""
        self._signals = Signals()

    def say(self, words: str) -> None:
        """Tell the person at the terminal, where several processes may speak."""
        output.say(f"  {self._name}{words}")

    def run(self) -> None:
        """Run jobs until the end; some ends leave the program with an exit code of their own."""
        if self._line is not None:
            self._line.when_it_ends(self._be_alone)
            self._line.tell(lifeline.BEGUN)
        self._pool.start_all()
        reason = self._wait_for_an_end()
        for each in self._pool.workers:
            each.request_stop()
        self.say(f"Stopping{reason}: running jobs {self._may()}. A second signal takes them back.")
        self._wait_for_jobs()
        self._pool.stop_all(timeout=None)  # what was claimed and not begun goes back
        self._say_stats()
        if any(each.state == WorkerState.ERROR for each in self._pool.workers):
            raise Fault("A worker ended by an error of its own; see the log.", FAILURE)

    def _be_alone(self) -> None:
        self.say("The supervisor is gone.")
        if not self._signals.received:
            self._signals.note(signal.SIGTERM)

    def _wait_for_an_end(self) -> str:
        """Wait for it; tells in words why the process ends, if it is by itself."""
        stats_at = time.monotonic() + STATS_EVERY
        while not self._signals.wait_for(1, LOOK_EVERY):
            if reason := self._endings.reason(self._pool):
                if self._line is not None and self._endings.limit_reached():
                    self._line.tell(lifeline.AT_LIMIT)
                return f", {reason}"
            if time.monotonic() >= stats_at:
                self._say_stats()
                stats_at = time.monotonic() + STATS_EVERY
        return ""

    def _may(self) -> str:
        return "may end" if self._grace == math.inf else f"have {self._grace:g} s to end"

    def _wait_for_jobs(self) -> None:
        while any(each.is_running for each in self._pool.workers):
            if self._signals.wait_for(2, LOOK_EVERY):
                self._leave(128 + self._signals.received[-1])
            if self._signals.since_first() >= self._grace and not self._end_in_a_moment():
                self._leave(GRACE_OVER)

    def _end_in_a_moment(self) -> bool:
        """Tell whether no job runs; then all workers have ended."""
        if any(each.get_current_job() for each in self._pool.workers):
            return False
        return self._pool.stop_all(MOMENT)

    def _leave(self, code: int) -> NoReturn:
        """End the process although jobs run: their threads cannot be ended otherwise."""
        taken = 0
        for each in self._pool.workers:
            try:
                taken += each.hand_back()
            except QueueError as error:
                self.say(f"Not taken back, the job is free when its lease is over: {error}")
        self.say(f"Took {taken} running job(s) back; what had no attempt left has failed.")
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # it may be closed, or nobody reads it any more
                stream.flush()
        os._exit(code)

    def _say_stats(self) -> None:
        try:
            queue = self._pool.workers[0].queue.get_stats()
        except QueueError as error:
            self.say(f"[Stats] {error}")
            return
        totals = self._pool.get_stats()
        self.say(
            f"[Stats] Pending: {queue['pending']} | Processed: {totals['total_processed']} | "
            f"Failed: {totals['total_failed']} | Circuit: {queue['circuit_state']}"
        )
