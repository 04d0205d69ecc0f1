"""What has to be seen to when a process forks, as gunicorn and multiprocessing do.

SQLite remembers in memory which locks a process has on a file. A child of fork would trust that
memory and take none itself, so that its commits are lost when the parent closes the file
(https://sqlite.org/howtocorrupt.html, section 2.6). So a fork waits until no thread works with a
file, keeps all from beginning, and has every file closed.

Of all threads, the child has only the one that forked: locks of the others would never be
released there, and what they did is not done.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds a fork waits for other threads; then it goes on, and says so."""


class Files(Protocol):
    """What has files open."""

    def close_for_fork(self) -> None:
        """Close them; no other thread works with them meanwhile."""

    def open_anew(self) -> None:
        """Begin without any, in the child."""


class _Gate:
    """Lets threads work with files, or one of them fork; who is inside may go further in.

    The lock is taken as such, not through the condition: that leaves it by code in Python, where
    a Ctrl-C may come before it is released.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside: set[int] = set()
        self._forking: int | None = None

    @contextmanager
    def inside(self) -> Iterator[None]:
        me = threading.get_ident()
        if me in self._inside:
            yield
            return
        try:
            with self._lock:
                if self._forking is not None:  # seldom
                    self._changed.wait_for(lambda: self._forking in {None, me})
                self._inside.add(me)
            yield
        finally:
            with self._lock:
                self._inside.discard(me)
                if self._forking is not None:
                    self._changed.notify_all()

    def shut(self) -> None:
        me = threading.get_ident()
        with self._lock:
            self._changed.wait_for(lambda: self._forking is None, PATIENCE)
            self._forking = me
            if not self._changed.wait_for(lambda: self._inside <= {me}, PATIENCE):
                logger.error("forking although other threads work with the files of a queue")

    def open(self) -> None:
        with self._lock:
            self._forking = None
            self._changed.notify_all()


_gate = _Gate()
_files: "weakref.WeakSet[Files]" = weakref.WeakSet()
_locks: "weakref.WeakSet[Any]" = weakref.WeakSet()
_resets: list["weakref.WeakMethod[Callable[[], None]]"] = []


def close_at_fork(files: Files) -> None:
    """Have files closed whenever this process forks; kept for as long as their owner lives."""
    _files.add(files)


def lock() -> threading.Lock:
    """Make a lock that is free in a child, whoever holds it in the parent."""
    made = threading.Lock()
    _locks.add(made)
    return made


def in_child(method: Callable[[], None]) -> None:
    """Have a bound method called in each child, for as long as its object lives."""
    _resets[:] = [each for each in _resets if each() is not None]
    _resets.append(weakref.WeakMethod(method))


@contextmanager
def working_with_files() -> Iterator[None]:
    """Keep the process from forking within the block; may be nested."""
    with _gate.inside():
        yield


def _before() -> None:
    _gate.shut()
    for each in list(_files):
        try:
            each.close_for_fork()
        except Exception:
            logger.exception("a file of a queue could not be closed before a fork")


def _after_in_parent() -> None:
    _gate.open()


def _after_in_child() -> None:
    global _gate
    _gate = _Gate()
    for made in list(_locks):
        made._at_fork_reinit()  # as threading and logging do with their own
    for each in list(_files):
        each.open_anew()
    for reset in _resets:
        if (method := reset()) is not None:
            method()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
