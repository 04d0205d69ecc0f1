"""Steps in a job's life, taken on one shard of either kind of database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, insert
from support.clock import FakeClock
from support.jobs import a_new_job
from support.postgres import PostgresServer

from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.repositories.unit_of_work import Store
from queue_max.storage.database import Database
from queue_max.storage.directory import Directory
from queue_max.storage.schema import shard_metadata, shard_tables
from queue_max.storage.sqlite import SqliteOptions


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
            return unit.jobs.claim_next(DEFAULT_QUEUE, worker_id)

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
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What is sent to databases from now on, with its parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, sql: str, values: Any, *_: object) -> None:
        sent.append((sql, values))

    event.listen(Engine, "before_cursor_execute", note)
    yield sent
    event.remove(Engine, "before_cursor_execute", note)
