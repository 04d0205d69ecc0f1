"""Rate limits that hold over all processes: tokens, reserved in blocks and used at once."""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from queue_max import forking
from queue_max.exceptions import ShardBusyError, ShardError
from queue_max.limits.rates import NANOSECONDS, Rates, lags
from queue_max.limits.scopes import ALL
from queue_max.limits.token_bucket import Reservation, lag_of
from queue_max.repositories.control import Control
from queue_max.services.controls import Controls
from queue_max.storage.ticks import Ticks, nanoseconds

logger = logging.getLogger(__name__)

MANY = 16
"""Tokens in a block of which the next one is reserved before the last one is used up."""

LARGEST_BLOCK = 1024
"""Tokens that are reserved at once, at most."""

AGAIN_IN = NANOSECONDS // 20
"""Nanoseconds until the next try when the control database does not answer; and its time to."""

_WAIT = AGAIN_IN / NANOSECONDS

ASKING = NANOSECONDS // 200
"""Nanoseconds for which other threads leave it to the one that asks."""

BUSY = NANOSECONDS // 1000
"""Nanoseconds until the next try where another process asks just then."""

SHARE = 64
"""The part of what is left that may be reserved at once: 1 in so many."""

MOST_STOCKS = 10_000
"""Scopes of which a process keeps tokens in hand, at most."""


class Shortage(NamedTuple):
    """Why no token was had."""

    scope: str
    wait: float
    """Seconds until it is worth to ask again."""


class Level(NamedTuple):
    """What is left of a rate."""

    tokens: float
    """Parts of one included; infinity without a limit."""
    next_token: float
    """Seconds until there is one; 0.0 for now."""


class _Terms(NamedTuple):
    """By which limit the tokens of a scope come."""

    rates: Rates
    changed_at: object


@dataclass(slots=True)
class _Tokens:
    """Some that may be used in the same time."""

    number: int
    usable_from: int
    usable_until: int


