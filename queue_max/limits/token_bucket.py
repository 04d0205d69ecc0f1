"""The arithmetic of a token bucket, in whole numbers: sums of floats grant a token too many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from queue_max.limits.rates import NANOSECONDS, Rate, lags


@dataclass(slots=True)
class TokenBucket:
    """What a bucket holds, at a time in nanoseconds; all arguments of time are so, too.

    It is the token bucket of RFC 3290, appendix A, with one addition: tokens that are yet to come
    may be taken ahead. The bucket then is in debt, and each token has a time of its own from which
    it may be used.

    Whoever uses a token later than at that time, by `lag` nanoseconds at most, lets the bucket
    hold so much less: else more than `burst` could be used at once. Then in any T seconds at most
    `T * number / seconds + burst` are used, whatever the number of those who take them.
    """

    level: int
    """In shares of a token, of which each nanosecond adds `number`: negative for a debt."""
    at: int

    @classmethod
    def full(cls, rate: Rate, now: int, lag: int = 0) -> Self:
        """Make one that holds all it can."""
        return cls(_most(rate, lag), now)

    def fill(self, rate: Rate, now: int, lag: int = 0) -> None:
        """Add what has come since the last time; nothing while the clock stands, or goes back."""
        gained = rate.number * max(0, now - self.at)
        self.level = min(self.level + gained, _most(rate, lag))
        self.at = max(self.at, now)

    def available(self, rate: Rate, ahead: int = 0) -> int:
        """Tell how many tokens there are, with those that come within that time."""
        return max(0, (self.level + rate.number * ahead) // _token(rate))

    def due_in(self, rate: Rate, tokens: int = 1) -> int:
        """Tell in how many nanoseconds so many tokens will be there; 0 for now."""
        missing = tokens * _token(rate) - self.level
        return max(0, -(-missing // rate.number))

    def take(self, rate: Rate, tokens: int = 1) -> None:
        """Take tokens, if need be ahead of their time; a negative number gives them back."""
        self.level -= tokens * _token(rate)

    def drain(self, rate: Rate, seconds: float) -> None:
        """Let no token come for that many seconds."""
        nothing = _token(rate) - rate.number * round(seconds * NANOSECONDS)
        self.level = min(self.level, nothing)

    def tokens(self, rate: Rate, ahead: int = 0) -> float:
        """Tell as `available` does, parts of a token included."""
        return max(0, self.level + rate.number * ahead) / _token(rate)


class Reservation(NamedTuple):
    """Tokens that were taken of all buckets of a scope."""

    dues: Sequence[int]
    """In how many nanoseconds each may be used, the first one first."""
    usable: int
    """For how many nanoseconds from then on."""
    wait: int
    """In how many nanoseconds more may be asked for; 0 for now."""
    left: int
    """How many are left for now."""


def lag_of(rates: Sequence[Rate]) -> int:
    """Tell how late a token may be used, after the time at which its bucket has it.

    Of several buckets, the last one to have it decides, so that others wait for its sake.
    """
    usable, ahead = lags(rates)
    return usable if len(rates) == 1 else usable + ahead


def reserve(buckets: Sequence[tuple[Rate, TokenBucket]], tokens: int) -> Reservation:
    """Take tokens of buckets that are filled, the same number of each, as many as there are."""
    usable, ahead = lags([rate for rate, _bucket in buckets])
    number = min(tokens, *(bucket.available(rate, ahead) for rate, bucket in buckets), tokens)
    last = max(bucket.due_in(rate, number) for rate, bucket in buckets)
    dues = [0] * number
    if last:
        dues = [
            max(bucket.due_in(rate, each) for rate, bucket in buckets)
            for each in range(1, number + 1)
        ]
    for rate, bucket in buckets:
        bucket.take(rate, number)
    wait = max(0, max(bucket.due_in(rate) for rate, bucket in buckets) - ahead)
    left = min(bucket.available(rate) for rate, bucket in buckets)
    return Reservation(dues, usable, wait, left)


def _token(rate: Rate) -> int:
    return rate.seconds * NANOSECONDS


def _most(rate: Rate, lag: int) -> int:
    return rate.burst * _token(rate) - rate.number * lag
