"""Databases that are SQLite files: pragmas, whose turn it is to write, and upkeep."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from operator import methodcaller
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from queue_max.domain.clock import utc_now
from queue_max.exceptions import (
    ConfigurationError,
    QueueFullError,
    ShardBusyError,
    ShardDamagedError,
    ShardError,
    ShardMissingError,
)
from queue_max.forking import close_at_fork, working_with_files
from queue_max.storage import driver
from queue_max.storage.database import Database
from queue_max.storage.writer import NEVER, Writer, driver_of, pause

_FAULTS = 5  # that a check names

_CONNECTIONS = 3  # one writes, two read

# The pool logs the traceback of a Ctrl-C that comes while it takes a connection back, which harms
# nobody: that one is opened anew.
_POOL = "queue-max"
logging.getLogger(f"sqlalchemy.pool.impl.QueuePool.{_POOL}").disabled = True

# Where a bit has flipped, a text is no UTF-8 any more; it must not keep all others from being read.
_decode = methodcaller("decode", "utf-8", "backslashreplace")

CHECKPOINT_AFTER = 4000
"""Pages of a WAL after which a writer moves it into the file: as many as one block of its index
holds, about. At SQLite's own 1000, flushing for that is half of what a small commit costs."""

WAL_LIMIT = 64 * 1024 * 1024
"""Bytes to which a WAL that has grown larger is cut back, once all of it was moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """How files are opened."""

    busy_timeout_ms: int = 30_000
    cache_size: int = 500
    """Page cache of each connection, in pages."""
    mmap_size: int = 0
    """Bytes of each file that are mapped into memory."""
    full_sync: bool = True
    """Whether each commit is flushed to the disk."""

    def __post_init__(self) -> None:
        chosen = driver.choose()
        if self.mmap_size and chosen.has_wal_reset_bug:
            raise ConfigurationError(
                f"MMAP_SIZE={self.mmap_size}: should be 0 with {chosen.name}, which can lose "
                "commits (the WAL-reset bug), the more easily so with memory mapping; "
                "`pip install queue-max[sqlite]` brings a sound library"
            )

    def pragmas(self) -> dict[str, str | int]:
        """Give the pragmas for a new connection, in order."""
        return {
            "busy_timeout": self.busy_timeout_ms,
            "synchronous": "FULL" if self.full_sync else "NORMAL",
            "cache_size": self.cache_size,
            "mmap_size": self.mmap_size,
            "temp_store": "MEMORY",
            "journal_size_limit": WAL_LIMIT,
            # An affected library checkpoints in storage.checkpoints only.
            "wal_autocheckpoint": 0 if driver.choose().has_wal_reset_bug else CHECKPOINT_AFTER,
        }


class SqliteDatabase(Database):
    """One file: all threads of the process share one writing and two reading connections."""

    def __init__(
        self,
        path: Path,
        shard_id: int | None,
        options: SqliteOptions,
        on_full: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(URL.create("sqlite", database=str(path)), shard_id)
        self._driver_errors = (driver.choose().module.Error,)
        self.path = path
        self._options = options
        self._on_full = on_full
        self._busy_timeout = options.busy_timeout_ms / 1000
        self.open_anew()
        close_at_fork(self)

    def open_anew(self) -> None:
        """Begin without any connection: at first, and in a child of fork."""
        self._engine = _engine(self.path, self._options)
        self._writer = Writer(self._engine, self.shard_id, self._require_file)
        self._file: int | None = None
        self._is_closed = False

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the file; writers do not wait for it."""
        with working_with_files(), self._speaking_of_shards(), self._connection() as connection:
            self._require_file()
            connection.begin()
            yield connection

    @contextmanager
    def writing(self, wait: float | None = None) -> Iterator[Connection]:
        """Take the turn to write, in this process and among all others."""
        deadline = time.monotonic() + (self._busy_timeout if wait is None else wait)
        with (
            working_with_files(),
            self._speaking_of_shards(),
            self._writer.writing(deadline) as connection,
        ):
            yield connection

    def now(self, connection: Connection) -> datetime:
        """Read the wall clock: on one host, all processes share it."""
        return utc_now()

    def check(self) -> Sequence[str]:
        """Compare tables and indexes, and read every page."""
        with self._cursor() as cursor:
            found = cursor.execute(f"PRAGMA integrity_check({_FAULTS})").fetchall()
        return [fault for (fault,) in found if fault != "ok"]

    def vacuum(self) -> None:
        """Rebuild the file without the pages that are free; needs room for a second copy."""
        deadline = time.monotonic() + self._busy_timeout
        with (
            working_with_files(),
            self._writer.keeping_others_out(deadline),
            self._cursor() as cursor,
        ):
            cursor.execute("VACUUM")

    def use_wal(self) -> None:
        """Let readers and a writer work at the same time; the file keeps it once it is set.

        Raises ShardError where the file system does not allow it, as over a network.
        """
        deadline = time.monotonic() + self._busy_timeout
        with self._cursor() as cursor:
            # The switch fails at once where others are just opening the file: no busy timeout.
            while (mode := _switch_to_wal(cursor)) is None and time.monotonic() < deadline:
                pause()
        if mode is None:
            raise ShardBusyError(self.shard_id, "others keep it from getting a write-ahead log")
        if mode != "wal":
            raise ShardError(
                self.shard_id,
                f"{self.path} cannot have a write-ahead log ({mode}): is it on a network file "
                "system? Choose a DATA_DIR on a local disk",
            )

    def checkpoint(self) -> bool:
        """Move the WAL into the file; False when readers kept a part of it from being moved.

        No commit can meet it, for it holds the write lock: the modes of SQLite that take the lock
        themselves go on without it when they do not get it. The next writer begins the WAL anew.
        """
        with self.writing(), self._cursor() as cursor:
            busy, pages, moved = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return not busy and moved == pages

    def wal(self) -> tuple[int, int]:
        """Tell the bytes of the WAL and when it was written to (ns); opens nothing."""
        try:
            found = os.stat(f"{self.path}-wal")
        except FileNotFoundError:
            return 0, 0
        return found.st_size, found.st_mtime_ns

    def copy_to(self, target: Path) -> None:
        """Write a consistent copy of the file, as it is now, to a path where nothing is."""
        with self._cursor() as cursor:
            cursor.execute("VACUUM INTO ?", (str(target),))

    def close(self) -> None:
        """Close all connections; one that others read with, as soon as they are done."""
        with working_with_files(), self._writer.keeping_others_out(NEVER):
            self._is_closed = True
            self._writer.drop()
            self._engine.pool.dispose()
            self._file = None

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        finally:
            if self._is_closed:
                self._engine.pool.dispose()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """Give a cursor of the driver, for what SQLite refuses inside of a transaction."""
        with working_with_files(), self._speaking_of_shards(), self._connection() as connection:
            yield connection.connection.cursor()

    def _require_file(self) -> None:
        """Refuse to go on with a file that was removed or replaced: what it is told is lost."""
        try:
            found = os.stat(self.path).st_ino
        except OSError:
            found = None
        if self._file is None:
            self._file = found
        if found is None or found != self._file:
            raise self._missing()

    def _missing(self) -> ShardMissingError:
        return ShardMissingError(
            self.shard_id,
            f"{self.path} is missing, or another file than it was. Bring it back from a backup; "
            "it is not made anew, since its jobs would be lost",
        )

    def close_for_fork(self) -> None:
        """Close all connections; no other thread has one, or gets one, until the fork is over."""
        self._writer.drop()
        self._engine.dispose()

    def _translate(self, error: BaseException | None) -> ShardError:
        code = driver.primary_code(error)
        if code in {driver.BUSY, driver.LOCKED}:
            return ShardBusyError(self.shard_id, "another process has been writing for too long")
        if code == driver.FULL:
            self._on_full()
            return QueueFullError(self.shard_id, f"there is no room for {self.path} to grow")
        if code in {driver.CORRUPT, driver.NOT_A_DATABASE}:
            return ShardDamagedError(self.shard_id, f"{self.path} is damaged: {error}")
        if code == driver.CANNOT_OPEN and not self.path.exists():
            return self._missing()
        return ShardError(self.shard_id, f"{self.path}: {error}")


