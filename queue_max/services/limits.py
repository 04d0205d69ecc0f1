"""Limits and pauses, as people set and see them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from queue_max import checks
from queue_max.exceptions import ConfigurationError
from queue_max.limits.rates import Given, Rates, rates_of
from queue_max.limits.scopes import (
    ALL,
    KEY,
    Limit,
    check_limited,
    check_paused,
)
from queue_max.repositories.control import Control
from queue_max.repositories.limits import NO_LIMIT, Change
from queue_max.repositories.unit_of_work import Store
from queue_max.services.controls import Controls
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit, and what is left of it just now."""

    limit: Limit
    tokens: float | None = None
    """Jobs that may start now; None where no rate is limited, or the scope stands for many."""
    next_token: float = 0.0
    """Seconds until the next one may."""
    running: int | None = None
    """How many run under it; None where that is not limited, or counted shard by shard."""


class LimitService:
    """How many jobs start in what time, and how many run at once: for all processes.

    A scope is "all", "queue:NAME", "task:NAME" or "key:KEY"; one that ends in * stands for each
    that begins so, as "key:customer-*". A rate of a key holds for the jobs with that `rate_key`,
    its concurrency for those with that `concurrency_key`.
    """

    def __init__(
        self,
        control: Control,
        controls: Controls,
        store: Store,
        rates: RateLimits,
        permits: Permits,
    ) -> None:
        self._control = control
        self._controls = controls
        self._store = store
        self._rates = rates
        self._permits = permits

    def list(self) -> Sequence[Limit]:
        """Read all limits, by scope; that of all jobs is the one this process goes by."""
        limits = self._controls.refresh().limits
        rest = [limit for limit in limits.all if limit.scope != ALL]
        of_all = limits.of(ALL) or Limit(ALL)
        rates = self._rates.rates(ALL)
        if not rates and not of_all.is_set:
            return rest
        return [Limit(ALL, rates, of_all.concurrency, of_all.is_set), *rest]

    def state(self, limit: Limit) -> LimitState:
        """Tell what is left of a limit."""
        if limit.scope.endswith("*"):
            return LimitState(limit)
        running = None
        if limit.concurrency is not None and not limit.scope.startswith(KEY):
            running = len(self._permits.holders(limit.scope))
        if not limit.rates:
            return LimitState(limit, running=running)
        return LimitState(limit, *self._rates.level(limit.scope), running)

    def get(self, scope: str) -> Limit:
        """Give the limit that holds for a scope, whatever it was set for; an empty one for none."""
        scope = check_limited(scope)
        found = self._controls.refresh().limits.of(scope) or Limit(scope)
        if scope == ALL:
            return Limit(ALL, self._rates.rates(ALL), found.concurrency, found.is_set)
        return found

    def set(self, scope: str, *, rate: Given = None, concurrency: float | None = None) -> Limit:
        """Set a limit by hand, for all processes and for good; it goes before what code declares.

        `rate` is a text such as "10/s", "100/15m", "1000/d burst 50", several of them in a list or
        with commas, or a number for a minute; "none", or inf, for no limit. `concurrency` is how
        many jobs run at once, inf for any number. What is None stays as it is. Raises
        ConfigurationError for a bad value.
        """
        scope = check_limited(scope)
        change = Change(_rates(rate), _places(concurrency))
        with self._control.writing() as unit:
            unit.limits.set(scope, change)
        self._changed(scope)
        return self.get(scope)

    def declare(self, declared: Sequence[Limit]) -> None:
        """Say which limits the code has in mind; they hold unless others are set by hand.

        Every process may do so when it starts: where nothing is new, nothing is written. One
        without a rate and a concurrency says that there is none.
        """
        for limit in declared:
            check_limited(limit.scope)
        with self._control.reading() as unit:
            new = [
                limit
                for limit in declared
                if limit != (unit.limits.declared(limit.scope) or Limit(limit.scope))
            ]
        if new:
            with self._control.writing() as unit:
                for limit in new:
                    unit.limits.declare(limit)
            self._controls.refresh()

    def forget(self, scope: str) -> bool:
        """Let what the code declares hold again; False where nothing was set by hand."""
        scope = check_limited(scope)
        with self._control.writing() as unit:
            had_one = unit.limits.forget(scope)
        self._changed(scope)
        return had_one

    def penalise(self, scope: str, seconds: float) -> float:
        """Let no job of a scope start for so many seconds, in any process, a year at most.

        As where a server has asked for that. Gives the seconds until one may: a longer penalty
        than this one stays. `refill` lifts it. Tokens that are reserved already may be used for a
        tenth of a second more. Raises ConfigurationError where no rate limits the scope, and for
        one that stands for many.
        """
        seconds = checks.seconds("seconds", seconds, at_most=checks.YEAR)
        scope = check_limited(scope)
        self._controls.refresh()
        if not self._rates.rates(scope):
            raise _without_rate(scope)
        if scope.endswith("*"):
            raise ConfigurationError(
                f"scope={checks.shown(scope)}: stands for many; penalise each by its own name"
            )
        self._rates.penalise(scope, seconds)
        return self._rates.level(scope).next_token

    def refill(self, scope: str) -> None:
        """Let a scope have all tokens that its rate lets it hold, in all processes.

        One that ends in * stands for each that begins so. A penalty is lifted by that. Raises
        ConfigurationError where no rate limits the scope.
        """
        scope = check_limited(scope)
        limits = self._controls.refresh().limits
        meant = {each.scope for each in limits.all if each.rates and _stands_for(scope, each.scope)}
        if self._rates.rates(scope):
            meant.add((limits.of(scope) or Limit(scope)).scope)
        if not meant:
            raise _without_rate(scope)
        with self._control.writing() as unit:
            unit.buckets.refill(scope)
            for each in meant:
                unit.limits.touch(each)
        self._controls.refresh()

    # Pauses

    def paused(self) -> Mapping[str, str | None]:
        """Read what is paused: the reason of each scope."""
        return self._controls.refresh().paused

    def pause(self, scope: str, reason: str | None = None) -> bool:
        """Let no job of a scope start, in any process: "queue:NAME", "task:NAME", "shard:NUMBER".

        False when it was paused already.
        """
        if reason is not None:
            checks.text("reason", reason)
        return self._pause(scope, lambda found: self._store_pause(found, reason))

    def resume(self, scope: str) -> bool:
        """Let the jobs of a scope start again; False when it was not paused."""

        def resume(found: str) -> bool:
            with self._control.writing() as unit:
                return unit.limits.resume(found)

        return self._pause(scope, resume)

    def _store_pause(self, scope: str, reason: str | None) -> bool:
        with self._control.writing() as unit:
            return unit.limits.pause(scope, reason)

    def _pause(self, scope: str, change: Callable[[str], bool]) -> bool:
        has_changed = change(check_paused(scope))
        self._controls.refresh()
        return has_changed

    def _changed(self, scope: str) -> None:
        self._controls.refresh()
        if scope.startswith(KEY):
            self.balance_keys()

    def balance_keys(self) -> None:
        """Let as many jobs of each concurrency key come to their turn as may."""
        for shard_id in self._store.shard_ids:
            with self._store.reading(shard_id) as unit:
                keys = unit.concurrency_keys.lines()
            if keys:
                with self._store.writing(shard_id) as unit:
                    for key in keys:
                        unit.concurrency_keys.note(key)


def _without_rate(scope: str) -> ConfigurationError:
    return ConfigurationError(
        f"scope={checks.shown(scope)}: no rate limits it; `queue-max limits set` does"
    )


def _stands_for(scope: str, other: str) -> bool:
    return scope.endswith("*") and other.startswith(scope[:-1])


def _rates(given: Given) -> Rates | None:
    return None if given is None else rates_of(given)


def _places(given: float | None) -> int | None:
    if given is None:
        return None
    if checks.limit("concurrency", given) == float("inf"):
        return NO_LIMIT
    return int(given)
