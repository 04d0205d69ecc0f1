"""Databases on PostgreSQL: the server has the locks, the clock and the upkeep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import URL, Connection, create_engine, text

from queue_max.domain.clock import cut
from queue_max.exceptions import ShardBusyError, ShardError
from queue_max.storage.database import Database
from queue_max.storage.ticks import Ticks, nanoseconds

_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK_DETECTED = "40P01"

# A peer that vanished is noticed within seconds, not after the hours TCP would take.
_CONNECT_ARGS = {
    "connect_timeout": 10,
    "tcp_user_timeout": 5_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "application_name": "queue-max",
}


class PostgresDatabase(Database):
    """One database on a server; each transaction has a connection of the pool."""

    def __init__(self, url: URL, shard_id: int | None, busy_timeout_ms: int = 30_000) -> None:
        super().__init__(url, shard_id)
        self._busy_timeout_ms = busy_timeout_ms
        self._engine = create_engine(
            url,
            connect_args=_CONNECT_ARGS,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction and roll it back on leaving."""
        with self._speaking_of_shards(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, wait: float | None = None) -> Iterator[Connection]:
        """Open a transaction; many may write at once, only the same row has to be waited for."""
        patience = self._busy_timeout_ms if wait is None else max(1, int(wait * 1000))
        with self._speaking_of_shards(), self._engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = {patience}"))
            yield connection

    def now(self, connection: Connection) -> datetime:
        """Read the server's clock, and not the time at which the transaction began."""
        moment: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return cut(moment)

    def ticks(self, connection: Connection) -> Ticks:
        """Read the server's clock, which is that of all who limit something together."""
        earliest = nanoseconds()
        question = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint")
        now = connection.execute(question).scalar_one()
        return Ticks("server", now, earliest, nanoseconds())

    def check(self) -> Sequence[str]:
        """Leave it to the server, which has checksums of its pages."""
        return []

    def vacuum(self) -> None:
        """Leave it to the server's autovacuum."""

    def close(self) -> None:
        """Close the pool."""
        self._engine.dispose()

    def _translate(self, error: BaseException | None) -> ShardError:
        # Only the primary message: details may quote the row, and so the payload.
        diagnosis = getattr(error, "diag", None)
        said = getattr(diagnosis, "message_primary", None) or type(error).__name__
        if getattr(error, "sqlstate", None) in {_LOCK_NOT_AVAILABLE, _DEADLOCK_DETECTED}:
            return ShardBusyError(
                self.shard_id, "another transaction has held its rows for too long"
            )
        return ShardError(self.shard_id, said)
