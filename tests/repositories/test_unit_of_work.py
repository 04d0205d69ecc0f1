import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.clock import FakeClock
from support.jobs import a_new_job

from queue_max.domain.clock import cut, utc_now
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.exceptions import (
    QueueClosedError,
    ShardBusyError,
    ShardDamagedError,
    ShardError,
    ShardNotFoundError,
)
from queue_max.repositories.unit_of_work import Store
from queue_max.storage.database import Database
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

Add = Callable[..., int]
Find = Callable[[int], Job | None]

only_sqlite = pytest.mark.parametrize("shard", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("shard", ["postgresql"], indirect=True)


def pending(store: Store) -> int:
    with store.reading(0) as unit:
        return unit.job_lists.counts().pending


@pytest.fixture
def another_program(shard: Database) -> Iterator[SqliteDatabase]:
    """The same file, opened a second time."""
    assert isinstance(shard, SqliteDatabase)
    database = SqliteDatabase(shard.path, 0, SqliteOptions(full_sync=False))
    yield database
    database.close()


# Commit and rollback


def test_what_a_unit_wrote_is_committed_on_leaving(store: Store) -> None:
    with store.writing(0) as unit:
        unit.jobs.add([a_new_job()])
        assert pending(store) == 0
    assert pending(store) == 1


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt])
def test_an_exception_undoes_all_that_a_unit_wrote(
    store: Store, exception: type[BaseException]
) -> None:
    def write_and_fail() -> None:
        with store.writing(0) as unit:
            unit.jobs.add([a_new_job()])
            unit.metadata.add_processed()
            raise exception

    with pytest.raises(exception):
        write_and_fail()
    with store.reading(0) as unit:
        assert unit.job_lists.counts().pending == 0
        assert unit.metadata.totals().processed == 0


def test_after_an_error_of_the_database_the_next_unit_starts_afresh(store: Store) -> None:
    known = a_new_job()
    with store.writing(0) as unit:
        unit.jobs.add([known])

    def add_twice() -> None:
        with store.writing(0) as unit:
            unit.jobs.add([a_new_job()])
            unit.jobs.add([known])

    with pytest.raises(ShardError):
        add_twice()
    with store.writing(0) as unit:
        unit.jobs.add([a_new_job()])
    assert pending(store) == 2


def test_an_error_of_the_database_names_the_shard_and_hides_the_payload(store: Store) -> None:
    known = a_new_job(payload='{"card":"4111"}')
    with store.writing(0) as unit:
        unit.jobs.add([known])
    with pytest.raises(ShardError, match=r"^shard 0: ") as caught, store.writing(0) as unit:
        unit.jobs.add([known])
    assert caught.value.shard_id == 0
    assert "4111" not in str(caught.value)


def test_what_is_written_while_reading_is_not_kept(store: Store) -> None:
    with store.reading(0) as unit:
        unit.jobs.add([a_new_job()])
    assert pending(store) == 0


# Who waits for whom


def test_reading_sees_one_state_whatever_is_written_meanwhile(store: Store, add: Add) -> None:
    add()
    with store.reading(0) as unit:
        before = unit.job_lists.counts()
        add()
        assert unit.job_lists.counts() == before
        assert len(unit.job_lists.list_by_status([JobStatus.PENDING], None)) == before.pending
    assert pending(store) == 2


def test_reading_does_not_wait_for_a_writer(store: Store, add: Add) -> None:
    add()
    with store.writing(0) as unit:
        assert unit.claims.claim_next(DEFAULT_QUEUE, "worker-1") is not None
        assert pending(store) == 1


@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_a_unit_waits_for_another_writer_no_longer_than_it_was_told(
    store: Store, add: Add, wait: float
) -> None:
    job_id = add()
    outcomes: list[BaseException | None] = []

    def write() -> None:
        try:
            with store.writing(0, wait) as unit:
                unit.claims.claim_next(DEFAULT_QUEUE, "worker-1")
                unit.metadata.add_processed()
            outcomes.append(None)
        except ShardError as error:
            outcomes.append(error)

    with store.writing(0) as unit:
        unit.claims.claim_next(DEFAULT_QUEUE, "worker-2")
        unit.metadata.add_processed()
        other = threading.Thread(target=write)
        other.start()
        other.join(20)
        assert [type(outcome) for outcome in outcomes] == [ShardBusyError]
    with store.writing(0) as unit:
        assert unit.jobs.complete(job_id, 1) is not None
        assert unit.metadata.totals().processed == 1


