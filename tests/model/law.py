"""What becomes of a job whose attempt ended: the law, written down without the package's code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from queue_max.domain.retry import RetryPolicy
from queue_max.exceptions import Cancel, Permanent, Retry, Snooze

LONGEST = 3600.0
FIFTH = 0.2

ModelJob = dict[str, Any]


class HttpError(Exception):
    """As clients of HTTP raise it."""

    def __init__(self, status: int, retry_after: float = 0.0) -> None:
        super().__init__(f"answered {status}")
        self.status_code = status
        self.retry_after = retry_after


class WorkerDied:
    """Not raised by anybody: the worker is gone."""


@dataclass(frozen=True)
class Waits:
    """Waits for another attempt, for a number of seconds between two bounds."""

    low: float
    high: float
    is_counted: bool = True


@dataclass(frozen=True)
class Buried:
    """Fails for good."""


@dataclass(frozen=True)
class Cancelled:
    """Ends without a dead letter."""


Fate = Waits | Buried | Cancelled

ERRORS: Mapping[str, Callable[[], BaseException | str]] = {
    "a mishap": lambda: ValueError("not now"),
    "a mistake": lambda: KeyError("no such page"),
    "words": lambda: "no such page",
    "404": lambda: HttpError(404),
    "503": lambda: HttpError(503),
    "503, come in 500 s": lambda: HttpError(503, 500.0),
    "permanent": lambda: Permanent("never"),
    "retry": Retry,
    "retry at once": lambda: Retry(0),
    "retry in 7 s": lambda: Retry(7),
    "snooze": lambda: Snooze(50),
    "snooze for no time": lambda: Snooze(0),
    "cancel": Cancel,
}


@dataclass(frozen=True)
class Rule:
    """A retry policy, and what it means."""

    policy: RetryPolicy | None
    wait: Callable[[ModelJob], float]
    jitter: float = FIFTH
    may_help: Callable[[object], bool] = lambda error: getattr(error, "status_code", 0) != 404


def _doubling(job: ModelJob) -> float:
    return float(job["retry_delay"] * 2 ** job["attempts"])


RULES: Mapping[str, Rule] = {
    "the queue's": Rule(None, _doubling),
    "linear": Rule(RetryPolicy.linear(10), lambda job: 10.0 * job["attempts"]),
    "without jitter": Rule(
        RetryPolicy.exponential(5, jitter=0), lambda job: 5.0 * 2 ** job["attempts"], 0
    ),
    "now, then after 30 s": Rule(
        RetryPolicy.delays([0, 30]), lambda job: 0.0 if job["attempts"] == 1 else 30.0, 0
    ),
    "gives up on mistakes": Rule(
        RetryPolicy.exponential(give_up_on=LookupError),
        _doubling,
        may_help=lambda error: (
            not isinstance(error, LookupError) and getattr(error, "status_code", 0) != 404
        ),
    ),
    "only after mishaps": Rule(
        RetryPolicy.exponential(retry_on=ValueError),
        _doubling,
        may_help=lambda error: isinstance(error, ValueError | str | Retry | WorkerDied),
    ),
}


def fate(job: ModelJob, error: object, *, at_once: bool = False) -> Fate:
    """Tell what becomes of a job whose attempt ended with that error."""
    rule = RULES[job["rule"]]
    match error:
        case Cancel():
            return Cancelled()
        case Snooze(after=wait):
            return Waits(wait, wait, is_counted=False)
        case Permanent():
            return Buried()
    if not rule.may_help(error) or job["attempts"] == job["max_attempts"]:
        return Buried()
    if at_once:
        return Waits(0, 0)
    if isinstance(error, Retry) and error.after is not None:
        return Waits(error.after, error.after)
    wait, longer = rule.wait(job), getattr(error, "retry_after", 0.0)
    low, high = (
        max(longer, min(wait * factor, LONGEST)) for factor in (1 - rule.jitter, 1 + rule.jitter)
    )
    return Waits(low, high)
