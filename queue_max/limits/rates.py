"""Rates: how many tokens in what time, and how many at once; read from texts such as "10/s"."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple, Self

from queue_max import checks
from queue_max.exceptions import ConfigurationError

NANOSECONDS = 10**9

PATIENCE = NANOSECONDS // 10
"""Nanoseconds for which a token that was reserved may be used, at most, and taken ahead."""

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NAMES = {
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hour": "h",
    "day": "d",
}
_FORM = re.compile(
    r"\s*(?P<number>[0-9][0-9_]*)\s*/\s*(?P<times>[0-9]*)\s*(?P<unit>[a-z]+)"
    r"(?:\s+burst\s+(?P<burst>[0-9][0-9_]*))?\s*"
)
_HOW = 'should be as "10/s", "100/15m", "1000/d burst 50", or several of them'


class Rate(NamedTuple):
    """So many tokens in so many seconds; a bucket of them holds `burst`."""

    number: int
    seconds: int
    burst: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "10/s", "100/15m" or "1000/d burst 50"; a number alone is for a minute.

        Raises ConfigurationError for what is none.
        """
        if text.strip().isdecimal():
            return cls.of(int(text), 60)
        found = _FORM.fullmatch(text)
        unit = found and _UNITS.get(_NAMES.get(found["unit"].removesuffix("s"), found["unit"]))
        if not found or not unit:
            raise ConfigurationError(f"rate {checks.shown(text)}: {_HOW}")
        return cls.of(
            int(found["number"]),
            int(found["times"] or 1) * unit,
            int(found["burst"]) if found["burst"] else None,
        )

    @classmethod
    def of(cls, number: int, seconds: int, burst: int | None = None) -> Self:
        """Check the numbers; the burst is the whole number of tokens, if nothing is said."""
        checks.whole("rate", number, at_least=1)
        checks.whole("seconds of a rate", seconds, at_least=1, at_most=366 * 86_400)
        if burst is not None:
            checks.whole("burst", burst, at_least=1)
        return cls(number, seconds, number if burst is None else burst)

    @property
    def interval(self) -> float:
        """Seconds from one token to the next."""
        return self.seconds / self.number

    def __str__(self) -> str:
        unit = next(name for name in "dhms" if self.seconds % _UNITS[name] == 0)
        times = self.seconds // _UNITS[unit]
        text = f"{self.number}/{'' if times == 1 else times}{unit}"
        return text if self.burst == self.number else f"{text} burst {self.burst}"


Rates = tuple[Rate, ...]
"""All of them hold at once, the shortest time first; empty for no limit."""

Given = float | str | Rate | Iterable[str | Rate] | None


def rates_of(given: Given) -> Rates:
    """Read rates: a number for a minute, a text, several of them; inf, None or "none" for no limit.

    Raises ConfigurationError for anything else, and for two rates of the same time.
    """
    if given is None or given == math.inf or given == "none":
        return ()
    if isinstance(given, int | float):
        return (Rate.of(int(checks.limit("rate", given)), 60),)
    if isinstance(given, str):
        given = given.split(",")
    elif isinstance(given, Rate):
        given = (given,)
    elif not isinstance(given, Iterable):
        raise ConfigurationError(f"rate {checks.shown(given)}: {_HOW}")
    rates = sorted(map(_rate, given), key=lambda rate: rate.seconds)
    if not rates or len({rate.seconds for rate in rates}) < len(rates):
        raise ConfigurationError(
            f"rate {checks.shown(given)}: should be at least one, and no two for the same time"
        )
    return tuple(rates)


def text_of(rates: Rates) -> str:
    """Write rates as `rates_of` reads them."""
    return ", ".join(map(str, rates)) or "none"


def lags(rates: Iterable[Rate]) -> tuple[int, int]:
    """Tell for how long a token that is reserved may be used, and how far ahead it may be taken.

    In nanoseconds. With a burst of 1, both are 0: a token is there, and used, at once.
    """
    spare = ((rate.burst - 1) * rate.seconds * NANOSECONDS // (2 * rate.number) for rate in rates)
    usable = min(PATIENCE, *spare)
    return usable, usable


def _rate(given: object) -> Rate:
    if isinstance(given, Rate):
        return Rate.of(*given)
    if isinstance(given, str):
        return Rate.parse(given)
    raise ConfigurationError(f"rate {checks.shown(given)}: {_HOW}")
