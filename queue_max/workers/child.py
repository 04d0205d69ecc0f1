"""What runs in a child process: one job's function after the other, for one worker."""

import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from multiprocessing.connection import Connection
from typing import Any

from queue_max.domain.job import JobResult
from queue_max.exceptions import ConfigurationError, LeaseLostError
from queue_max.queue import Queue
from queue_max.workers.execution import run
from queue_max.workers.parcels import Answer, Order, Outcome, Question, SentError
from queue_max.workers.repertoire import Repertoire
from queue_max.workers.running import Run, RunningJob

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_importing = threading.Lock()
"""Held while what jobs need is imported."""


def serve(
    connection: "Connection[Any, Any]",
    lifeline: "Connection[Any, Any]",
    function: bytes,
    queue: Mapping[str, Any],
) -> None:
    """Run the jobs that come along a connection, until its other end is closed.

    First it says that it is ready, by None, or what keeps it from that. The queue that jobs come
    from is opened, with these options, when one asks for it.
    """
    _stand_alone()
    die_with(lifeline)
    try:
        with _importing:
            repertoire = Repertoire(pickle.loads(function))  # noqa: S301 - from our parent
    except BaseException as error:  # user code: modules are imported
        connection.send(SentError.of(error))
        return
    connection.send(None)
    line = Line(connection, queue)
    while (order := line.next_order()) is not None:
        running = ChildJob(order, line)
        context = copy_context()
        context.run(running.begin)
        outcome = context.run(run, _call_of(order, repertoire), running)
        _flush()
        try:
            line.end(running, outcome)
        except OSError as error:  # the function has closed what is not its own
            sys.exit(f"the outcome of job {order.job.key} cannot be told: {error}")
    line.close()


def is_importing() -> bool:
    """Tell whether this process just imports what it is to call, as a child of another."""
    if _importing.locked():
        return True
    return getattr(multiprocessing.current_process(), "_inheriting", False)  # the main module


class Line:
    """The way to the worker, and to the queue its jobs come from.

    One question at a time: threads that a function starts may ask, too.
    """

    def __init__(self, connection: "Connection[Any, Any]", queue: Mapping[str, Any]) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._options = queue
        self._queue: Queue | None = None

    def queue(self) -> Queue:
        """Give the queue; it is opened when it is first asked for."""
        with self._lock:
            if self._queue is None:
                self._queue = Queue(**self._options)
            return self._queue

    def next_order(self) -> Order | None:
        """Wait for a job; None when no further one comes."""
        try:
            order: Order = self._connection.recv()
        except (EOFError, OSError):
            return None
        return order

    def ask(self, running: Run, name: str, *arguments: Any) -> Any:
        """Ask something of the job that runs, as the worker has it."""
        with self._lock:
            if running.has_ended:  # threads that its function has left behind may ask
                raise LeaseLostError(running.job.id, running.job.shard_id, running.job.fence)
            self._connection.send(Question(name, arguments))
            answer: Answer = self._connection.recv()
        if answer.error is not None:
            raise answer.error
        return answer.value

    def end(self, running: Run, outcome: JobResult) -> None:
        """Tell how a job has ended."""
        parcel = Outcome.of(outcome)
        with self._lock:
            running.end()
            self._connection.send(parcel)

    def close(self) -> None:
        """Close what was opened."""
        if self._queue is not None:
            self._queue.close()


class ChildJob(RunningJob):
    """The job that runs, as its function sees it here: what it asks, the worker answers."""

    __slots__ = ("_line",)

    def __init__(self, order: Order, line: Line) -> None:
        Run.__init__(self, order.job, order.timeout)
        self.deadline = self.begun + order.time_left
        self._line = line

    @property
    def queue(self) -> Queue:  # type: ignore[override]  # opened by few jobs
        """Where it came from, as this process sees it."""
        return self._line.queue()

    @property
    def is_cancelled(self) -> bool:
        """Whether what the function does counts no more; asks the database each time."""
        try:
            return bool(self._line.ask(self, "is_cancelled"))
        except LeaseLostError:
            return True

    def update_progress(self, percent: float) -> None:
        """Note how far the job is, from 0 to 100; LeaseLostError when it counts no more."""
        self._line.ask(self, "update_progress", percent)

    def heartbeat(self) -> None:
        """Prolong the lease now; LeaseLostError when it is lost. Workers do so by themselves."""
        self._line.ask(self, "heartbeat")


def die_with(lifeline: "Connection[Any, Any]") -> None:
    """End this process, and what it started, once the other end of a pipe is closed.

    Where the kernel can do that it does, also while C code keeps the interpreter to itself; else
    a thread does, which has to wait for that.
    """
    if not _is_killed_with(lifeline.fileno()):
        threading.Thread(
            target=_leave_with, args=[lifeline], name="queue-max-lifeline", daemon=True
        ).start()
    if lifeline.poll():  # nothing is ever sent: it was closed before
        _leave()


def _stand_alone() -> None:
    """Be out of reach of what is typed at the terminal: it is for the worker to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(os, "setsid"):
        os.setsid()  # what jobs start can be killed with them
    multiprocessing.current_process().daemon = False  # jobs may start processes


def _is_killed_with(pipe: int) -> bool:
    """Have the kernel send SIGKILL when the other end of a pipe is closed; False if it cannot."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):  # not Linux
        return False
    return True


def _leave_with(lifeline: "Connection[Any, Any]") -> None:
    lifeline.poll(None)
    _leave()


def _leave() -> None:
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _call_of(order: Order, repertoire: Repertoire) -> Callable[[RunningJob], Any]:
    def call(running: RunningJob) -> Any:
        if order.module is not None:
            with _importing:
                importlib.import_module(order.module)
            if not repertoire.can_run(order.job):
                raise ConfigurationError(
                    f"importing {order.module} in a child process does not define the task "
                    f"{order.job.task}, or not this version of it"
                )
        return repertoire.call(running)

    return call


def _flush() -> None:
    """Have it seen what the function wrote: the process may be killed before it ends by itself."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # user code may have closed it, or put anything in its place
            stream.flush()
