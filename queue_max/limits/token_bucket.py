"""The arithmetic of a token bucket, in whole numbers: sums of floats grant a token too many."""

from dataclasses import dataclass
from typing import Self

from queue_max.limits.rates import NANOSECONDS, Rate


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

    def tokens(self, rate: Rate) -> float:
        """Tell how many tokens there are, parts of one included; 0.0 for a debt."""
        return max(0, self.level) / _token(rate)


def _token(rate: Rate) -> int:
    return rate.seconds * NANOSECONDS


def _most(rate: Rate, lag: int) -> int:
    return rate.burst * _token(rate) - rate.number * lag