class _Stock:
    """The tokens of one scope that this process has in hand; times in nanoseconds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._terms: _Terms | None = None
        self.forget()

    def forget(self) -> None:
        """Begin with nothing."""
        self.tokens: deque[_Tokens] = deque()
        self.number = 0
        """How many these are."""
        self.ask_at = 0
        self.left = 1
        """Tokens that were left for others when the last ones were reserved."""
        self.block = 1
        self._asked_at = 0

    def heed(self, terms: "_Terms") -> None:
        """Begin with nothing if the limit has changed: what others said by the old one is void."""
        if self._terms != terms:
            if self._terms is not None:
                self.forget()
            self._terms = terms

    def take(self, now: int) -> bool:
        """Use a token, if there is one that may be used now."""
        tokens = self.tokens
        if tokens and tokens[0].usable_until < now:
            self.drop_old(now)
        if not tokens or tokens[0].usable_from > now:
            return False
        self.number -= 1
        tokens[0].number -= 1
        if not tokens[0].number:
            tokens.popleft()
        return True

    def may_ask(self, now: int) -> bool:
        """Tell whether the calling thread is to ask for more; others are not, for a moment."""
        if self.wait(now):
            return False
        self.ask_at = now + ASKING
        return True

    @property
    def is_plentiful(self) -> bool:
        """Whether some blocks were left when the last one was reserved: then none is wasted."""
        return self.left > 4 * self.block

    def runs_low(self, now: int) -> bool:
        """Tell whether the calling thread is to ask for more before there are none left."""
        is_low = self.block >= MANY and self.number <= self.block // 2
        if not is_low or not self.is_plentiful or self.ask_at > now:
            return False
        self.ask_at = now + ASKING
        return True

    def drop_old(self, now: int) -> None:
        """Forget the tokens whose time is over: they came to nothing, so fewer are asked for."""
        if self.tokens and self.tokens[0].usable_until < now:
            self.block = max(1, self.block // 2)
        while self.tokens and self.tokens[0].usable_until < now:
            self.number -= self.tokens.popleft().number

    def usable(self, now: int) -> int:
        """Count the tokens that may be used now."""
        self.drop_old(now)
        if self.tokens and self.tokens[-1].usable_from <= now:
            return self.number
        return sum(each.number for each in self.tokens if each.usable_from <= now)

    def wait(self, now: int) -> int:
        """Tell in how many nanoseconds to come again."""
        return max(0, (self.tokens[0].usable_from if self.tokens else self.ask_at) - now)

    def fill(self, reservation: Reservation, ticks: Ticks) -> None:
        """Take in what was reserved; as it seems to be used up fast, ask for more next time."""
        now = ticks.latest
        if reservation.dues and now - self._asked_at < reservation.usable // 2:
            self.block = min(max(2 * self.block, reservation.left // SHARE), LARGEST_BLOCK)
        self._asked_at = now
        self.left = reservation.left
        self.ask_at = now + reservation.wait
        if not reservation.usable:  # they are used already
            return
        for due, number in Counter(reservation.dues).items():
            until = ticks.earliest + due + reservation.usable
            self.tokens.append(_Tokens(number, ticks.latest + due, until))
            self.number += number


class RateLimits:
    """Gives tokens to jobs that start.

    In any T seconds, all processes together start at most `rate * T + burst` jobs of a scope. A
    token that was reserved is used within a tenth of a second, or lost; so a process that is
    killed costs a few tokens, and leads to no excess. See `limits.token_bucket` for the arithmetic.
    """

    def __init__(
        self,
        control: Control,
        controls: Controls,
        default: Rates = (),
        *,
        clock: Callable[[], int] = nanoseconds,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._control = control
        self._controls = controls
        self._default = default
        self.has_default = bool(default)
        """Whether all jobs are limited, if nobody says otherwise."""
        self._clock = clock
        self.sleep = sleep
        self._stocks: dict[str, _Stock] = {}
        self._lock = forking.lock()
        forking.in_child(self._forget)
        self._has_failed = False
        self.granted = 0
        self.denied = 0

    def rates(self, scope: str) -> Rates:
        """Tell which rates hold for a scope."""
        return self._terms(scope).rates

    def limited(self, candidates: Iterable[str]) -> list[str]:
        """Name the scopes that have a rate; last those whose tokens are used at once."""
        rated = [scope for scope in candidates if self.rates(scope)]
        return sorted(rated, key=lambda scope: not lags(self.rates(scope))[0])

    def take(self, scopes: Sequence[str], more: float = math.inf) -> Shortage | None:
        """Take a token of each of these scopes, all of which are limited, or of none.

        Asks the control database where none is in hand; then `more` is for how many jobs beside
        this one tokens could be used at once. None for success.
        """
        for number, scope in enumerate(scopes):
            if not self._take(scope, more):
                self.give_back(scopes[:number])
                self.denied += 1
                return Shortage(scope, self.wait(scope))
        self.granted += 1
        return None

    def prepare(self, scope: str) -> None:
        """Have tokens of a scope in hand, if there are any: not within a transaction."""
        terms = self._terms(scope)
        if not terms.rates or not lags(terms.rates)[0]:  # they are had when they are used
            return
        stock = self._stock(scope)
        with stock.lock:
            stock.heed(terms)
            now = self._clock()
            if stock.usable(now) or not stock.may_ask(now):
                return
        self._reserve(stock, scope)

    def allowance(self, scope: str) -> float:
        """Tell how many jobs of a scope could start now, about; asks nobody. inf for any number."""
        terms = self._terms(scope)
        if not terms.rates:
            return math.inf
        stock = self._stock(scope)
        with stock.lock:
            stock.heed(terms)
            now = self._clock()
            if usable := stock.usable(now):
                return usable + stock.left
            return 0 if stock.wait(now) else max(1, stock.left)

    def in_hand(self, scope: str) -> float:
        """Tell how many jobs of a scope may start now by what is in hand; inf for any number."""
        terms = self._terms(scope)
        if not terms.rates:
            return math.inf
        stock = self._stock(scope)
        with stock.lock:
            stock.heed(terms)
            now = self._clock()
            # Where a token has to be used at once, there is none in hand, and one may be had.
            return stock.usable(now) or (0 if stock.wait(now) else 1)

    def wait(self, scope: str) -> float:
        """Tell in how many seconds a job of a scope could start; 0.0 for now, perhaps."""
        terms = self._terms(scope)
        if not terms.rates:
            return 0.0
        stock = self._stock(scope)
        with stock.lock:
            stock.heed(terms)
            now = self._clock()
            stock.drop_old(now)
            return stock.wait(now) / NANOSECONDS

    def give_back(self, scopes: Sequence[str]) -> None:
        """Put back a token of each that was taken just now, and is not used."""
        for scope in scopes:
            if rates := self.rates(scope):
                with suppress(ShardError), self._control.noting(_WAIT) as unit:  # else it is lost
                    unit.buckets.give_back(scope, rates, 1)
                self._stock(scope).ask_at = self._clock()

    def penalise(self, scope: str, seconds: float, wait: float | None = None) -> None:
        """Let no job of a scope start for so many seconds, in any process, as far as it is limited.

        Tokens that are reserved already may be used for a tenth of a second more.
        """
        rates = self.rates(scope)
        if not rates:
            return
        with self._control.noting(wait) as unit:
            unit.buckets.drain(scope, rates, seconds)
            ask_at = unit.ticks.latest + round(seconds * NANOSECONDS)
        stock = self._stock(scope)
        with stock.lock:
            stock.forget()
            stock.ask_at = ask_at

    def level(self, scope: str) -> Level:
        """Tell how many tokens of a scope are left, here and for all, and when the next comes."""
        rates = self.rates(scope)
        if not rates:
            return Level(math.inf, 0.0)
        with self._control.reading() as unit:
            found = unit.buckets.peek(scope, rates)
        stock, lag = self._stock(scope), lag_of(rates)
        with stock.lock:
            here = stock.usable(self._clock())
        tokens = here + min(bucket.tokens(rate, lag) for rate, bucket in found.items())
        wait = max(bucket.due_in(rate) for rate, bucket in found.items()) / NANOSECONDS
        return Level(tokens, 0.0 if tokens >= 1 else wait)

    def _terms(self, scope: str) -> _Terms:
        found = self._controls.now().limits.of(scope)
        rates = None if found is None else found.rates
        if rates is None:
            rates = self._default if scope == ALL else ()
        return _Terms(rates, found and found.changed_at)

    def _take(self, scope: str, more: float) -> bool:
        """Take a token that may be used now, if there is one."""
        stock = self._stock(scope)
        with stock.lock:
            now = self._clock()
            has_token = stock.take(now)
            if not has_token:
                stock.heed(self._terms(scope))
            if not (stock.runs_low(now) if has_token else stock.may_ask(now)):
                return has_token
        reservation = self._reserve(stock, scope, more)
        if has_token:
            return True
        if reservation is None or not reservation.dues:
            return False
        with stock.lock:
            return not reservation.usable or stock.take(self._clock())

    def _reserve(self, stock: _Stock, scope: str, more: float = math.inf) -> Reservation | None:
        """Ask the control database for tokens, without a lock: others ask for a job meanwhile."""
        rates = self.rates(scope)
        if not rates:  # they were lifted meanwhile
            return Reservation([0], 0, 0, 1)
        try:
            with self._control.noting(_WAIT) as unit:
                number = stock.block if stock.is_plentiful else int(min(stock.block, 1 + more))
                reservation = unit.buckets.reserve(scope, rates, number)
                ticks = unit.ticks
        except ShardError as error:
            is_busy = isinstance(error, ShardBusyError)
            if not self._has_failed:
                level = logging.INFO if is_busy else logging.WARNING
                logger.log(level, "no job of %s starts now, other tries follow: %s", scope, error)
            self._has_failed = True
            with stock.lock:
                stock.ask_at = self._clock() + (BUSY if is_busy else AGAIN_IN)
            return None
        self._has_failed = False
        with stock.lock:
            stock.fill(reservation, ticks)
        return reservation

    def _forget(self) -> None:
        """Begin with nothing, in a child of fork: the parent uses what it has in hand."""
        self._stocks.clear()

    def _stock(self, scope: str) -> _Stock:
        stock = self._stocks.get(scope)
        if stock is not None:
            return stock
        with self._lock:
            if len(self._stocks) >= MOST_STOCKS:  # what the oldest has in hand is lost
                self._stocks.pop(next(iter(self._stocks)))
            return self._stocks.setdefault(scope, _Stock())
