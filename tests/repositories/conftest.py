"""Steps in a job's life, taken on one shard of either kind of database."""

import itertools
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, event, insert
from support.clock import FakeClock
from support.jobs import a_new_job
from support.postgres import PostgresServer

from queue_max.domain.identity import new_uid
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.repositories.compiled import Compiled
from queue_max.repositories.control import Control
from queue_max.repositories.job_lists import Counts
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.storage import migrations
from queue_max.storage.database import Database
from queue_max.storage.directory import Directory
from queue_max.storage.migrations import CONTROL
from queue_max.storage.schema import (
    control_tables,
    dead_letters,
    jobs,
    shard_metadata,
    shard_tables,
)
from queue_max.storage.sqlite import SqliteOptions

TABLES = (jobs.name, dead_letters.name)
"""Those that grow, and are not to be read from end to end."""


@pytest.fixture(scope="session")
def postgres_shard(postgres: PostgresServer) -> Iterator[Database]:
    with postgres.new_database() as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def shard(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """A migrated shard, as everywhere; on PostgreSQL one and the same, emptied for each test.

    To empty it takes a millisecond, to make another a quarter of a second.
    """
    if request.param == "postgresql":
        database: Database = request.getfixturevalue("postgres_shard")
        with database.writing() as connection:
            for table in shard_tables.sorted_tables:
                connection.execute(delete(table))
            # The row that a shard has about itself; migrations alone do not write it.
            row = {"shard_id": 0, "created_at": clock.now}
            connection.execute(insert(shard_metadata).values(row))
        yield database
    else:
        directory = Directory(tmp_path / "shards", SqliteOptions(full_sync=False))
        yield directory.open(1)[0]
        directory.close()


@pytest.fixture(scope="session")
def postgres_control(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    with postgres.new_database("template1") as database:
        migrations.upgrade(database, CONTROL, tmp_path_factory.mktemp("backups"))
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated control database; on PostgreSQL one and the same, emptied for each test."""
    if request.param == "postgresql":
        found: Database = request.getfixturevalue("postgres_control")
        with found.writing() as connection:
            for table in control_tables.sorted_tables:
                connection.execute(delete(table))
        yield found
    else:
        directory = Directory(tmp_path, SqliteOptions(full_sync=False))
        directory.open(1)
        yield directory.control
        directory.close()


@pytest.fixture
def control(database: Database, clock: FakeClock) -> Control:
    return Control(database, clock=clock)


@pytest.fixture
def add(store: Store) -> Callable[..., int]:
    """Store one job; gives its id."""

    def add(**fields: Any) -> int:
        with store.writing(0) as unit:
            return unit.jobs.add([a_new_job(**fields)])[0]

    return add


@pytest.fixture
def claim(store: Store) -> Callable[..., Job | None]:
    """Give the next job to a worker."""

    def claim(worker_id: str = "worker-1") -> Job | None:
        with store.writing(0) as unit:
            return unit.claims.claim_next(DEFAULT_QUEUE, worker_id)

    return claim


@pytest.fixture
def start(add: Callable[..., int], claim: Callable[..., Job | None]) -> Callable[..., Job]:
    """Store one job and give it to a worker; for where no other job is due."""

    def start(worker_id: str = "worker-1", **fields: Any) -> Job:
        job_id = add(**fields)
        job = claim(worker_id)
        assert job is not None
        assert job.id == job_id
        return job

    return start


@pytest.fixture
def find(store: Store) -> Callable[[int], Job | None]:
    """Read one job, whatever state it is in; None when it is gone."""

    def find(job_id: int) -> Job | None:
        with store.reading(0) as unit:
            found = unit.job_lists.list_by_status(tuple(JobStatus), limit=None)
        return next((job for job in found if job.id == job_id), None)

    return find


@pytest.fixture
def in_status(store: Store) -> Callable[..., list[Job]]:
    """List the jobs in some states."""

    def in_status(*statuses: JobStatus, limit: int | None = None) -> list[Job]:
        with store.reading(0) as unit:
            return unit.job_lists.list_by_status(statuses, limit)

    return in_status


@pytest.fixture
def counts(store: Store) -> Callable[[], Counts]:
    """Count all jobs."""

    def counts() -> Counts:
        with store.reading(0) as unit:
            return unit.job_lists.counts()

    return counts


@pytest.fixture
def insert_rows(shard: Database, clock: FakeClock) -> Callable[[list[dict[str, Any]]], None]:
    """Store jobs in any state, straight into the table."""

    def insert_rows(rows: list[dict[str, Any]]) -> None:
        common = {"payload": "{}", "created_at": clock.now}
        with shard.writing() as connection:
            connection.execute(insert(jobs), [common | {"uid": new_uid()} | row for row in rows])

    return insert_rows


@pytest.fixture
def schedule(
    insert_rows: Callable[[list[dict[str, Any]]], None], clock: FakeClock
) -> Callable[..., None]:
    """Store jobs that are due so many seconds from now."""

    def schedule(*seconds: float) -> None:
        due = [clock.now + timedelta(seconds=each) for each in seconds]
        insert_rows([{"status": "scheduled", "next_retry_at": moment} for moment in due])

    return schedule


@pytest.fixture
def fill(
    insert_rows: Callable[[list[dict[str, Any]]], None], clock: FakeClock
) -> Callable[[], None]:
    """Store 2,000 jobs, some in each state."""

    def fill() -> None:
        moment = clock.now - timedelta(days=1)
        in_states: list[dict[str, Any]] = [
            {"status": "pending"},
            {"status": "scheduled", "next_retry_at": moment},
            {"status": "processing", "heartbeat": moment},
            {"status": "failed", "completed_at": moment},
        ]
        insert_rows([{"priority": at % 3} | in_states[at % 4] for at in range(2_000)])

    return fill


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to databases from now on, with its parameters."""
    sent: list[tuple[str, Any]] = []
    run = Compiled.run

    def noted(compiled: Compiled, connection: Connection, **values: Any) -> Any:
        if connection.dialect.name == "sqlite":  # the driver runs it, unseen
            sent.append((compiled._text, compiled._constants | values))
        return run(compiled, connection, **values)

    monkeypatch.setattr(Compiled, "run", noted)

    def note(_connection: object, _cursor: object, sql: str, values: Any, *_: object) -> None:
        sent.append((sql, values))

    event.listen(Engine, "before_cursor_execute", note)
    yield sent
    event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def plan(
    store: Store, shard: Database, statements: list[tuple[str, Any]]
) -> Callable[[Callable[[UnitOfWork], object]], list[str]]:
    """Tell how the statements of a step are run; fails when that scans or sorts a table.

    They are planned without values, since a plan that is kept has to do for all of them.
    """

    def plan(step: Callable[[UnitOfWork], object]) -> list[str]:
        with store.writing(0) as unit:
            statements.clear()
            step(unit)
            sent = list(statements)
        touching = []
        for sql, values in sent:
            with shard.writing() as connection:
                if connection.dialect.name == "sqlite":
                    nothing = dict.fromkeys(values) if ":" in sql else (None,) * len(values)
                    touching += plan_of_sqlite(connection, sql, nothing)
                else:
                    touching += plan_of_postgresql(connection, sql)
        return touching

    return plan


def plan_of_sqlite(connection: Connection, sql: str, values: Any) -> list[str]:
    cursor = connection.connection.cursor()
    lines = [row[-1] for row in cursor.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    touching = [line for line in lines if any(table in line for table in TABLES)]
    assert all("INDEX" in line or "PRIMARY KEY" in line for line in touching)
    assert not [line for line in lines if "TEMP B-TREE" in line]
    return touching


def plan_of_postgresql(connection: Connection, sql: str) -> list[str]:
    """It takes a sequential scan, forbidden here, only where no index fits."""
    connection.exec_driver_sql("ANALYZE")
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    numbers = itertools.count(1)
    generic = re.sub(r"%\(\w+\)s", lambda _: f"${next(numbers)}", sql)
    lines = connection.exec_driver_sql(f"EXPLAIN (GENERIC_PLAN) {generic}").scalars().all()
    assert not [line for line in lines if any(f"Seq Scan on {table}" in line for table in TABLES)]
    assert not [line for line in lines if "Sort Key" in line]
    return [line for line in lines if any(table in line for table in TABLES)]
