"""Breakers as people define, see, open and close them."""

from collections.abc import Mapping

from queue_max import checks
from queue_max.limits.breaker import DEFAULT_BREAKER, Breaker, Terms
from queue_max.repositories.control import Control
from queue_max.services.breaker_rules import BreakerRules, Counts, breaker_name
from queue_max.services.breakers import Breakers


class BreakerService:
    """The circuit breakers of a queue, which all processes share: see `CircuitBreaker`.

    All jobs are behind the one called "default"; those that name another are behind that, too,
    and only that one counts how they end.
    """

    def __init__(self, control: Control, breakers: Breakers, rules: BreakerRules) -> None:
        self._control = control
        self._breakers = breakers
        self._rules = rules

    def define(
        self,
        name: str,
        *,
        failure_threshold: float | None = None,
        recovery_timeout: float | None = None,
        counts: Counts | None = None,
    ) -> None:
        """Say how a breaker works in this process; each one that has workers has to say so.

        `failure_threshold` failures in a row open it (CIRCUIT_FAILURE_THRESHOLD, 5), infinity
        never; `recovery_timeout` seconds later a probe may pass (CIRCUIT_TIMEOUT, 60).
        `counts(error)` tells whether an error counts as a failure: all do, but those of the job
        itself, as HTTP's 4xx other than 429.
        """
        self._rules.define(name, failure_threshold, recovery_timeout, counts)

    def list(self) -> Mapping[str, Breaker]:
        """Read all breakers that have ever counted a failure, or were opened by hand, by name."""
        with self._control.reading() as unit:
            return unit.breakers.list()

    def get(self, name: str = DEFAULT_BREAKER) -> Breaker:
        """Read one; one that nobody knows of is closed."""
        return self.list().get(breaker_name(name)) or Breaker(name)

    def open(self, name: str = DEFAULT_BREAKER, seconds: float | None = None) -> Breaker:
        """Hold back what is behind a breaker: for so many seconds, or until it is closed by hand.

        After that time, a year at most, a probe passes.
        """
        if seconds is not None:
            seconds = checks.seconds("seconds", seconds, at_most=checks.YEAR)
        return self._breakers.change(
            breaker_name(name),
            lambda each, now: each.opened(now, seconds),
            "opened by hand",
            wait=None,
        )

    def close(self, name: str = DEFAULT_BREAKER) -> Breaker:
        """Let pass what is behind a breaker, and forget its failures."""
        return self._breakers.change(
            breaker_name(name), lambda each, _now: each.closed(), "closed by hand", wait=None
        )

    reset = close

    def terms(self, name: str) -> Terms:
        """Tell when a breaker opens, in this process, and for how long."""
        return self._rules.terms(name)

    def seconds_until_probe(self, breaker: Breaker) -> float:
        """Tell in how many seconds a probe may pass; infinity where that is not known."""
        return self._breakers.opens_in(breaker)
