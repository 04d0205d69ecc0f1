"""The limiter and the breaker of a queue, with the faces of those that stand alone."""

import itertools
import math
from typing import Any, Literal

from queue_max import checks
from queue_max.domain.job import Lease
from queue_max.exceptions import RateLimitError
from queue_max.limits.breaker import DEFAULT_BREAKER
from queue_max.limits.circuit_breaker import CircuitState, Guard
from queue_max.limits.rate_limiter import RateLimitUnit
from queue_max.limits.rates import Rate, Rates
from queue_max.limits.scopes import ALL
from queue_max.services.breaker_service import BreakerService
from queue_max.services.breakers import Breakers
from queue_max.services.limits import LimitService
from queue_max.services.rate_limits import RateLimits

_UNITS = {
    1: RateLimitUnit.PER_SECOND,
    60: RateLimitUnit.PER_MINUTE,
    3_600: RateLimitUnit.PER_HOUR,
}


class QueueRateLimiter:
    """The rate limit of all jobs of a queue, which all processes share.

    It has the face of `RateLimiter`, and goes by the same arithmetic; what it holds lies in the
    control database. A rate that is changed is changed for all, and stays so.
    """

    def __init__(self, rates: RateLimits, limits: LimitService) -> None:
        self._rates = rates
        self._limits = limits

    @property
    def rate_limit(self) -> float:
        """Tokens per unit, of the first rate if there are several; inf when there is no limit."""
        rate = self._rate
        if rate is None:
            return math.inf
        known = rate.seconds == self._seconds
        return rate.number if known else rate.number * self._seconds / rate.seconds

    @property
    def unit(self) -> RateLimitUnit:
        """The time for which `rate_limit` is stated."""
        return _UNITS[self._seconds]

    @property
    def burst_capacity(self) -> float:
        """Tokens a full bucket holds; inf when there is no limit."""
        return math.inf if self._rate is None else self._rate.burst

    @property
    def interval(self) -> float:
        """Seconds from one token to the next; 0.0 when there is no limit."""
        return 0.0 if self._rate is None else self._rate.interval

    def acquire(self, timeout: float = 30.0) -> Literal[True]:
        """Take a token, waiting until one is due, but for no more than `timeout` seconds.

        If no token comes in time, RateLimitError is raised; its `retry_after` says in how many
        seconds one will come.
        """
        left = checks.seconds("timeout", timeout, zero=True)
        while not self.try_acquire():
            wait = max(self._rates.wait(ALL), 0.001)
            if wait > left:
                raise RateLimitError(
                    f"{self._rate} is the limit: the next token is due in "
                    f"{self.get_retry_after():.3f} s, and only {timeout:.3f} s may be waited",
                    retry_after=self.get_retry_after(),
                )
            self._rates.sleep(wait)
            left -= wait
        return True

    def try_acquire(self) -> bool:
        """Take a token if there is one now; never wait."""
        return self._rate is None or self._rates.take([ALL]) is None

    def give_back(self) -> None:
        """Return a token that was taken just now and not used."""
        self._rates.give_back([ALL])

    def penalise(self, seconds: float) -> None:
        """Let no job start for so many seconds, in any process."""
        self._rates.penalise(ALL, checks.seconds("seconds", seconds))

    def update_rate_limit(self, rate_limit: float) -> None:
        """Change the limit of all processes from now on: per unit, inf for no limit."""
        checks.limit("rate_limit", rate_limit)
        rates: Rates = ()
        if rate_limit != math.inf:
            rates = (Rate.of(int(rate_limit), self._seconds),)
        self._limits.set(ALL, rate=rates)

    def reset(self) -> None:
        """Fill the bucket."""
        if self._rate is not None:
            self._limits.refill(ALL)

    def get_remaining_tokens(self) -> float:
        """Return the tokens in the bucket, parts of one included."""
        return self._rates.level(ALL).tokens

    def get_retry_after(self) -> float:
        """Return the seconds until a token is there for a caller who comes now."""
        return self._rates.level(ALL).next_token

    def get_stats(self) -> dict[str, Any]:
        """Return settings, the present level, and totals of this process."""
        return {
            "tokens_remaining": round(self.get_remaining_tokens(), 2),
            "rate_limit": self.rate_limit,
            "burst_capacity": self.burst_capacity,
            "interval": round(self.interval, 4),
            "unit": self.unit.value,
            "total_granted": self._rates.granted,
            "total_denied": self._rates.denied,
        }

    @property
    def _rate(self) -> Rate | None:
        return next(iter(self._rates.rates(ALL)), None)

    @property
    def _seconds(self) -> int:
        rate = self._rate
        return rate.seconds if rate is not None and rate.seconds in _UNITS else 60


class QueueCircuitBreaker(Guard):
    """The circuit breaker that all jobs of a queue are behind, in all processes.

    It has the face of `CircuitBreaker`; its state lies in the control database.
    """

    def __init__(self, breakers: Breakers, service: BreakerService) -> None:
        self._breakers = breakers
        self._service = service
        self._calls = itertools.count(1)
        self._probe: Lease | None = None

    @property
    def state(self) -> CircuitState:
        """The state, a tenth of a second old at most."""
        found = self._breakers.known(DEFAULT_BREAKER)
        return CircuitState.CLOSED if found is None else found.state

    @property
    def probe_in_flight(self) -> bool:
        """Whether a probe is out whose result may still come."""
        found = self._breakers.known(DEFAULT_BREAKER)
        return found is not None and found.probe is not None and self.get_retry_after() > 0

    def is_allowed(self) -> bool:
        """Ask to pass; whoever is told True must report the outcome, or `release()`."""
        if self._breakers.is_closed(DEFAULT_BREAKER):
            return True
        lease = Lease(-1, next(self._calls), 0)
        if not self._breakers.probe(DEFAULT_BREAKER, lease):
            return False
        self._probe = lease
        return True

    def record_success(self) -> None:
        """Report that a call worked, which closes a half-open circuit and forgives failures."""
        self._breakers.succeeded(DEFAULT_BREAKER, self._take_probe())
        self._breakers.flush()

    def record_failure(self, error: BaseException | None = None) -> None:
        """Report that a call failed; an error that does not count only releases the probe."""
        what = "a call failed" if error is None else error
        self._breakers.failed(DEFAULT_BREAKER, self._take_probe(), what)
        self._breakers.flush()

    def release(self) -> None:
        """Give back a pass that was not used; if it was the probe's, the next caller gets it."""
        self._breakers.released(self._take_probe())

    def reset(self) -> None:
        """Close the circuit and forget its failures."""
        self._service.reset(DEFAULT_BREAKER)

    def get_retry_after(self) -> float:
        """Return the seconds until a call may pass, at the latest; 0.0 if one may now."""
        return self._breakers.wait(DEFAULT_BREAKER)

    def get_stats(self) -> dict[str, Any]:
        """Return settings and the present state; times in seconds."""
        found, terms = self._service.get(), self._service.terms(DEFAULT_BREAKER)
        return {
            "state": found.state.value,
            "failure_count": found.failures,
            "failure_threshold": terms.threshold,
            "recovery_timeout": terms.timeout,
            "recovery_remaining": self._breakers.opens_in(found),
            "state_change_count": found.generation,
            "probe_in_flight": self.probe_in_flight,
        }

    def _take_probe(self) -> Lease:
        lease, self._probe = self._probe, None
        return lease or Lease(-1, 0, 0)
