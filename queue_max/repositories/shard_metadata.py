"""The `shard_metadata` table: what a shard has done so far."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from queue_max.repositories.compiled import Compiled
from queue_max.storage.schema import shard_metadata

_add_processed = Compiled(
    update(shard_metadata).values(processed=shard_metadata.c.processed + bindparam("number"))
)
_add_failed = Compiled(
    update(shard_metadata).values(failed=shard_metadata.c.failed + bindparam("number"))
)


@dataclass(frozen=True, slots=True)
class Totals:
    """How many jobs a shard has seen end, since it was made."""

    processed: int = 0
    failed: int = 0


class ShardMetadataRepository:
    """The one row a shard has about itself, within one transaction."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def add_processed(self, number: int = 1) -> None:
        """Count jobs that are done."""
        _add_processed.run(self._connection, number=number)

    def add_failed(self, number: int = 1) -> None:
        """Count jobs that failed for good."""
        _add_failed.run(self._connection, number=number)

    def totals(self) -> Totals:
        """Read the counters."""
        columns = (shard_metadata.c.processed, shard_metadata.c.failed)
        row = self._connection.execute(select(*columns)).one()
        return Totals(row.processed, row.failed)

    def last_vacuum(self) -> datetime | None:
        """Tell when the shard was last vacuumed."""
        query = select(shard_metadata.c.last_vacuum)
        moment: datetime | None = self._connection.execute(query).scalar_one()
        return moment

    def note_vacuum(self) -> None:
        """Note that the shard has been vacuumed."""
        self._connection.execute(update(shard_metadata).values(last_vacuum=self._now))
