"""No SQLite file is open while a process forks.

SQLite remembers in memory which locks a process has on a file. A child of fork would trust that
memory and take none itself, so that its commits are lost when the parent closes the file
(https://sqlite.org/howtocorrupt.html, section 2.6).
"""

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What has files open."""

    def close_for_fork(self) -> None:
        """Close them, and let nobody open any until `go_on`."""

    def go_on(self) -> None:
        """Open them again when needed, in the parent."""

    def open_anew(self) -> None:
        """Begin without any, in the child."""


_watched: "weakref.WeakSet[Forkable]" = weakref.WeakSet()
_closed: list[Forkable] = []


def watch(forkable: Forkable) -> None:
    """Have its files closed whenever this process forks."""
    _watched.add(forkable)


def _before() -> None:
    for each in list(_watched):
        each.close_for_fork()
        _closed.append(each)


def _after_in_parent() -> None:
    while _closed:
        _closed.pop().go_on()


def _after_in_child() -> None:
    while _closed:
        _closed.pop().open_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
