"""Looking for what is wrong with a queue, whatever state it is in, and telling what helps."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from queue_max.domain import gates
from queue_max.domain.tasks import missing, remedy
from queue_max.exceptions import ShardError
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.scopes import paused_in_words, resuming
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store
from queue_max.storage import driver, filesystem, migrations
from queue_max.storage.database import Database
from queue_max.storage.directory import Directory
from queue_max.storage.migrations import CONTROL, SHARD
from queue_max.storage.room import LEAST, MIB
from queue_max.storage.sqlite import WAL_LIMIT, SqliteDatabase

SHOWN = 5
"""Damaged jobs of a shard that are named."""

_LOST_MAP = (
    "stop all processes and move control.db away: `queue-max db upgrade` makes it anew from the "
    "shards"
)
_LOST_SHARD = (
    "stop all processes and bring the file back from a backup; until then the others work on"
)


class Level(StrEnum):
    """How bad something is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    what: str
    remedy: str = ""
    """What to do about it."""


Findings = Iterator[Finding]

_NO_MAP = Finding(
    "control database",
    Level.ERROR,
    "is missing",
    "`queue-max db upgrade` makes it anew from the shards",
)


class Diagnosis:
    """Looks at a data directory as it is: nothing is made, upgraded or repaired."""

    def __init__(self, directory: Directory, lease_time: timedelta) -> None:
        self._directory = directory
        self._lease_time = lease_time

    def health(self) -> Findings:
        """Look at what can be told in a moment; QueueNotFoundError where there is no queue."""
        control, shards = self._databases()
        yield self._room()
        if control is None:
            yield _NO_MAP
            return
        store = Store(shards)
        for database in (control, *shards):
            if fault := self._fault(database):
                yield fault
                continue
            yield Finding(database.label, Level.OK, "can be read")
            yield from _closed(control) if database is control else _held(store, database)

    def examine(self) -> Findings:
        """Look at all there is, and read every page of every file."""
        control, shards = self._databases()
        yield self._room()
        yield self._library()
        yield self._file_system()
        yield self._permissions()
        if control is None:
            yield _NO_MAP
            return
        fault = self._fault(control) or _broken_structure(control)
        yield fault or Finding(control.label, Level.OK, "is sound")
        if fault is None:
            yield from _closed(control)
        store = Store(shards)
        for shard in shards:
            if fault := self._fault(shard):
                yield fault
            else:
                yield from self._examine_shard(store, shard)

    def _examine_shard(self, store: Store, shard: Database) -> Findings:
        faults = [_broken_structure(shard), *self._jobs(store, shard)]
        if isinstance(shard, SqliteDatabase):
            faults.append(_long_log(shard))
        found = [each for each in faults if each is not None]
        yield from found or [Finding(shard.label, Level.OK, "is sound, and so are all its jobs")]
        yield from _held(store, shard)

    def _databases(self) -> tuple[Database | None, Sequence[Database]]:
        """Find the control database, if there is one, and the shards it knows of."""
        control = next(iter(self._directory.existing(CONTROL)), None)
        try:
            return control, self._directory.existing(SHARD)
        except ShardError:  # of the control database, which is a finding of its own
            return control, []

    def _room(self) -> Finding:
        free = self._directory.room.free()
        what = f"{free / MIB:,.0f} MiB free"
        if free < LEAST:
            return Finding("disk", Level.ERROR, what, "make room: no new jobs are taken")
        if free < 25 * LEAST:
            return Finding("disk", Level.WARNING, what, "make room, or purge old jobs")
        return Finding("disk", Level.OK, what)

    def _fault(self, database: Database) -> Finding | None:
        """Look whether a database can be read, and is the one that belongs there."""
        history = CONTROL if database.shard_id is None else SHARD
        try:
            found = migrations.revision(database, history)
            if found == history.head and history is SHARD:
                self._directory.refuse_foreign(database)
        except ShardError as error:
            return _loss(database, error.what)
        if found == history.head:
            return None
        is_newer = found is not None and found > history.head
        return Finding(
            database.label,
            Level.ERROR,
            f"its tables are at revision {found or 'none'}, not {history.head}",
            "upgrade queue-max" if is_newer else "run `queue-max db upgrade`",
        )

    def _library(self) -> Finding:
        chosen = driver.choose()
        if not chosen.has_wal_reset_bug:
            return Finding("SQLite", Level.OK, chosen.name)
        return Finding(
            "SQLite",
            Level.WARNING,
            f"{chosen.name} has the WAL-reset bug; it is kept from being met",
            "`pip install queue-max[sqlite]` brings a sound library",
        )

    def _file_system(self) -> Finding:
        kind = filesystem.kind_of(self._directory.path)
        if filesystem.is_over_a_network(kind):
            return Finding("file system", Level.ERROR, f"{kind}", "move the queue to a local disk")
        return Finding("file system", Level.OK, kind or "unknown")

    def _permissions(self) -> Finding:
        folder = self._directory.path
        files = [folder, *folder.glob("*.db*")]
        if refused := [each for each in files if not os.access(each, os.R_OK | os.W_OK)]:
            what = f"{refused[0]} cannot be read and written"
            return Finding("permissions", Level.ERROR, what, f"chown it to user {os.geteuid()}")
        if seen := [each for each in files if stat.S_IMODE(each.stat().st_mode) & 0o077]:
            what = f"others may open {seen[0]}"
            return Finding("permissions", Level.WARNING, what, f"chmod go= {seen[0]}")
        return Finding("permissions", Level.OK, "only its owner may open the files")

    def _jobs(self, store: Store, shard: Database) -> Findings:
        """Look at each row of a shard, and at the leases."""
        damaged = []
        try:
            with store.reading(shard.shard_id or 0) as unit:
                damaged = [job for job in unit.job_lists.all() if job.damage is not None]
                stale = len(unit.leases.silent_since(unit.now - self._lease_time, 1000))
        except ShardError as error:
            yield _loss(shard, f"jobs: {error.what}")
            return
        if damaged:
            named = ", ".join(f"{job.key} ({job.damage})" for job in damaged[:SHOWN])
            yield Finding(
                shard.label,
                Level.ERROR,
                f"{len(damaged)} jobs are damaged: {named}",
                "they are buried and never run; `queue-max dlq requeue KEY --payload JSON` gives "
                "one another payload",
            )
        if stale:
            yield Finding(
                shard.label,
                Level.WARNING,
                f"{stale} jobs run whose workers are silent",
                "workers take them over by themselves: start one",
            )