def test_the_next_writer_goes_on_when_one_leaves_by_an_exception(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.writing(0) as unit:
        unit.metadata.add_processed(1 // 0)
    with store.writing(0, wait=0.0) as unit:
        unit.metadata.add_processed()


# Time


def test_all_times_of_a_unit_are_its_own_now(store: Store, clock: FakeClock, find: Find) -> None:
    with store.writing(0) as unit:
        clock.advance(60)
        [job_id] = unit.jobs.add([a_new_job()])
        assert unit.now == clock.now - timedelta(seconds=60)
    job = find(job_id)
    assert job is not None
    assert job.created_at == "2026-01-01T12:00:00.000Z"


@only_sqlite
def test_the_clock_is_read_when_the_wait_for_the_lock_is_over(
    shard: Database, another_program: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, ticks = datetime(2026, 1, 1, tzinfo=UTC), itertools.count()

    def clock() -> datetime:
        return epoch + timedelta(seconds=next(ticks))

    store = Store([shard], clock)
    times: list[datetime] = []
    tries = itertools.count(1)
    is_waiting = threading.Event()

    def write() -> None:
        with store.writing(0) as unit:
            times.append(unit.now)

    def note_try() -> None:
        if next(tries) == 3:
            is_waiting.set()
        time.sleep(0.001)

    monkeypatch.setattr("queue_max.storage.writer.pause", note_try)
    writer = threading.Thread(target=write)
    with another_program.writing():
        writer.start()
        assert is_waiting.wait(20)
        end_of_wait = clock()
    writer.join(20)
    [now] = times
    assert now > end_of_wait


@only_postgresql
def test_postgresql_goes_by_the_clock_of_the_server(
    shard: Database, statements: list[tuple[str, Any]]
) -> None:
    store = Store([shard])
    server_time = text("SELECT clock_timestamp()")
    for opening in (store.reading, store.writing):
        with shard.reading() as connection:
            before = connection.execute(server_time).scalar_one()
        statements.clear()
        with opening(0) as unit:
            now = unit.now
        asked = [sql for sql, _ in statements]
        with shard.reading() as connection:
            after = connection.execute(server_time).scalar_one()
        assert cut(before) <= now <= after
        # Not the time at which the transaction began: it may have waited for the lock since.
        assert [sql for sql in asked if "clock_timestamp()" in sql]


@only_sqlite
def test_sqlite_goes_by_the_clock_of_the_host(shard: Database) -> None:
    before = utc_now()
    with Store([shard]).writing(0) as unit:
        now = unit.now
    assert before <= now <= utc_now()


# Which shard


@pytest.mark.parametrize("shard_id", [1, -1, 99])
def test_a_shard_that_does_not_exist_is_named(store: Store, shard_id: int) -> None:
    for opening in (store.reading, store.writing):
        with pytest.raises(ShardNotFoundError, match=rf"shard {shard_id}: .* 0 to 0"):
            opening(shard_id).__enter__()


def test_the_shards_are_numbered_from_0(store: Store) -> None:
    assert list(store.shard_ids) == [0]


@only_sqlite
def test_a_closed_store_has_closed_its_files(store: Store, shard: Database) -> None:
    with store.writing(0) as unit:
        unit.metadata.add_processed()
    store.close()
    assert isinstance(shard, SqliteDatabase)
    # The last one to close a file takes its WAL away.
    assert not Path(f"{shard.path}-wal").exists()


def test_a_closed_store_says_so(store: Store, shard: Database) -> None:
    store.close()
    for opening in (store.reading, store.writing):
        with pytest.raises(QueueClosedError):
            opening(0).__enter__()


# A visit


def test_a_visit_comes_to_locked_shards_last_and_waits_for_no_others(store: Store) -> None:
    calls: list[tuple[int, float | None]] = []

    def act(shard_id: int, wait: float | None) -> str:
        calls.append((shard_id, wait))
        if shard_id == 2:
            raise ShardDamagedError(2, "is damaged")
        if shard_id in {0, 3} and len(calls) <= 4:
            raise ShardBusyError(shard_id, "is locked")
        if shard_id == 3:
            raise ShardBusyError(3, "is still locked")
        return f"done in {shard_id}"

    outcomes = [(shard_id, str(outcome)) for shard_id, outcome in store.visit(range(4), act, 5.0)]
    assert calls == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0), (0, 5.0), (3, 5.0)]
    assert outcomes == [
        (1, "done in 1"),
        (2, "shard 2: is damaged"),
        (0, "done in 0"),
        (3, "shard 3: is still locked"),
    ]


def test_a_visit_goes_no_further_than_it_is_followed(store: Store) -> None:
    calls: list[int] = []

    def act(shard_id: int, _wait: float | None) -> None:
        calls.append(shard_id)

    for shard_id, _ in store.visit(range(4), act):
        if shard_id == 1:
            break
    assert calls == [0, 1]


def test_a_visit_waits_as_long_as_the_busy_timeout_unless_told(store: Store) -> None:
    waits: list[float | None] = []

    def act(shard_id: int, wait: float | None) -> None:
        waits.append(wait)
        raise ShardBusyError(shard_id, "is locked")

    assert len(list(store.visit([0], act))) == 1
    assert waits == [0.0, None]


def test_a_visit_ends_with_an_error_that_is_not_of_a_shard(store: Store) -> None:
    def act(_shard_id: int, _wait: float | None) -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        list(store.visit([0], act))
