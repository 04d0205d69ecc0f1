"""Scopes: what a limit or a pause is about; and which limits there are for each."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from queue_max import checks
from queue_max.exceptions import ConfigurationError
from queue_max.limits.rates import Rates

ALL = "all"
"""The scope of all jobs of a queue, in whichever of its named queues they are."""

QUEUE, TASK, KEY, SHARD = "queue:", "task:", "key:", "shard:"

_LIMITED = (QUEUE, TASK, KEY)
_PAUSED = (QUEUE, TASK, SHARD)


def of_queue(name: str) -> str:
    """Name the scope of a named queue."""
    return QUEUE + name


def of_task(name: str) -> str:
    """Name the scope of a task."""
    return TASK + name


def of_key(key: str) -> str:
    """Name the scope of a rate key, or of a concurrency key."""
    return KEY + key


def of_shard(number: int) -> str:
    """Name the scope of a shard."""
    return f"{SHARD}{number}"


def resuming(scope: str) -> str:
    """Name the command that lets a paused scope go on."""
    kind, _, name = scope.partition(":")
    return f"queue-max resume {name if kind + ':' == QUEUE else f'--{kind} {name}'}"


def paused_in_words(scope: str, reason: str | None) -> str:
    """Say that a scope is paused, and why."""
    return f"{scope} is paused{f': {reason}' if reason else ''}"


def check_limited(scope: object) -> str:
    """Give the value if it names what can be limited; raises ConfigurationError."""
    if scope == ALL:
        return ALL
    return _checked(scope, _LIMITED, "all, queue:NAME, task:NAME, key:KEY, or as key:customer-*")


def check_paused(scope: object) -> str:
    """Give the value if it names what can be paused; raises ConfigurationError."""
    checked = _checked(scope, _PAUSED, "queue:NAME, task:NAME or shard:NUMBER")
    if checked.startswith(SHARD) and not checked.removeprefix(SHARD).isdecimal():
        raise ConfigurationError(f"scope={checks.shown(scope)}: should name a shard by its number")
    return checked


def _checked(scope: object, kinds: Iterable[str], allowed: str) -> str:
    if isinstance(scope, str) and scope.isprintable() and len(scope) <= 300:
        kind, colon, name = scope.partition(":")
        if kind + colon in kinds and name and name == name.strip():
            return scope
    raise ConfigurationError(f"scope={checks.shown(scope)}: should be {allowed}")


@dataclass(frozen=True, slots=True)
class Limit:
    """What is limited within a scope; the code declares it, and an operator may set another."""

    scope: str
    """One that ends in * stands for each of those that begin so, each by itself."""
    rates: Rates | None = None
    """How many jobs start in what time; all of them hold. Empty for no limit, None: not said."""
    concurrency: int | None = None
    """How many jobs run at once, at most; None for no limit."""
    is_set: bool = False
    """Whether an operator has set it, which goes before what the code declares."""
    changed_at: object = field(default=None, compare=False)
    """When it was stored; another value for each change."""

    @property
    def says_something(self) -> bool:
        """Whether anything is limited, or was set to be without limit."""
        return self.rates is not None or self.concurrency is not None


class Limits:
    """All limits, found by scope: by its own name, or by the longest that it begins with."""

    def __init__(self, limits: Iterable[Limit] = ()) -> None:
        self.all = tuple(limits)
        self._exact = {limit.scope: limit for limit in self.all if not limit.scope.endswith("*")}
        starred = [limit for limit in self.all if limit.scope.endswith("*")]
        self.have_concurrency = any(limit.concurrency is not None for limit in self.all)
        """Whether any says how many jobs run at once."""
        self._prefixes = sorted(starred, key=lambda limit: len(limit.scope), reverse=True)

    def __bool__(self) -> bool:
        return bool(self.all)

    def of(self, scope: str) -> Limit | None:
        """Give the limit that holds for a scope; None for none."""
        found = self._exact.get(scope)
        if found is None and self._prefixes:
            starts = (each for each in self._prefixes if scope.startswith(each.scope[:-1]))
            found = next(starts, None)
        return found

    def rates(self, scope: str) -> Rates:
        """Give the rates that hold for a scope."""
        found = self.of(scope)
        return () if found is None or found.rates is None else found.rates

    def concurrency(self, scope: str) -> int | None:
        """Tell how many jobs of a scope may run at once; None for any number."""
        found = self.of(scope)
        return None if found is None else found.concurrency
