"""A token bucket that hands out permissions at a bounded rate."""

import math
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal, Self

from queue_max import checks, forking
from queue_max.exceptions import ConfigurationError, RateLimitError
from queue_max.limits.rates import NANOSECONDS, Rate
from queue_max.limits.token_bucket import TokenBucket


class RateLimitUnit(StrEnum):
    """The time for which a rate limit is stated."""

    PER_MINUTE = "per_minute"
    PER_SECOND = "per_second"
    PER_HOUR = "per_hour"


_SECONDS = {
    RateLimitUnit.PER_SECOND: 1,
    RateLimitUnit.PER_MINUTE: 60,
    RateLimitUnit.PER_HOUR: 3600,
}


class RateLimiter:
    """Grants at most `rate_limit` tokens per `unit`, after a burst of `burst_capacity`.

    In any T seconds no more than `T / interval + burst_capacity` tokens are granted, whatever the
    number of threads: see `TokenBucket`. A caller who may wait takes a token that is yet to come,
    so that callers are served in the order in which they came, and each knows beforehand how long
    it waits.

    - `rate_limit` is a whole number of at least 1, or `math.inf` for no limit.
    - `burst_capacity`, the tokens in a full bucket, is at least 1; None means `rate_limit`.
    - `enable_jitter` is accepted, as in the 0.1 API, and changes nothing: each waiting caller has
      a time of its own, exact to the nanosecond, so there is no crowd for jitter to spread.
    - `clock` tells seconds that never run backwards; `sleep` waits for a number of seconds.

    Any other value raises ConfigurationError.
    """

    def __init__(
        self,
        rate_limit: float = 160,
        unit: RateLimitUnit = RateLimitUnit.PER_MINUTE,
        burst_capacity: int | None = None,
        enable_jitter: bool = True,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        checks.limit("rate_limit", rate_limit)
        if burst_capacity is not None:
            checks.whole("burst_capacity", burst_capacity, at_least=1)
        self._rate_limit = rate_limit
        self._unit = _checked_unit(unit)
        self._burst = burst_capacity
        self._clock = clock
        self._sleep = sleep
        self._lock = forking.lock()
        self._bucket = self._full()
        self._total_granted = 0
        self._total_denied = 0
        self._total_wait_seconds = 0.0

    @classmethod
    def per_second(cls, rate_limit: float, **options: Any) -> Self:
        """Make a limiter of `rate_limit` tokens a second; `options` are the constructor's."""
        return cls(rate_limit, RateLimitUnit.PER_SECOND, **options)

    @classmethod
    def per_minute(cls, rate_limit: float, **options: Any) -> Self:
        """Make a limiter of `rate_limit` tokens a minute; `options` are the constructor's."""
        return cls(rate_limit, RateLimitUnit.PER_MINUTE, **options)

    @classmethod
    def per_hour(cls, rate_limit: float, **options: Any) -> Self:
        """Make a limiter of `rate_limit` tokens an hour; `options` are the constructor's."""
        return cls(rate_limit, RateLimitUnit.PER_HOUR, **options)

    @property
    def rate_limit(self) -> float:
        """Tokens per unit; `math.inf` when there is no limit."""
        return self._rate_limit

    @property
    def unit(self) -> RateLimitUnit:
        """The time for which `rate_limit` is stated."""
        return self._unit

    @property
    def burst_capacity(self) -> float:
        """Tokens a full bucket holds; `math.inf` when there is no limit."""
        if self._burst is None or self._rate_limit == math.inf:
            return self._rate_limit
        return self._burst

    @property
    def interval(self) -> float:
        """Seconds from one token to the next; 0.0 when there is no limit."""
        return _SECONDS[self._unit] / self._rate_limit

    def acquire(self, timeout: float = 30.0) -> Literal[True]:
        """Take a token, waiting until one is due, but for no more than `timeout` seconds.

        The wait is never longer than needed. If no token comes in time, RateLimitError is raised
        at once, without waiting; its `retry_after` says in how many seconds one will come.
        A negative timeout raises ConfigurationError.
        """
        timeout = checks.seconds("timeout", timeout, zero=True)
        longest = timeout + 1 / NANOSECONDS  # waits are rounded up to whole nanoseconds
        wait = self._reserve(longest)
        if wait > longest:
            raise RateLimitError(
                f"{self._rate_limit} {self._unit.replace('_', ' ')} is the limit: the next token "
                f"is due in {wait:.3f} s, and only {timeout:.3f} s may be waited",
                retry_after=wait,
            )
        if wait > 0:
            self._sleep(wait)
        return True

    def try_acquire(self) -> bool:
        """Take a token if there is one now; never wait."""
        return self._reserve(longest=0) == 0

    def give_back(self) -> None:
        """Return a token that was taken and not used.

        It is dropped if the bucket is full, or if others wait at this moment: their times are
        set, and a token on top of theirs could exceed the limit.
        """
        with self._lock:
            self._fill()
            if self._rate_limit != math.inf and self._bucket.level >= 0:
                self._bucket.take(self._rate(), -1)

    def update_rate_limit(self, rate_limit: float) -> None:
        """Change the limit from now on; callers that already wait keep their times.

        Tokens that have come at the old rate are kept, as far as the bucket holds them. The
        burst capacity changes along, unless it was given explicitly. The same values are allowed
        as in the constructor.
        """
        checks.limit("rate_limit", rate_limit)
        with self._lock:
            self._fill()
            had_no_limit = self._rate_limit == math.inf
            self._rate_limit = rate_limit
            if had_no_limit:
                self._bucket = self._full()

    def reset(self) -> None:
        """Fill the bucket; callers that already wait keep their times."""
        with self._lock:
            self._bucket = self._full()

    def get_remaining_tokens(self) -> float:
        """Return the tokens in the bucket, parts of one included; 0.0 while others wait."""
        with self._lock:
            return self._remaining_tokens()

    def get_retry_after(self) -> float:
        """Return the seconds until a token is there for a caller who comes now."""
        with self._lock:
            return self._seconds_until_token()

    def get_stats(self) -> dict[str, Any]:
        """Return settings, the present level and totals, all of one moment.

        `total_granted` counts every token taken, those given back too; `total_wait_seconds`
        counts a wait when it begins.
        """
        with self._lock:
            return {
                "tokens_remaining": round(self._remaining_tokens(), 2),
                "rate_limit": self._rate_limit,
                "burst_capacity": self.burst_capacity,
                "interval": round(self.interval, 4),
                "unit": self._unit.value,
                "total_granted": self._total_granted,
                "total_denied": self._total_denied,
                "total_wait_seconds": self._total_wait_seconds,
            }

    def _reserve(self, longest: float) -> float:
        """Take a token if it is due within `longest` seconds; say in how many it is due."""
        with self._lock:
            if self._rate_limit == math.inf:
                self._total_granted += 1
                return 0.0
            wait = self._seconds_until_token()
            if wait > longest:
                self._total_denied += 1
            else:
                self._bucket.take(self._rate())
                self._total_granted += 1
                self._total_wait_seconds += wait
            return wait

    def _seconds_until_token(self) -> float:
        self._fill()
        if self._rate_limit == math.inf:
            return 0.0
        return self._bucket.due_in(self._rate()) / NANOSECONDS

    def _remaining_tokens(self) -> float:
        self._fill()
        return math.inf if self._rate_limit == math.inf else self._bucket.tokens(self._rate())

    def _fill(self) -> None:
        """Add what has come since the last time; to be called before the level is looked at."""
        if self._rate_limit != math.inf:
            self._bucket.fill(self._rate(), self._now())

    def _full(self) -> TokenBucket:
        if self._rate_limit == math.inf:  # it is not looked at, then
            return TokenBucket(0, self._now())
        return TokenBucket.full(self._rate(), self._now())

    def _rate(self) -> Rate:
        return Rate(int(self._rate_limit), _SECONDS[self._unit], int(self.burst_capacity))

    def _now(self) -> int:
        return round(self._clock() * NANOSECONDS)


def _checked_unit(unit: str) -> RateLimitUnit:
    try:
        return RateLimitUnit(unit)
    except ValueError:
        allowed = ", ".join(RateLimitUnit)
        raise ConfigurationError(f"unit={unit!r}: should be one of {allowed}") from None
