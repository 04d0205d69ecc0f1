"""The data directory: which files belong to a queue, made once and never lost track of.

`control.db` holds the shard map, and the schedules. A shard is entered there before its file is
made, so that a file which is missing later is known to be missing, and is never made anew in
silence. Each shard mirrors the directory's identity and size, so that the map can be made anew from
the shards.
"""

import logging
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from queue_max import forking
from queue_max.exceptions import (
    ConfigurationError,
    QueueNotFoundError,
    SchemaError,
    ShardDamagedError,
    ShardError,
    ShardMissingError,
)
from queue_max.storage import filesystem, migrations
from queue_max.storage.database import Database
from queue_max.storage.migrations import CONTROL, SHARD, History
from queue_max.storage.room import Room
from queue_max.storage.schema import directory, shard_map, shard_metadata
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

DEFAULT_SHARDS = 6

logger = logging.getLogger(__name__)

_SHARD_FILE = re.compile(r"shard_(\d+)\.db")

# The threads of a process prepare one directory at a time; processes take the control
# database's write lock.
_preparing = forking.lock()


@dataclass(frozen=True, slots=True)
class Entry:
    """One shard as the map has it."""

    shard_id: int
    path: Path
    is_new: bool
    """Its file may not have been made yet."""


class Mirror(NamedTuple):
    """What a shard knows of the directory it belongs to."""

    directory_id: str
    num_shards: int
    shard_id: int | None