def _held(store: Store, shard: Database) -> Findings:
    """Look for jobs that nobody who has seen them could run."""
    with suppress(ShardError), store.reading(shard.shard_id or 0) as unit:
        for gate, number in unit.job_lists.count_held().items():
            if not gates.is_for_a_time(gate):
                what = f"{number} jobs wait for {missing(gate)}"
                yield Finding(shard.label, Level.WARNING, what, remedy(gate))
            elif gates.concurrency_key(gate) is None:  # those stand in line as they are meant to
                what = f"{number} jobs are held by {gates.in_words(gate)}"
                yield Finding(shard.label, Level.OK, what)


def _closed(control: Database) -> Findings:
    """Look for what somebody has closed by hand and may have forgotten, and for open breakers."""
    with suppress(ShardError), Control(control).reading() as unit:
        for scope, reason in unit.limits.paused().items():
            what = paused_in_words(scope, reason)
            yield Finding("pauses", Level.WARNING, what, f"`{resuming(scope)}` lets it go on")
        for breaker in unit.breakers.list().values():
            if breaker.state is not CircuitState.CLOSED:
                state = str(breaker.state).replace("_", "-")
                why = f": {breaker.last_error}" if breaker.last_error else ""
                yield Finding(
                    "breakers",
                    Level.WARNING,
                    f"{breaker.name} is {state}{why}",
                    f"mend what it calls; `queue-max breakers close {breaker.name}` does not wait",
                )


def _loss(database: Database, what: str) -> Finding:
    remedy = _LOST_MAP if database.shard_id is None else _LOST_SHARD
    return Finding(database.label, Level.ERROR, what, remedy)


def _broken_structure(database: Database) -> Finding | None:
    """Let the database check its own structure."""
    try:
        faults = database.check()
    except ShardError as error:
        faults = [error.what]
    return _loss(database, "; ".join(faults)) if faults else None


def _long_log(shard: SqliteDatabase) -> Finding | None:
    size, _written_at = shard.wal()
    if size <= 2 * WAL_LIMIT:
        return None
    return Finding(
        shard.label,
        Level.WARNING,
        f"its write-ahead log has grown to {size / MIB:,.0f} MiB",
        "end the program that keeps a transaction open, such as a shell or a backup",
    )
