"""Schedules: when jobs of a task are stored by themselves, and what becomes of missed times."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from queue_max import checks
from queue_max.domain.clock import to_text
from queue_max.domain.payload import check_job, to_json
from queue_max.domain.retry import RetryPolicy
from queue_max.domain.rhythms import Cron, Interval, Rhythm, check_cron, check_interval, zone
from queue_max.domain.tasks import FIRST_VERSION
from queue_max.exceptions import ConfigurationError

GRACE = timedelta(seconds=60)
"""How late a tick may be that is not missed."""

KEY_KEPT = 7 * 86_400.0
"""Seconds for which the job of a tick is known for its own, so that no second one is stored."""

MAX_NAME = 200
DEFAULT_CAP = 100
MAX_CAP = 1000

OPTIONS = frozenset(
    {
        *("pagina_id", "priority", "max_retries", "retry_delay", "retry", "keep_result", "timeout"),
        *("queue", "concurrency_key", "rate_key", "breaker"),
    }
)
"""What a schedule may say of its jobs, by the names that `enqueue` has for it."""

Choice = TypeVar("Choice", bound=StrEnum)


class Misfire(StrEnum):
    """What becomes of ticks that were missed."""

    SKIP = "skip"
    """None of them is fired."""
    ONCE = "once"
    """One job stands for all: that of the latest."""
    ALL = "all"
    """Each is fired, the oldest first; of too many the newest."""


class Overlap(StrEnum):
    """What becomes of a tick while the job of the last one has not ended."""

    ALLOW = "allow"
    SKIP = "skip"


class Due(NamedTuple):
    """What is to be done by now."""

    ticks: Sequence[datetime]
    """Those to be fired, the oldest first."""
    next_at: datetime
    """The one that comes then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """What is declared of a schedule, and checked."""

    name: str
    task: str
    payload: Mapping[str, Any]
    interval: float | None
    """Seconds; None where there is a cron expression."""
    cron: str | None
    tz: str
    misfire: Misfire
    misfire_cap: int
    """How many missed ticks are fired at most, where all are."""
    overlap: Overlap
    options: Mapping[str, Any]
    """What it says of its jobs, see OPTIONS; a retry policy as it is stored."""

    def first_after(self, moment: datetime) -> datetime:
        """Give the first tick of a schedule that begins then."""
        return self.rhythm(moment).next_after(moment)

    def rhythm(self, phase: datetime) -> Rhythm:
        """Give its ticks, one of which is at `phase` where they come by an interval."""
        if self.interval is not None:
            return Interval(self.interval, phase)
        return Cron(str(self.cron), self.tz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(NewSchedule):
    """A schedule as it is stored; moments are in UTC."""

    is_paused: bool
    next_at: datetime
    """The tick that comes next, or is due; of a paused one it may be long over."""
    last_at: datetime | None
    """The last tick that was fired."""
    last_job: str | None
    """The key of its job."""
    created_at: datetime
    updated_at: datetime
    """When it was declared, changed, paused or resumed."""
    revision: int
    """Rises with each change, its ticks included."""

    def is_as(self, new: NewSchedule) -> bool:
        """Tell whether it is as it is declared now."""
        return all(getattr(self, each.name) == getattr(new, each.name) for each in fields(new))

    def next_as(self, new: NewSchedule, now: datetime) -> datetime:
        """Give the next tick once it is changed: another one where the rhythm is another.

        No tick comes twice, not even when the clock was put back.
        """
        if (self.interval, self.cron, self.tz) == (new.interval, new.cron, new.tz):
            return self.next_at
        return new.first_after(now if self.last_at is None else max(now, self.last_at))

    def next_after(self, moment: datetime) -> datetime:
        """Give the first tick after a moment."""
        return self.rhythm(self.next_at).next_after(moment)

    def next_from(self, now: datetime) -> datetime:
        """Give the tick that comes next, whatever is due or was missed by now."""
        return self.next_at if self.next_at > now else self.next_after(now)

    def preview(self, number: int, now: datetime) -> Sequence[datetime]:
        """Give the next ticks, so many."""
        ticks = [self.next_from(now)]
        while len(ticks) < number:
            ticks.append(self.next_after(ticks[-1]))
        return ticks

    def due_ticks(self, now: datetime) -> Due:
        """Tell what is to be fired by now, and what comes next.

        A tick is missed when it is more than 60 seconds late, or when the next one is due too.
        """
        if now < self.next_at:
            return Due((), self.next_at)
        rhythm = self.rhythm(self.next_at)
        count = self.misfire_cap if self.misfire is Misfire.ALL else 1
        ticks = rhythm.newest(self.next_at, now, count)
        if self.misfire is Misfire.SKIP:
            ticks = [tick for tick in ticks if now - tick <= GRACE]
        return Due(ticks, rhythm.next_after(now))

    def job(self, tick: datetime | None = None) -> dict[str, Any]:
        """Describe a job by the arguments of `enqueue`; by its key, that of a tick is one only."""
        described = {"payload": self.payload, "task": self.task, **self.options}
        if "retry" in self.options:
            described["retry"] = RetryPolicy.from_json(json.dumps(self.options["retry"]))
        if tick is not None:
            key = f"schedule:{self.name}:{to_text(tick)}"
            described |= {"unique_key": key, "unique_for": KEY_KEPT}
        return described

    def to_dict(self) -> dict[str, Any]:
        """Give all facts as plain values."""
        facts = {name: getattr(self, name) for name in _FACTS}
        return {
            name: to_text(value) if isinstance(value, datetime) else value
            for name, value in facts.items()
        }


_FACTS = [each.name for each in fields(Schedule)]


def check_schedule(  # noqa: PLR0913 - all that is declared of one
    name: object,
    task: str,
    *,
    interval: object = None,
    cron: object = None,
    tz: str = "UTC",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    payload: object = None,
    misfire: object = Misfire.ONCE,
    misfire_cap: object = DEFAULT_CAP,
    overlap: object = Overlap.ALLOW,
    options: Mapping[str, Any],
) -> NewSchedule:
    """Check what is declared of a schedule.

    Raises ConfigurationError that names the value, and InvalidJobError where that is of its jobs.
    """
    if (interval is None) == (cron is None):
        raise ConfigurationError("give either interval, in seconds, or cron, such as '0 2 * * *'")
    if interval is not None and tz != "UTC":
        raise ConfigurationError(f"tz={checks.shown(tz)}: is for cron; leave it out at an interval")
    zone(tz)
    checks.instance("task", task, str, "the name of a task")
    checked = _check_options(task, options)
    return NewSchedule(
        name=_check_name(name),
        task=task,
        payload=_check_payload(task, args, kwargs, payload),
        interval=None if interval is None else check_interval(interval),
        cron=None if cron is None else check_cron(cron),
        tz=tz,
        misfire=_check_choice("misfire", misfire, Misfire),
        misfire_cap=checks.whole("misfire_cap", misfire_cap, at_least=1, at_most=MAX_CAP),
        overlap=_check_choice("overlap", overlap, Overlap),
        options=checked,
    )


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise ConfigurationError(
            f"name={checks.shown(name)}: should be a str of 1 to {MAX_NAME} printable characters"
        )
    return name


def _check_payload(
    task: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None, payload: object
) -> dict[str, Any]:
    """Give the payload as it is once stored; without one, that of a call of the task."""
    checks.instance("args", args, (list, tuple), "a list")
    checks.instance("kwargs", kwargs, (Mapping, type(None)), "a dict")
    if payload is None:
        call = {"args": list(args), "kwargs": dict(kwargs or {})}
        payload = {"task": task, "version": FIRST_VERSION} | call
    elif args or kwargs:
        raise ConfigurationError("payload: is given in place of args and kwargs, not beside them")
    stored: dict[str, Any] = json.loads(to_json(payload))
    return stored


def _check_options(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options that say something, as they are once stored."""
    if unknown := options.keys() - OPTIONS:
        raise ConfigurationError(
            f"unknown {', '.join(sorted(map(repr, unknown)))}; there are "
            f"{', '.join(sorted(OPTIONS))}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    described: dict[str, Any] = {"task": task, "max_retries": 0} | given
    job = check_job({}, **described)
    # As they were checked, where the job has them by that name.
    checked = {name: getattr(job, name, value) for name, value in given.items()}
    if job.retry_policy is not None:
        checked["retry"] = json.loads(job.retry_policy)
    return checked


def _check_choice(name: str, value: Any, kind: type[Choice]) -> Choice:
    if value not in tuple(kind):
        raise ConfigurationError(
            f"{name}={checks.shown(value)}: should be one of {', '.join(kind)}"
        )
    return kind(value)
