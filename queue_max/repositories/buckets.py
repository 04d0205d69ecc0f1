"""The `buckets` table of the control database: tokens of rate limits, shared by all processes."""

from typing import Any

from sqlalchemy import BigInteger, Connection, Text, bindparam, delete, insert, select, update

from queue_max.limits.rates import Rate, Rates
from queue_max.limits.token_bucket import Reservation, TokenBucket, lag_of, reserve
from queue_max.repositories.compiled import Compiled
from queue_max.repositories.locks import hold_name
from queue_max.storage.schema import buckets
from queue_max.storage.ticks import Ticks

_read = Compiled(
    select(buckets.c.seconds, buckets.c.level, buckets.c.at, buckets.c.clock).where(
        buckets.c.scope == bindparam("wanted")
    )
)
_values = {
    "level": bindparam("new_level", type_=Text),
    "at": bindparam("new_at", type_=BigInteger),
    "clock": bindparam("new_clock", type_=Text),
}
_is_it = (buckets.c.scope == bindparam("wanted"), buckets.c.seconds == bindparam("time"))
_change = Compiled(update(buckets).where(*_is_it).values(_values))
_add = Compiled(
    insert(buckets).inline().values(scope=bindparam("wanted"), seconds=bindparam("time"), **_values)
)


class BucketRepository:
    """The buckets of all scopes, within one transaction; a new one is full.

    Of a clock that is not known any more, since the host was started anew, nothing is said: what
    a bucket held then it holds now, and no more.
    """

    def __init__(self, connection: Connection, ticks: Ticks) -> None:
        self._connection = connection
        self._ticks = ticks

    def reserve(self, scope: str, rates: Rates, tokens: int) -> Reservation:
        """Take tokens, as many as there are, ahead of their time if need be."""
        filled = self._filled(scope, rates)
        reservation = reserve(list(filled.items()), tokens)
        if reservation.dues:
            self._store(scope, filled)
        behind = max(bucket.at for bucket in filled.values()) - self._ticks.now
        if behind <= 0:
            return reservation
        # Others had their turn while this one waited for it, and have read the clock after it.
        dues = [due + behind for due in reservation.dues]
        return reservation._replace(dues=dues, wait=reservation.wait + behind)

    def give_back(self, scope: str, rates: Rates, tokens: int) -> None:
        """Put tokens back which nobody will use; what a full bucket cannot hold is lost."""
        filled, lag = self._filled(scope, rates), lag_of(rates)
        for rate, bucket in filled.items():
            bucket.take(rate, -tokens)
            bucket.fill(rate, self._ticks.now, lag)
        self._store(scope, filled)

    def drain(self, scope: str, rates: Rates, seconds: float) -> None:
        """Let no token come for that many seconds."""
        filled = self._filled(scope, rates)
        for rate, bucket in filled.items():
            bucket.drain(rate, seconds)
        self._store(scope, filled)

    def peek(self, scope: str, rates: Rates) -> dict[Rate, TokenBucket]:
        """Tell what the buckets of a scope hold now."""
        return self._filled(scope, rates, is_held=False)

    def refill(self, scope: str) -> None:
        """Let the buckets of a scope be full; of one that ends in *, those of all that begin so."""
        is_it = buckets.c.scope == scope
        if scope.endswith("*"):
            is_it = buckets.c.scope.startswith(scope[:-1], autoescape=True)
        self._connection.execute(delete(buckets).where(is_it))

    def _filled(self, scope: str, rates: Rates, *, is_held: bool = True) -> dict[Rate, TokenBucket]:
        if is_held:
            hold_name(self._connection, f"bucket:{scope}")
        stored = {row[0]: row[1:] for row in _read.run(self._connection, wanted=scope).fetchall()}
        lag = lag_of(rates)
        filled = {}
        for rate in rates:
            bucket = self._bucket(rate, stored.get(rate.seconds), lag)
            bucket.fill(rate, self._ticks.now, lag)
            filled[rate] = bucket
        return filled

    def _bucket(self, rate: Rate, row: tuple[Any, ...] | None, lag: int) -> TokenBucket:
        if row is None:
            return TokenBucket.full(rate, self._ticks.now, lag)
        level, at, clock = row
        return TokenBucket(int(level), at if clock == self._ticks.clock else self._ticks.now)

    def _store(self, scope: str, filled: dict[Rate, TokenBucket]) -> None:
        for rate, bucket in filled.items():
            values = {
                "wanted": scope,
                "time": rate.seconds,
                "new_level": str(bucket.level),
                "new_at": bucket.at,
                "new_clock": self._ticks.clock,
            }
            if not _change.run(self._connection, **values).rowcount:
                _add.run(self._connection, **values)
