"""Rhythms: the moments at which a schedule is due, by an interval or in the form of cron."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile
from typing import Any, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from queue_max import checks
from queue_max.domain.clock import cut
from queue_max.exceptions import ConfigurationError

LONGEST = 315_360_000
"""Seconds of ten years, the longest interval."""

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_FIELDS = 5
_SOME_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
_MOMENT = timedelta(milliseconds=1)


class Rhythm(Protocol):
    """Moments in an endless row."""

    def next_after(self, moment: datetime) -> datetime:
        """Give the first one after a moment."""

    def newest(self, since: datetime, until: datetime, count: int) -> Sequence[datetime]:
        """Give the last ones from `since` to `until`, at most `count`, the oldest first."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many seconds; it keeps the phase of one tick for good."""

    seconds: float
    phase: datetime

    def next_after(self, moment: datetime) -> datetime:
        """Give the first tick after a moment."""
        return self.phase + ((moment - self.phase) // self._step + 1) * self._step

    def newest(self, since: datetime, until: datetime, count: int) -> Sequence[datetime]:
        """Give the last ticks from `since` to `until`, at most `count`, the oldest first."""
        last = self.next_after(until) - self._step
        count = min(count, (last - since) // self._step + 1)
        return [last - back * self._step for back in reversed(range(count))]

    @property
    def _step(self) -> timedelta:
        return timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a cron expression, in a time zone.

    When clocks are changed it does as Debian's cron does. What is due at a fixed time is due once
    that day: where the time is skipped, right after the gap; where it comes twice, the first
    time. Where the field of the minutes or of the hours begins with `*`, real time counts: hours
    that are skipped have no ticks, and those that come twice have theirs twice.
    """

    expression: str
    tz: str

    def next_after(self, moment: datetime) -> datetime:
        """Give the first tick after a moment; ConfigurationError when none comes in 50 years."""
        found = next(self._after(moment), None)
        if found is None:
            raise ConfigurationError(
                f"cron={checks.shown(self.expression)}: there is no such day in any month"
            )
        return found

    def newest(self, since: datetime, until: datetime, count: int) -> Sequence[datetime]:
        """Give the last ticks from `since` to `until`, at most `count`, the oldest first."""
        span = timedelta(minutes=count)  # they are never closer than a minute
        while True:
            begin = max(since, until - span)
            found = list(takewhile(lambda tick: tick <= until, self._after(begin - _MOMENT)))
            if len(found) >= count or begin == since:
                return found[-count:]
            span *= 2

    def _after(self, moment: datetime) -> Iterator[datetime]:
        fields = ALIASES.get(self.expression.lower(), self.expression)
        last = moment
        for tick in map(cut, CronSim(fields, moment.astimezone(zone(self.tz)))):
            if tick > last:  # it gives what falls into a gap, or was in the hour before, again
                yield tick
                last = tick


def check_interval(value: Any) -> float:
    """Give an interval in seconds, to the millisecond; ConfigurationError for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 1 <= value <= LONGEST:
        return round(float(value), 3)
    raise ConfigurationError(
        f"interval={checks.shown(value)}: should be a number of seconds from 1 to {LONGEST}, "
        "such as 300"
    )


def check_cron(value: object) -> str:
    """Give a cron expression in its plain form; ConfigurationError for what is none."""
    fault = ""
    if isinstance(value, str):
        expression = " ".join(value.split())
        fields = ALIASES.get(expression.lower(), expression)
        try:
            if len(fields.split()) == _FIELDS:
                CronSim(fields, _SOME_MOMENT)
                return expression
        except CronSimError as error:
            fault = f" ({error})"
        except ValueError:  # numbers of thousands of digits
            pass
    raise ConfigurationError(
        f"cron={checks.shown(value)}: should be five fields, minute, hour, day, month and weekday, "
        f"such as '30 2 * * MON-FRI', or one of {', '.join(ALIASES)}{fault}"
    )


def zone(name: object) -> tzinfo:
    """Give the time zone of that name; ConfigurationError when this system knows none."""
    if name == "UTC":
        return UTC
    try:
        if isinstance(name, str):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise ConfigurationError(
        f"tz={checks.shown(name)}: should be a time zone that this system knows, such as "
        "'Europe/Berlin'"
    )
