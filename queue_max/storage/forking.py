"""No SQLite file is open while a process forks.

SQLite remembers in memory which locks a process has on a file. A child of fork would trust that
memory and take none itself, so that its commits are lost when the parent closes the file
(https://sqlite.org/howtocorrupt.html, section 2.6). So a fork waits until no thread works with a
file, keeps all from beginning, and has every file closed.
"""

import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds a fork waits for other threads; then it goes on, and says so."""


class Forkable(Protocol):
    """What has files open."""

    def close_for_fork(self) -> None:
        """Close them; no other thread works with them meanwhile."""

    def open_anew(self) -> None:
        """Begin without any, in the child."""


class _Gate:
    """Lets threads work with files, or one of them fork; who is inside may go further in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: set[int] = set()
        self._forking: int | None = None

    @contextmanager
    def inside(self) -> Iterator[None]:
        me = threading.get_ident()
        if me in self._inside:
            yield
            return
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._forking in {None, me})
                self._inside.add(me)
            yield
        finally:
            with self._changed:
                self._inside.discard(me)
                if self._forking is not None:
                    self._changed.notify_all()

    def shut(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._forking is None, PATIENCE)
            self._forking = me
            if not self._changed.wait_for(lambda: self._inside <= {me}, PATIENCE):
                logger.error("forking although other threads work with the files of a queue")

    def open(self) -> None:
        with self._changed:
            self._forking = None
            self._changed.notify_all()


_gate = _Gate()
_watched: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def watch(forkable: Forkable) -> None:
    """Have its files closed whenever this process forks."""
    _watched.add(forkable)


@contextmanager
def working_with_files() -> Iterator[None]:
    """Keep the process from forking within the block; may be nested."""
    with _gate.inside():
        yield


def _before() -> None:
    _gate.shut()
    for each in list(_watched):
        try:
            each.close_for_fork()
        except Exception:
            logger.exception("a file of a queue could not be closed before a fork")


def _after_in_parent() -> None:
    _gate.open()


def _after_in_child() -> None:
    global _gate
    _gate = _Gate()
    for each in list(_watched):
        each.open_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