class Directory:
    """A folder with the files of one queue."""

    def __init__(self, path: Path, options: SqliteOptions) -> None:
        self.path = path.expanduser().absolute()
        self.backups = self.path / "backups"
        self._options = options
        # Few commits, and each is relied on for good: all reach the disk.
        self._control = SqliteDatabase(
            self.path / "control.db", None, replace(options, full_sync=True)
        )
        # The same file, for what may be forgotten: nobody waits for the disk.
        self._notes = SqliteDatabase(
            self.path / "control.db", None, replace(options, full_sync=False)
        )
        self.room = Room(self.path)
        self._shards: dict[int, SqliteDatabase] = {}

    @property
    def control(self) -> Database:
        """The control database; what is durable in it belongs in every backup."""
        return self._control

    @property
    def notes(self) -> SqliteDatabase:
        """The control database, to be written to without waiting for the disk."""
        return self._notes

    def exists(self) -> bool:
        """Tell whether a queue of this version, or of 0.1, lies here."""
        with self._os_errors():
            return self._control.path.exists() or bool(self._files())

    def open(self, shards: int | None, *, auto_migrate: bool = True) -> Sequence[SqliteDatabase]:
        """Open all shards; make them, or bring them up to date, unless told not to.

        `shards` is None for the number that is stored (6 for a new queue). A shard that is
        damaged, missing or a stranger's is set aside, as its `fault` tells; its error is raised
        if it is so with all, or while the queue is being made. Raises ConfigurationError when
        another number is stored or the folder is not on a local disk, and SchemaError when
        `auto_migrate` is off and something is to be done.
        """
        self._refuse_network()
        for database, error in self.upgrade(shards) if auto_migrate else ():
            if error is not None:
                _set_aside(database, error)
        remedy = f"run `queue-max db upgrade --data-dir {self.path}`"
        if not self._control.path.exists():
            raise SchemaError(None, f"{self._control.path} has not been made; {remedy}")
        migrations.require(self._control, CONTROL, remedy)
        entries = self._entries()
        opened = [self._database(entry) for entry in entries]
        if not entries or any(entry.is_new for entry in entries):
            unmade = SchemaError(None, f"its shards have not all been made; {remedy}")
            raise next(iter(_faults(opened)), unmade)
        self._refuse_another_count(entries, shards)
        for database in opened:
            self._examine(database, remedy)
        if len(faults := _faults(opened)) == len(opened):
            raise faults[0]
        self.room.keep_reserve()
        return opened

    def _examine(self, database: SqliteDatabase, remedy: str) -> None:
        """Get a shard ready for work, or set it aside."""
        if database.fault is not None:
            return
        try:
            migrations.require(database, SHARD, remedy)
            self.refuse_foreign(database)
            database.use_wal()  # a copy that was brought back has lost it
        except ShardError as error:
            _set_aside(database, error)

    def upgrade(
        self, shards: int | None = None
    ) -> Iterator[tuple[SqliteDatabase, ShardError | None]]:
        """Make what is missing and migrate what is old; one entry a shard, with its error if any.

        A shard that fails does not keep the others from being upgraded.
        """
        with _preparing:
            self._make_control()
            entries = self._entries() or self._plan(shards)
        self._refuse_another_count(entries, shards)
        for entry in entries:
            database = self._database(entry)
            try:
                self._prepare(entry, database)
            except ShardError as error:
                yield database, error
            else:
                yield database, None

    def existing(self, history: History) -> Sequence[Database]:
        """Give the databases of one history as they are, whatever state they are in."""
        if not self.exists():
            raise QueueNotFoundError(f"there is no queue in {self.path}")
        if history is CONTROL:
            return [self._control] if self._control.path.exists() else []
        known = self._control.path.exists() and migrations.revision(self._control, CONTROL)
        entries = self._entries() if known else []
        return [self._database(entry) for entry in entries or self._found_entries()]

    def refuse_foreign(self, database: Database) -> None:
        """Raise ShardMissingError for a shard that is not the one which belongs there."""
        with self._control.reading() as connection:
            identity, count = self._identity(connection)
        if self._mirror(database) != Mirror(identity, count, database.shard_id):
            raise ShardMissingError(
                database.shard_id,
                f"{database.url.database} belongs to another queue, or to another place, than "
                f"{self._control.path} says: was it copied from elsewhere?",
            )

    def close(self) -> None:
        """Close all databases."""
        for database in (self._control, self._notes, *self._shards.values()):
            database.close()

    def _make_control(self) -> None:
        with self._os_errors():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_file(self._control.path)
        self._control.use_wal()
        migrations.upgrade(self._control, CONTROL, self.backups)

    def _refuse_network(self) -> None:
        kind = filesystem.kind_of(self.path)
        if filesystem.is_over_a_network(kind):
            raise ConfigurationError(
                f"DATA_DIR={self.path}: lies on a network file system ({kind}), where SQLite "
                "loses data. Choose a folder on a local disk"
            )

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ShardError(None, f"{self.path} cannot be used: {error.strerror}") from error

    def _plan(self, shards: int | None) -> list[Entry]:
        """Enter the shards into the map; where files lie already, those and no others."""
        with self._control.writing() as connection:
            if entries := self._read_entries(connection):
                return entries  # another starter was faster
            identity, entries = self._adopt() or (
                str(uuid.uuid4()),
                [self._entry(number, is_new=True) for number in range(shards or DEFAULT_SHARDS)],
            )
            self._refuse_another_count(entries, shards)
            now = self._control.now(connection)
            connection.execute(insert(directory), {"id": identity, "created_at": now})
            connection.execute(
                insert(shard_map),
                [
                    {
                        "shard_id": entry.shard_id,
                        "location": entry.path.name,
                        "is_new": entry.is_new,
                        "added_at": now,
                    }
                    for entry in entries
                ],
            )
            return entries

    def _adopt(self) -> tuple[str, list[Entry]] | None:
        """Find out what the shard files that lie here belong to; None when there are none."""
        found = self._found_entries()
        if not found:
            return None
        for entry in found:
            with suppress(ShardError):  # a damaged one knows nothing; others may
                if mirror := self._mirror(self._database(entry)):
                    numbers = range(mirror.num_shards)
                    return mirror.directory_id, [self._entry(n, is_new=False) for n in numbers]
        if [entry.shard_id for entry in found] != list(range(len(found))):
            names = ", ".join(entry.path.name for entry in found)
            raise ConfigurationError(
                f"{self.path} holds {names}: shard files are numbered from 0 without gaps. "
                "Bring back the missing ones from a backup, or move the stray ones away"
            )
        return str(uuid.uuid4()), found

    def _prepare(self, entry: Entry, database: SqliteDatabase) -> None:
        """Make or migrate one shard; others who start meanwhile wait for the control database."""
        if self._is_ready(entry, database):
            return
        with _preparing, self._control.writing() as connection:
            entry = self._read_entries(connection)[entry.shard_id]
            if self._is_ready(entry, database):
                return  # another starter was faster
            if entry.is_new:
                _make_file(entry.path)
            migrations.adopt(database, SHARD, self.backups)
            if not entry.is_new and migrations.revision(database, SHARD) is None:
                raise ShardDamagedError(
                    entry.shard_id, f"{entry.path} holds no tables: bring it back from a backup"
                )
            _restrict(entry.path)
            database.use_wal()
            migrations.upgrade(database, SHARD, self.backups)
            self._write_mirror(database, *self._identity(connection))
            # A power cut must not leave the map saying that an empty file was made.
            database.checkpoint()
            connection.execute(
                update(shard_map).where(shard_map.c.shard_id == entry.shard_id).values(is_new=0)
            )

    def _is_ready(self, entry: Entry, database: SqliteDatabase) -> bool:
        return (
            not entry.is_new
            and migrations.revision(database, SHARD) == SHARD.head
            and self._mirror(database) is not None
        )

    def _database(self, entry: Entry) -> SqliteDatabase:
        number = entry.shard_id
        if number not in self._shards:
            self._shards[number] = SqliteDatabase(
                entry.path, number, self._options, self.room.give_up_reserve
            )
        return self._shards[number]

    def _files(self) -> list[int]:
        names = (path.name for path in self.path.glob("shard_*.db"))
        return sorted(int(match[1]) for name in names if (match := _SHARD_FILE.fullmatch(name)))

    def _found_entries(self) -> list[Entry]:
        """List the files that lie here; an empty one has yet to get its tables."""
        entries = [self._entry(number, is_new=False) for number in self._files()]
        return [replace(entry, is_new=not entry.path.stat().st_size) for entry in entries]

    def _entry(self, number: int, *, is_new: bool) -> Entry:
        return Entry(number, self.path / f"shard_{number}.db", is_new)

    def _entries(self) -> list[Entry]:
        with self._control.reading() as connection:
            return self._read_entries(connection)

    def _read_entries(self, connection: Connection) -> list[Entry]:
        rows = connection.execute(select(shard_map).order_by(shard_map.c.shard_id)).all()
        if not all(isinstance(row.location, str) for row in rows):
            raise ShardDamagedError(None, f"{self._control.path} does not say where its shards are")
        return [Entry(row.shard_id, self.path / row.location, bool(row.is_new)) for row in rows]

    def _identity(self, connection: Connection) -> tuple[str, int]:
        """Read the directory's id and how many shards it has."""
        identity = connection.execute(select(directory.c.id)).scalar_one()
        return identity, len(self._read_entries(connection))

    def _mirror(self, database: Database) -> Mirror | None:
        if migrations.revision(database, SHARD) in {None, migrations.BASELINE}:
            return None
        with database.reading() as connection:
            row = connection.execute(select(shard_metadata)).one_or_none()
        if row is None or row.directory_id is None:
            return None
        return Mirror(row.directory_id, row.num_shards, row.shard_id)

    def _write_mirror(self, database: Database, identity: str, count: int) -> None:
        with database.writing() as connection:
            mirror = {"directory_id": identity, "num_shards": count}
            changed = connection.execute(update(shard_metadata).values(mirror)).rowcount
            if not changed:
                connection.execute(
                    insert(shard_metadata).values(
                        shard_id=database.shard_id, created_at=database.now(connection), **mirror
                    )
                )

    def _refuse_another_count(self, entries: Sequence[Entry], shards: int | None) -> None:
        if shards is not None and shards != len(entries):
            raise ConfigurationError(
                f"shards={shards}: {self.path} holds {len(entries)} shards. Leave the number out "
                f"(NUM_SHARDS too) or say {len(entries)}; another number would strand their jobs"
            )


def _set_aside(database: Database, error: ShardError) -> None:
    """Let the others go on without a shard that is lost; any other error may pass."""
    if not isinstance(error, ShardDamagedError | ShardMissingError):
        raise error
    logger.error("going on without it: %s", error)
    database.fault = error


def _faults(databases: Iterable[Database]) -> list[ShardError]:
    return [each.fault for each in databases if each.fault is not None]


def _restrict(path: Path) -> None:
    """Keep a file, and what SQLite keeps beside it, from all but its owner."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.chmod(f"{path}{suffix}", 0o600)


def _make_file(path: Path) -> None:
    """Make an empty file that only its owner can read; leave one that is there."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
