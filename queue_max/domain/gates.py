"""Gates: what holds jobs back that are due, and how a held job names it.

A job that may not run is set aside: `scheduled`, with `held_by` naming the gate, so that no claim
walks over it. All that one gate holds stands in a line, in the order in which it would be taken.
"""

from typing import NamedTuple

_PAUSE, _BREAKER, _RATE, _LIMIT, _KEY = "pause:", "breaker:", "rate:", "limit:", "key:"


class Line(NamedTuple):
    """The jobs that one gate holds: they are taken from there when it lets one pass."""

    gate: str


def of_pause(scope: str) -> str:
    """Name the gate that holds the jobs of a task while it is paused."""
    return _PAUSE + scope


def of_breaker(name: str) -> str:
    """Name the gate that holds jobs behind an open circuit breaker."""
    return _BREAKER + name


def of_rate(scope: str) -> str:
    """Name the gate that holds jobs of a scope until there are tokens."""
    return _RATE + scope


def of_limit(scope: str) -> str:
    """Name the gate that holds jobs of a scope while as many run as may."""
    return _LIMIT + scope


def of_key(key: str) -> str:
    """Name the gate that holds the jobs of a concurrency key that are not its first ones."""
    return _KEY + key


def paused_scope(gate: str) -> str | None:
    """Tell which scope is paused, where that is the gate."""
    return _rest(gate, _PAUSE)


def breaker(gate: str) -> str | None:
    """Tell which breaker is open, where that is the gate."""
    return _rest(gate, _BREAKER)


def rated_scope(gate: str) -> str | None:
    """Tell which scope has no tokens, where that is the gate."""
    return _rest(gate, _RATE)


def limited_scope(gate: str) -> str | None:
    """Tell in which scope as many jobs run as may, where that is the gate."""
    return _rest(gate, _LIMIT)


def concurrency_key(gate: str) -> str | None:
    """Tell which concurrency key has as many jobs as may run, where that is the gate."""
    return _rest(gate, _KEY)


def in_words(gate: str) -> str:
    """Say in words what holds the jobs that stand before a gate of this module."""
    for kind, words in (
        (_PAUSE, "a pause of {}"),
        (_BREAKER, "the open circuit breaker {}"),
        (_RATE, "the rate of {}"),
        (_LIMIT, "the number of jobs of {} that run at once"),
        (_KEY, "others of the concurrency key {}"),
    ):
        if (rest := _rest(gate, kind)) is not None:
            return words.format(rest)
    return gate


def is_for_a_time(gate: str) -> bool:
    """Tell whether a gate opens by itself, or by hand: not one that waits for another worker."""
    return gate.startswith((_PAUSE, _BREAKER, _RATE, _LIMIT, _KEY))


def is_line(gate: str) -> bool:
    """Tell whether jobs that a gate holds are taken from there, when it lets them pass."""
    return gate.startswith((_PAUSE, _BREAKER, _RATE, _LIMIT))


def _rest(gate: str, kind: str) -> str | None:
    return gate.removeprefix(kind) if gate.startswith(kind) else None
