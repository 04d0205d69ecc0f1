"""The `events` table of the control database: a log of bounded length."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select

from queue_max.domain import json_text
from queue_max.domain.events import StoredEvent
from queue_max.repositories.compiled import is_sqlite
from queue_max.storage.schema import events
from queue_max.storage.types import UnreadableValueError

Happening = tuple[datetime, str, Mapping[str, Any]]
"""When it happened, the event, its facts."""

_LAST = select(func.max(events.c.id)).scalar_subquery()


class EventRepository:
    """What has happened, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, happenings: Iterable[Happening]) -> None:
        """Append events, in that order, after all that are there."""
        if not is_sqlite(self._connection):
            # A lower number must not be seen later than a higher one: readers would miss it.
            lock = func.pg_advisory_xact_lock(func.hashtextextended("events", 0))
            self._connection.execute(select(lock))
        rows = [
            {"at": at, "event": event, "facts": json_text.write(facts).decode()}
            for at, event, facts in happenings
        ]
        self._connection.execute(insert(events), rows)

    def trim(self, kept: int) -> None:
        """Delete the oldest, but for so many."""
        self._connection.execute(delete(events).where(events.c.id <= _LAST - kept))

    def after(self, since: int, limit: int | None) -> Sequence[StoredEvent]:
        """Read those that came after the one of that id, the first ones first."""
        return self._read(select(events).where(events.c.id > since).order_by(events.c.id), limit)

    def newest(self, limit: int | None) -> Sequence[StoredEvent]:
        """Read the newest, the first ones first."""
        return self._read(select(events).order_by(events.c.id.desc()), limit)[::-1]

    def _read(self, query: Select[Any], limit: int | None) -> Sequence[StoredEvent]:
        return [_event(row) for row in self._connection.execute(query.limit(limit))]


def _event(row: Row[Any]) -> StoredEvent:
    try:
        return StoredEvent(id=row.id, at=row.at, event=row.event, facts=json.loads(row.facts))
    except (TypeError, ValueError, RecursionError) as error:
        raise UnreadableValueError(f"event {row.id}: {error}") from error
