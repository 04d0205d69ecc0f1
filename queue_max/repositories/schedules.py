"""The `schedules` table of the control database."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from queue_max.domain import json_text
from queue_max.domain.schedules import Misfire, NewSchedule, Overlap, Schedule
from queue_max.repositories.locks import hold_name
from queue_max.storage.schema import schedules
from queue_max.storage.types import UnreadableValueError


class ScheduleRepository:
    """All schedules, within one transaction."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def list(self) -> Sequence[Schedule]:
        """Read all, by name."""
        query = select(schedules).order_by(schedules.c.name)
        return [_schedule(row) for row in self._connection.execute(query)]

    def find(self, name: str) -> Schedule | None:
        """Read one; None when there is none of that name."""
        query = select(schedules).where(schedules.c.name == name)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _schedule(row)

    def hold(self, name: str) -> Schedule | None:
        """Read one as `find` does, and keep others from changing or adding it meanwhile."""
        # Two transactions that both find none must not both add it.
        hold_name(self._connection, f"schedule:{name}")
        query = select(schedules.c.name).where(schedules.c.name == name).with_for_update()
        self._connection.execute(query)
        return self.find(name)

    def due(self) -> Sequence[str]:
        """Name those that have a tick to be fired."""
        query = select(schedules.c.name).where(
            schedules.c.next_at <= self._now, schedules.c.is_paused == 0
        )
        return self._connection.execute(query).scalars().all()

    def next_at(self) -> datetime | None:
        """Tell when the next one falls due that is not yet; None when none will."""
        query = select(func.min(schedules.c.next_at)).where(
            schedules.c.next_at > self._now, schedules.c.is_paused == 0
        )
        moment: datetime | None = self._connection.execute(query).scalar_one()
        return moment

    def add(self, new: NewSchedule, next_at: datetime) -> None:
        """Store one whose name is free."""
        state = {"is_paused": 0, "created_at": self._now, "revision": 1}
        values = _declared(new) | state | {"next_at": next_at, "updated_at": self._now}
        self._connection.execute(insert(schedules).values(values))

    def change(self, new: NewSchedule, next_at: datetime) -> None:
        """Let the one of that name be as it is declared now, paused or not as it is."""
        self._update(new.name, _declared(new) | {"next_at": next_at})

    def pause(self, name: str) -> None:
        """Keep one from being fired."""
        self._update(name, {"is_paused": 1})

    def resume(self, name: str, next_at: datetime) -> None:
        """Let one be fired again, from that tick on."""
        self._update(name, {"is_paused": 0, "next_at": next_at})

    def advance(
        self,
        read: Schedule,
        next_at: datetime,
        last_at: datetime | None,
        last_job: str | None,
    ) -> bool:
        """Note what was fired of one; False when others changed it since it was read."""
        statement = (
            update(schedules)
            .where(
                schedules.c.name == read.name,
                schedules.c.revision == read.revision,
                schedules.c.next_at == read.next_at,
            )
            .values(
                next_at=next_at,
                last_at=last_at,
                last_job=last_job,
                revision=schedules.c.revision + 1,
            )
        )
        return self._connection.execute(statement).rowcount == 1

    def remove(self, name: str) -> None:
        """Delete one."""
        self._connection.execute(delete(schedules).where(schedules.c.name == name))

    def _update(self, name: str, values: dict[str, Any]) -> None:
        changed = {"updated_at": self._now, "revision": schedules.c.revision + 1}
        statement = update(schedules).where(schedules.c.name == name)
        self._connection.execute(statement.values(values | changed))


def _declared(new: NewSchedule) -> dict[str, Any]:
    return {
        "name": new.name,
        "task": new.task,
        "payload": json_text.write(new.payload).decode(),
        "interval": new.interval,
        "cron": new.cron,
        "tz": new.tz,
        "misfire": str(new.misfire),
        "misfire_cap": new.misfire_cap,
        "overlap": str(new.overlap),
        "options": json_text.write(new.options).decode(),
    }


def _schedule(row: Row[Any]) -> Schedule:
    try:
        return Schedule(
            **row._asdict()
            | {
                "payload": json.loads(row.payload),
                "misfire": Misfire(row.misfire),
                "overlap": Overlap(row.overlap),
                "options": json.loads(row.options),
                "is_paused": bool(row.is_paused),
            }
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise UnreadableValueError(f"schedule {row.name!r}: {error}") from error
