"""A child process that runs a worker's jobs: its start, the talk with it, and its end.

It is forked by a server that has neither threads nor files open, never by this process.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import context, forkserver
from multiprocessing import process as processes
from multiprocessing.connection import wait
from typing import Any

from queue_max import forking
from queue_max.exceptions import ProcessDiedError, QueueError
from queue_max.workers import child
from queue_max.workers.parcels import Answer, Order, Outcome, Question, SentError
from queue_max.workers.running import RunningJob

START_PATIENCE = 60.0
"""Seconds in which it has to be ready: it imports the module of the worker's function."""

GOODBYE = 1.0
"""Seconds that it has to end by itself in, when there is nothing left to do."""

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

_PRELOADED = [child.__name__, "queue_max.cli"]
"""What children need; the latter where it is the program, which they import as such."""

_SIGNALS = {int(each): each.name for each in signal.Signals}

_lock = forking.lock()
"""One thread at a time: of two that ask for the end of a process, one could miss its code."""


class ChildProcess:
    """A process of its own, for one job at a time.

    It calls a function, which comes pickled, and opens the queue by its options if need be.
    Raises QueueError where it cannot be made ready for that.
    """

    def __init__(self, function: bytes, queue: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self._running: RunningJob | None = None
        self._is_gone = False
        self._pidfd: int | None = None
        self._connection, theirs = multiprocessing.Pipe()
        end, self._lifeline = multiprocessing.Pipe(duplex=False)
        forking.in_child(self._forget)
        try:
            with theirs, end, _lock:
                self._process = _started(theirs, end, function, queue)
                _living.add(self)
        except BaseException:
            self._let_go()
            raise
        self._pidfd = _pidfd_of(self._process)
        self._await_ready()

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._is_gone or bool(wait([self._end], 0))

    def run(self, order: Order, running: RunningJob) -> Outcome:
        """Have a job run, and answer what it asks; told to stop, it is killed with its process.

        Raises ProcessDiedError when the process ends. After any error it is gone.
        """
        try:
            with self._serving(running):
                return self._talk(order, running)
        except (EOFError, OSError):
            raise ProcessDiedError(f"its process {_words(self.kill())}") from None
        except BaseException:
            self.kill()
            raise

    def close(self) -> None:
        """Let the process end by itself, if it does so in a moment."""
        if self._is_gone:
            return
        self._connection.close()
        if not wait([self._end], GOODBYE):
            self._strike()
        self._reap()

    def kill(self) -> int | None:
        """End the process at once, and what it has started; gives its exit code, if known."""
        self._strike()
        return self._reap()

    @property
    def _end(self) -> int:
        """What can be waited for. Multiprocessing's own is ready, too, when the server dies."""
        return self._process.sentinel if self._pidfd is None else self._pidfd

    def _await_ready(self) -> None:
        if not wait([self._connection, self._end], START_PATIENCE):
            self.kill()
            raise QueueError(f"a child process was not ready within {START_PATIENCE:g} s")
        try:
            obstacle: SentError | None = self._receive()
        except (EOFError, OSError):
            how = _words(self.kill())
            raise QueueError(f"a child process {how} before it was ready; see stderr") from None
        if obstacle is not None:
            self.close()
            what = f"{obstacle.failure.error_type}: {obstacle.failure.message}"
            raise QueueError(f"a child process cannot load the function: {what}")

    @contextmanager
    def _serving(self, running: RunningJob) -> Iterator[None]:
        """Let the job be stopped within the block; what is told later harms no other job."""
        with self._lock:
            self._running = running
        running.on_stop(partial(self._stop, running))
        try:
            yield
        finally:
            with self._lock:
                self._running = None

    def _stop(self, running: RunningJob) -> None:
        with self._lock:
            if self._running is running:
                self._strike()

    def _talk(self, order: Order, running: RunningJob) -> Outcome:
        self._connection.send(order)
        while isinstance(message := self._receive(), Question):
            self._connection.send(_answer(running, message))
        outcome: Outcome = message
        return outcome

    def _receive(self) -> Any:
        """Wait for a message; EOFError or OSError when none comes any more."""
        wait([self._connection, self._end])  # what jobs started may keep the connection open
        if not self._connection.poll():
            raise EOFError
        return self._connection.recv()

    def _strike(self) -> None:
        if hasattr(os, "killpg"):
            assert self._process.pid is not None  # noqa: S101 - it has been started
            with suppress(ProcessLookupError, PermissionError):  # none, or of another user
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def _reap(self) -> int | None:
        with _lock:
            self._process.join(GOODBYE)
            code = self._process.exitcode
            _living.discard(self)
            if code is not None:
                self._process.close()
        self._is_gone = True
        self._let_go()
        return code

    def _let_go(self) -> None:
        self._connection.close()
        self._lifeline.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _forget(self) -> None:
        """Leave it to the parent, in a child of fork: there, no end of this process harms it."""
        self._let_go()
        _living.discard(self)
        processes._children.discard(getattr(self, "_process", None))  # type: ignore[attr-defined]


_living: "weakref.WeakSet[ChildProcess]" = weakref.WeakSet()


def _kill_all() -> None:
    """Leave none behind. Multiprocessing would wait for one that takes no heed of SIGTERM."""
    # For good: the threads of workers, which go on, are to start none, and to draw no conclusions.
    _lock.acquire()
    for each in list(_living):
        each._strike()


# After the import of multiprocessing.connection, so that it is called before what that registers.
atexit.register(_kill_all)


def _started(*arguments: Any) -> processes.BaseProcess:
    try:
        return _start(_METHOD, arguments)
    except ChildProcessError:  # the server belongs to the process this one was forked from
        return _start("spawn", arguments)


def _start(method: str, arguments: tuple[Any, ...]) -> processes.BaseProcess:
    chosen = multiprocessing.get_context(method)
    _preload(chosen)
    process: processes.BaseProcess = chosen.Process(  # type: ignore[attr-defined]
        target=child.serve, args=arguments, name="queue-max-child", daemon=True
    )
    process.start()
    return process


def _preload(chosen: context.BaseContext) -> None:
    """Have the server import ours once, beside what the program has asked it to.

    Not the main module, which it would import by default: it may open files, or start threads.
    """
    asked = forkserver._forkserver._preload_modules  # type: ignore[attr-defined]
    if _PRELOADED[0] not in asked:
        ours = [name for name in _PRELOADED if name in sys.modules]
        chosen.set_forkserver_preload(ours + [name for name in asked if name != "__main__"])


def _pidfd_of(process: processes.BaseProcess) -> int | None:
    try:
        return os.pidfd_open(process.pid or 0)
    except (AttributeError, OSError):  # not Linux, or it has ended already
        return None


def _answer(running: RunningJob, question: Question) -> Answer:
    try:
        asked = getattr(running, question.name)
        return Answer(asked(*question.arguments) if callable(asked) else asked)
    except Exception as error:
        return Answer(error=error)


def _words(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    name = _SIGNALS.get(-code, f"signal {-code}")
    return f"was killed by {name}" + (", for want of memory perhaps" if name == "SIGKILL" else "")
