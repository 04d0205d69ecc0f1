"""Windows: how many starts there were in any time, against what a rate allows."""

from bisect import insort
from collections.abc import Iterable, Sequence

from chaos.support.ledger import Fact

from queue_max.limits.rates import Rate

Moments = tuple[float, float]
"""A start lies between the two, in seconds."""


def starts_of(facts: Iterable[Fact]) -> list[Moments]:
    """Read when jobs were let start."""
    return sorted(
        (fact.about["asked"], fact.about["let"]) for fact in facts if fact.what == "began"
    )


def first_lines_of(facts: Iterable[Fact]) -> list[Moments]:
    """Read when the functions of jobs began: later by as long as the machine is busy."""
    return sorted((fact.at, fact.at) for fact in facts if fact.what == "began")


def largest_excess(starts: Sequence[Moments], rate: Rate) -> float:
    """Tell how many starts more than `rate * T + burst` lie in some window of T seconds, for sure.

    All windows are looked at; at most 0 where the rate was kept.
    """
    excess, ends = -float("inf"), list[float]()
    for begin, end in sorted(starts, reverse=True):
        insort(ends, end)
        per_second, room = rate.number / rate.seconds, 1 - rate.burst
        for before, at in enumerate(ends):
            excess = max(excess, before + room - per_second * (at - begin))
    return excess


def share_used(starts: Sequence[Moments], rates: Iterable[Rate]) -> float:
    """Tell how much of the rates was used, once the bursts were over, until few jobs were left."""
    moments = [let for _asked, let in starts]
    first, last = begin_of_steady(rates), len(moments) * 9 // 10
    per_second = min(rate.number / rate.seconds for rate in rates)
    return (last - first) / (moments[last] - moments[first]) / per_second


def begin_of_steady(rates: Iterable[Rate]) -> int:
    """Tell after how many starts no burst is left, if the rates were used."""
    return 2 * max(rate.burst for rate in rates)
