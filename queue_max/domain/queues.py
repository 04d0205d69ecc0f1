"""Named queues: which of them a worker takes jobs from, and in which order."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from queue_max import checks
from queue_max.domain.job import DEFAULT_QUEUE
from queue_max.exceptions import ConfigurationError

_LONGEST = 255
_MARKS = frozenset(",=*")
HEAVIEST = 1_000_000


def queue_name(value: object, *, error: type[ValueError] = ConfigurationError) -> str:
    """Give the value if it can be the name of a queue."""
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= _LONGEST
        or not value.isprintable()
        or value != value.strip()
        or _MARKS & set(value)
    ):
        raise error(
            f"queue={checks.shown(value)}: should be a str of 1 to {_LONGEST} printable "
            "characters, without a comma, = and *, and without space around it"
        )
    return value


@dataclass(frozen=True, slots=True)
class QueueChoice:
    """The queues that a worker takes jobs from: in this order, or by weight."""

    names: tuple[str, ...] = (DEFAULT_QUEUE,)
    weights: tuple[int, ...] | None = None
    """How often each comes first, beside the others; None: always in the order of the names."""

    @classmethod
    def of(cls, given: "Self | str | Iterable[str] | Mapping[str, int]") -> Self:
        """Read names, the first one first, or weights by name.

        As a text, "mail,default" or "mail=3,default=1". Raises ConfigurationError for what is
        neither, and for names that come twice.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            given = _parsed(given)
        elif not isinstance(given, Iterable):
            raise ConfigurationError(
                f"queues={checks.shown(given)}: should be names of queues, or a dict of weights"
            )
        names = tuple(map(queue_name, given))
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(
                f"queues={checks.shown(given)}: should name at least one queue, and none twice"
            )
        if not isinstance(given, Mapping):
            return cls(names)
        weights = (_weight(name, weight) for name, weight in given.items())
        return cls(names, tuple(weights))

    @classmethod
    def evenly(cls, names: Iterable[str]) -> Self:
        """Choose queues none of which is to come before the others."""
        unique = tuple(dict.fromkeys(names))
        return cls(unique, None if len(unique) == 1 else (1,) * len(unique))

    def order(self, rng: random.Random) -> Sequence[str]:
        """Give the names in the order in which they are asked this time.

        By weight it is a weighted sample without replacement: P. S. Efraimidis and P. G. Spirakis,
        "Weighted random sampling with a reservoir" (2006), algorithm A.
        """
        if self.weights is None:
            return self.names
        keys = {
            name: rng.random() ** (1 / weight)
            for name, weight in zip(self.names, self.weights, strict=True)
        }
        return sorted(self.names, key=keys.__getitem__, reverse=True)

    def __str__(self) -> str:
        if self.weights is None:
            return ",".join(self.names)
        return ",".join(f"{n}={w}" for n, w in zip(self.names, self.weights, strict=True))


def _parsed(text: str) -> "list[str] | dict[str, int]":
    parts = [part.strip() for part in text.split(",")]
    if not any("=" in part for part in parts):
        return parts
    weights = {}
    for part in parts:
        name, equals, weight = part.partition("=")
        if not equals or not weight.strip().isdecimal() or name.strip() in weights:
            raise ConfigurationError(
                f"queues={checks.shown(text)}: should be as mail,default or mail=3,default=1"
            )
        weights[name.strip()] = int(weight)
    return weights


def _weight(name: str, weight: int) -> int:
    return checks.whole(f"the weight of queue {name}", weight, at_least=1, at_most=HEAVIEST)
