"""The `breakers` table of the control database."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from queue_max.limits.breaker import Breaker
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.repositories.compiled import Compiled
from queue_max.repositories.locks import hold_name
from queue_max.storage.schema import breakers
from queue_max.storage.ticks import Ticks
from queue_max.storage.types import UnreadableValueError, to_moment

_COLUMNS = (
    *("name", "state", "failures", "generation", "changed_at", "probe_at", "probe"),
    *("probe_until", "clock", "last_error"),
)
_all = Compiled(select(*(breakers.c[name] for name in _COLUMNS)).order_by(breakers.c.name))


class BreakerRepository:
    """All circuit breakers, within one transaction.

    Of a clock that is not known any more, since the host was started anew, no time is left: a
    probe may pass.
    """

    def __init__(self, connection: Connection, now: datetime, ticks: Ticks) -> None:
        self._connection = connection
        self._now = now
        self._ticks = ticks

    def list(self) -> Mapping[str, Breaker]:
        """Read all that are, or were, other than closed, by name."""
        return {row[0]: self._breaker(*row) for row in _all.run(self._connection).fetchall()}

    def hold(self, name: str) -> Breaker:
        """Read one, keeping others from changing it; one that is not stored is closed."""
        hold_name(self._connection, f"breaker:{name}")
        return self.list().get(name) or Breaker(name)

    def store(self, breaker: Breaker, *, has_changed: bool) -> Breaker:
        """Store one as it is now; gives it with the time of its last change of state."""
        changed_at = self._now if has_changed or not breaker.changed_at else breaker.changed_at
        values = {
            "state": str(breaker.state),
            "failures": breaker.failures,
            "generation": breaker.generation,
            "changed_at": changed_at,
            "probe_at": breaker.probe_at,
            "probe": breaker.probe,
            "probe_until": breaker.probe_until,
            "clock": self._ticks.clock,
            "last_error": breaker.last_error,
        }
        known = update(breakers).where(breakers.c.name == breaker.name).values(values)
        if not self._connection.execute(known).rowcount:
            self._connection.execute(insert(breakers).values(name=breaker.name, **values))
        return replace(breaker, changed_at=changed_at)

    def _breaker(  # noqa: PLR0913 - the columns
        self,
        name: str,
        state: str,
        failures: int,
        generation: int,
        changed_at: Any,
        probe_at: int | None,
        probe: str | None,
        probe_until: int,
        clock: str,
        last_error: str | None,
    ) -> Breaker:
        if clock != self._ticks.clock:
            probe_at, probe_until = (None if probe_at is None else 0), 0
        try:
            return Breaker(
                name,
                CircuitState(state),
                failures,
                generation,
                to_moment(changed_at),
                probe_at,
                probe,
                probe_until,
                last_error,
            )
        except ValueError as error:
            raise UnreadableValueError(f"breaker {name!r}: {error}") from error
