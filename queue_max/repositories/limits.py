"""The `limits` and `pauses` tables of the control database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from queue_max.limits.rates import Rates, rates_of, text_of
from queue_max.limits.scopes import Limit
from queue_max.repositories.compiled import Compiled
from queue_max.repositories.locks import hold_name
from queue_max.storage.schema import limits, pauses

_all_limits = Compiled(
    select(
        limits.c.scope,
        limits.c.rate,
        limits.c.concurrency,
        limits.c.declared_rate,
        limits.c.declared_concurrency,
        limits.c.updated_at,
    ).order_by(limits.c.scope)
)
_all_pauses = Compiled(select(pauses.c.scope, pauses.c.reason).order_by(pauses.c.scope))

NO_LIMIT = 0
"""What stands for the concurrency that an operator has set to be without bound."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be another than it is: None leaves it."""

    rates: Rates | None = None
    concurrency: int | None = None
    """`NO_LIMIT` for none."""


class LimitRepository:
    """All limits, and all that is paused, within one transaction."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def list(self) -> Sequence[Limit]:
        """Read all limits, by scope."""
        return [_limit(*row) for row in _all_limits.run(self._connection).fetchall()]

    def declared(self, scope: str) -> Limit | None:
        """Read what the code has declared for a scope, whatever is set by hand."""
        query = select(limits.c.declared_rate, limits.c.declared_concurrency).where(
            limits.c.scope == scope
        )
        row = self._connection.execute(query).one_or_none()
        if row is None:
            return None
        rate, concurrency = row
        return Limit(scope, None if rate is None else rates_of(rate), concurrency)

    def set(self, scope: str, change: Change) -> None:
        """Set a limit by hand, which goes before what the code declares."""
        values: dict[str, Any] = {}
        if change.rates is not None:
            values["rate"] = text_of(change.rates)
        if change.concurrency is not None:
            values["concurrency"] = change.concurrency
        self._store(scope, values)

    def declare(self, limit: Limit) -> None:
        """Store what the code declares."""
        values = {
            "declared_rate": text_of(limit.rates) if limit.rates else None,
            "declared_concurrency": limit.concurrency,
        }
        self._store(limit.scope, values)
        self._drop_empty(limit.scope)

    def forget(self, scope: str) -> bool:
        """Let what the code declares hold again; False where nothing was set by hand."""
        chosen = limits.c.scope == scope
        by_hand = limits.c.rate.is_not(None) | limits.c.concurrency.is_not(None)
        statement = update(limits).where(chosen, by_hand)
        changed = self._connection.execute(
            statement.values(rate=None, concurrency=None, updated_at=self._now)
        )
        self._drop_empty(scope)
        return bool(changed.rowcount)

    def touch(self, scope: str) -> None:
        """Let all processes begin anew with a scope, as if its limit had changed."""
        self._store(scope, {})

    def paused(self) -> Mapping[str, str | None]:
        """Read what is paused: the reason of each scope."""
        return dict(_all_pauses.run(self._connection).fetchall())

    def pause(self, scope: str, reason: str | None) -> bool:
        """Pause a scope; False when it was paused already, and its reason is another now."""
        hold_name(self._connection, scope)
        values = {"reason": reason, "paused_at": self._now}
        known = update(pauses).where(pauses.c.scope == scope).values(reason=reason)
        if self._connection.execute(known).rowcount:
            return False
        self._connection.execute(insert(pauses).values(scope=scope, **values))
        return True

    def resume(self, scope: str) -> bool:
        """Let a scope go on; False when it was not paused."""
        return bool(
            self._connection.execute(delete(pauses).where(pauses.c.scope == scope)).rowcount
        )

    def _drop_empty(self, scope: str) -> None:
        columns = ("rate", "concurrency", "declared_rate", "declared_concurrency")
        is_empty = [limits.c[name].is_(None) for name in columns]
        self._connection.execute(delete(limits).where(limits.c.scope == scope, *is_empty))

    def _store(self, scope: str, values: dict[str, Any]) -> None:
        hold_name(self._connection, scope)
        values = values | {"updated_at": self._now}
        known = update(limits).where(limits.c.scope == scope).values(values)
        if not self._connection.execute(known).rowcount:
            self._connection.execute(insert(limits).values(scope=scope, **values))


def _limit(
    scope: str,
    rate: str | None,
    concurrency: int | None,
    declared_rate: str | None,
    declared_concurrency: int | None,
    changed_at: object,
) -> Limit:
    text = declared_rate if rate is None else rate
    at_once = declared_concurrency if concurrency is None else concurrency
    return Limit(
        scope,
        None if text is None else rates_of(text),
        None if at_once == NO_LIMIT else at_once,
        is_set=rate is not None or concurrency is not None,
        changed_at=changed_at,
    )