def _engine(path: Path, options: SqliteOptions) -> Engine:
    module = driver.choose().module
    # rw: a file that is gone must not come back empty.
    location = f"file:{quote(str(path))}?mode=rw"
    pragmas = options.pragmas()

    def connect() -> Any:
        connection = module.connect(
            location, uri=True, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = _decode
        try:
            for name, value in pragmas.items():
                connection.execute(f"PRAGMA {name} = {value}")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "sqlite://",
        module=module,
        creator=connect,
        poolclass=QueuePool,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=options.busy_timeout_ms / 1000,
        # Payloads are nobody's business in a log.
        hide_parameters=True,
        pool_logging_name=_POOL,
    )

    @event.listens_for(engine, "invalidate")
    def undo(connection: Any, _record: object, _exception: object) -> None:
        # Closing alone keeps its locks for as long as anything refers to a statement of it, as
        # the traceback of a Ctrl-C does.
        with suppress(module.Error):
            connection.rollback()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Called at the first statement; by then, a writer has begun.
        if not driver_of(connection).in_transaction:
            driver_of(connection).execute("BEGIN")

    return engine


def _switch_to_wal(cursor: Any) -> str | None:
    """Give the journal mode after the try; None when somebody was in the way."""
    try:
        return str(cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    except driver.choose().module.OperationalError as error:
        if driver.primary_code(error) not in {driver.BUSY, driver.LOCKED}:
            raise
        return None
