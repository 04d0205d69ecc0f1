from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from support.clock import FakeClock

from queue_max.domain.identity import new_uid
from queue_max.domain.job import Job, JobStatus
from queue_max.domain.retention import DaysKept
from queue_max.exceptions import (
    ConfigurationError,
    LeaseLostError,
    ShardBusyError,
    ShardDamagedError,
)
from queue_max.repositories.unit_of_work import Store
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.inspection import InspectionService
from queue_max.services.retention import STEP, RetentionService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService
from queue_max.storage.schema import jobs
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

Add = Callable[..., list[int]]
Start = Callable[..., Job]
End = Callable[..., None]
Delete = Callable[[RetentionService], int]


@pytest.fixture
def end(shard_files: list[Path], clock: FakeClock) -> End:
    """Store jobs that ended so many days ago, without dead letters."""

    def end(*days_ago: float, shard_id: int = 0, created: float = 99, **fields: Any) -> None:
        rows = [
            {
                "payload": "{}",
                "uid": new_uid(),
                "status": "failed",
                "created_at": clock.now - timedelta(days=created),
                "completed_at": clock.now - timedelta(days=days),
            }
            | fields
            for days in days_ago
        ]
        database = SqliteDatabase(shard_files[shard_id], shard_id, SqliteOptions(full_sync=False))
        with database.writing() as connection:
            connection.execute(insert(jobs), rows)
        database.close()

    return end


def free_pages(path: Path) -> int:
    """Count the pages of a file that hold nothing."""
    database = SqliteDatabase(path, 0, SqliteOptions())
    with database.reading() as connection:
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    database.close()
    return int(free)


# By age


def test_what_counts_is_the_end_of_a_job_and_not_its_beginning(
    retention: RetentionService, end: End, inspection: InspectionService
) -> None:
    end(6.9, 7.1, 30, created=100)
    assert retention.clean_up(7) == 2
    assert inspection.counts().failed == 1


def test_a_day_is_24_hours_to_the_millisecond(
    retention: RetentionService, end: End, clock: FakeClock
) -> None:
    end(0)
    clock.advance(86_400)
    assert retention.clean_up(1) == 0
    clock.advance(0.001)
    assert retention.clean_up(1) == 1


def test_parts_of_a_day_and_no_time_at_all_are_taken(
    retention: RetentionService, end: End, clock: FakeClock
) -> None:
    end(0, 0.4, 0.6)
    clock.advance(1)
    assert retention.clean_up(0.5) == 1
    assert retention.clean_up(0) == 2


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_each_kind_of_end_counts(retention: RetentionService, end: End, status: str) -> None:
    end(8, status=status)
    assert retention.clean_up(7) == 1


def test_a_failed_job_with_a_dead_letter_stays(
    retention: RetentionService,
    retry: RetryService,
    start: Start,
    dead_letters: DeadLetterService,
    clock: FakeClock,
) -> None:
    job = start()
    retry.settle(job.id, 0, "never", permanent=True)
    clock.advance(99 * 86_400)
    assert retention.clean_up(7) == 0
    assert dead_letters.revive(0, job.id)


own_days = pytest.mark.parametrize("kept", [DaysKept(7, completed=1, failed=2, cancelled=3)])
clean_up_or_tidy = pytest.mark.parametrize(
    "delete", [RetentionService.clean_up, RetentionService.tidy]
)


@own_days
@clean_up_or_tidy
def test_each_kind_of_end_may_have_days_of_its_own(
    retention: RetentionService, end: End, inspection: InspectionService, delete: Delete
) -> None:
    for status in ("completed", "failed", "cancelled"):
        end(0.5, 1.5, 2.5, 3.5, status=status)
    assert delete(retention) == 3 + 2 + 1
    left = Counter(job.status for job in inspection.jobs(tuple(JobStatus), None))
    assert left == {"completed": 1, "failed": 2, "cancelled": 3}


@own_days
def test_days_that_are_asked_for_hold_for_all_kinds(retention: RetentionService, end: End) -> None:
    for status in ("completed", "failed", "cancelled"):
        end(4.5, 5.5, status=status)
    assert retention.clean_up(5) == 3


@pytest.fixture
def bury(start: Start, retry: RetryService) -> Callable[[], Job]:
    """Store a job that fails for good."""

    def bury() -> Job:
        job = start()
        retry.settle_job(job, "never", permanent=True)
        return job

    return bury


@pytest.mark.parametrize("kept", [DaysKept(7, dead_letters=30)])
@clean_up_or_tidy
def test_a_dead_letter_may_be_given_days_and_then_goes_with_its_job_and_attempts(
    retention: RetentionService,
    bury: Callable[[], Job],
    dead_letters: DeadLetterService,
    store: Store,
    clock: FakeClock,
    find: Callable[..., Job | None],
    delete: Delete,
) -> None:
    old = bury()
    clock.advance(86_400)
    young = bury()
    clock.advance(29 * 86_400)
    assert delete(retention) == 0
    clock.advance(0.001)
    assert delete(retention) == 1
    assert [letter.key for letter in dead_letters.list()] == [young.key]
    assert (find(old.id), find(young.id) is not None) == (None, True)
    with store.reading(0) as unit:
        assert [len(unit.attempts.of(str(job.uid))) for job in (old, young)] == [0, 1]


@pytest.mark.parametrize("kept", [DaysKept(0, dead_letters=30)])
def test_a_dead_letter_whose_job_was_purged_goes_in_its_time_too(
    retention: RetentionService,
    bury: Callable[[], Job],
    dead_letters: DeadLetterService,
    clock: FakeClock,
) -> None:
    bury()
    retention.purge("failed")
    clock.advance(29 * 86_400)
    assert retention.tidy() == 0
    clock.advance(2 * 86_400)
    assert retention.tidy() == 1
    assert list(dead_letters.list()) == []


@pytest.mark.parametrize("kept", [DaysKept(7, dead_letters=0)])
def test_days_that_are_asked_for_leave_dead_letters_alone(
    retention: RetentionService,
    bury: Callable[[], Job],
    dead_letters: DeadLetterService,
    clock: FakeClock,
) -> None:
    bury()
    clock.advance(99 * 86_400)
    assert retention.clean_up(0) == 0
    assert len(dead_letters.list()) == 1


@pytest.mark.parametrize("kept", [DaysKept(7, dead_letters=0)])
@clean_up_or_tidy
def test_jobs_with_and_without_dead_letters_go_in_the_same_small_steps(
    retention: RetentionService,
    end: End,
    bury: Callable[[], Job],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    delete: Delete,
    store: Store,
) -> None:
    monkeypatch.setattr("queue_max.services.retention.STEP", 3)
    end(*[8] * 4)
    for _ in range(4):
        bury()
    clock.advance(1)
    left = []
    writing = store.writing

    def note(*arguments: Any) -> Any:
        with store.reading(0) as unit:
            left.append(unit.job_lists.counts().failed)
        return writing(*arguments)

    monkeypatch.setattr(store, "writing", note)
    assert delete(retention) == 8
    assert left[:3] == [8, 5, 2]


def test_jobs_that_wait_or_run_stay_however_old_they_are(
    retention: RetentionService,
    retry: RetryService,
    start: Start,
    add: Add,
    clock: FakeClock,
    inspection: InspectionService,
) -> None:
    retry.settle(start().id, 0, "not yet")
    start()
    add()
    clock.advance(99 * 86_400)
    assert retention.clean_up(7) == 0
    assert inspection.counts().unfinished == 3


@pytest.mark.parametrize("shard_count", [2])
def test_all_shards_are_cleaned_up_in_steps(
    retention: RetentionService, end: End, statements: list[str], inspection: InspectionService
) -> None:
    end(*[8] * 2_300, shard_id=0)
    end(8, 8, shard_id=1)
    statements.clear()
    assert retention.clean_up(7) == 2_302
    deletes = [sql for sql in statements if "DELETE FROM fila" in sql]
    assert len(deletes) == 3 + 1
    assert inspection.counts().failed == 0


@pytest.mark.parametrize("days", [-1, 36_501, float("nan"), float("inf"), "7", True])
def test_an_age_that_makes_no_sense_is_refused(
    retention: RetentionService, end: End, inspection: InspectionService, days: Any
) -> None:
    end(8)
    with pytest.raises(ConfigurationError, match="days="):
        retention.clean_up(days)
    assert inspection.counts().failed == 1


# Vacuum


def test_what_was_deleted_is_given_back_and_the_time_noted(
    retention: RetentionService,
    end: End,
    store: Store,
    clock: FakeClock,
    shards: list[SqliteDatabase],
) -> None:
    end(*[8] * 50, payload=f'"{"x" * 5_000}"')
    size = shards[0].path.stat().st_size
    assert retention.clean_up(7) == 50
    shards[0].close()
    assert shards[0].path.stat().st_size < size
    with store.reading(0) as unit:
        assert unit.metadata.last_vacuum() == clock.now


def test_a_shard_is_vacuumed_once_a_day_at_the_most(
    retention: RetentionService,
    end: End,
    store: Store,
    clock: FakeClock,
    shard_files: list[Path],
) -> None:
    big = f'"{"x" * 5_000}"'
    end(*[8] * 10, payload=big)
    retention.clean_up(7)
    first = clock.now
    clock.advance(86_399)
    end(*[8] * 10, payload=big)
    assert retention.clean_up(7) == 10
    assert free_pages(shard_files[0]) > 0
    with store.reading(0) as unit:
        assert unit.metadata.last_vacuum() == first
    clock.advance(1)
    end(8)
    retention.clean_up(7)
    assert free_pages(shard_files[0]) == 0
    with store.reading(0) as unit:
        assert unit.metadata.last_vacuum() == clock.now


def test_another_process_knows_of_the_last_vacuum(
    retention: RetentionService, end: End, store: Store, clock: FakeClock, shard_files: list[Path]
) -> None:
    end(8)
    retention.clean_up(7)
    clock.advance(3600)
    end(*[8] * 10, payload=f'"{"x" * 5_000}"')
    RetentionService(store, DaysKept(7)).clean_up()
    assert free_pages(shard_files[0]) > 0


@pytest.mark.parametrize("shard_count", [2])
def test_a_shard_of_which_nothing_was_deleted_is_not_vacuumed(
    retention: RetentionService, end: End, store: Store, clock: FakeClock
) -> None:
    end(8, shard_id=1)
    retention.clean_up(7)
    vacuums = []
    for shard_id in store.shard_ids:
        with store.reading(shard_id) as unit:
            vacuums.append(unit.metadata.last_vacuum())
    assert vacuums == [None, clock.now]


# By state


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ("pending", {JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.COMPLETED}),
        (
            "processing",
            {JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.FAILED, JobStatus.COMPLETED},
        ),
        (
            "failed",
            {JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.PROCESSING, JobStatus.COMPLETED},
        ),
        (None, set()),
    ],
)
@pytest.mark.parametrize("shard_count", [2])
def test_all_jobs_in_a_state_are_purged(
    retention: RetentionService,
    retry: RetryService,
    start: Start,
    add: Add,
    end: End,
    inspection: InspectionService,
    status: str | None,
    left: set[JobStatus],
) -> None:
    for shard_id in range(2):
        retry.settle(start(shard_id=shard_id).id, shard_id, "not yet")
        retry.settle(start(shard_id=shard_id).id, shard_id, "never", permanent=True)
        start(shard_id=shard_id)
        add(shard_id=shard_id)
        end(0, shard_id=shard_id, status="completed")
    assert retention.purge(status, force=True) == 10 - 2 * len(left)
    remaining = inspection.jobs(tuple(JobStatus), None)
    assert {job.status for job in remaining} == left
    assert len(remaining) == 2 * len(left)


def test_dead_letters_outlive_a_purge(
    retention: RetentionService,
    retry: RetryService,
    start: Start,
    dead_letters: DeadLetterService,
) -> None:
    job = start()
    retry.settle(job.id, 0, "never", permanent=True)
    assert retention.purge(None) == 1
    assert [letter["original_job_id"] for letter in dead_letters.newest(0, 10)] == [job.id]


def test_a_worker_whose_job_was_purged_has_lost_its_lease(
    retention: RetentionService, settlement: SettlementService, start: Start, add: Add
) -> None:
    job = start()
    assert retention.purge("processing") == 0
    assert retention.purge("processing", force=True) == 1
    add()
    with pytest.raises(LeaseLostError):
        settlement.complete(job.id, 0, fence=job.fence)


@pytest.mark.parametrize("status", ["done", "", "PENDING", "'; DROP TABLE fila", []])
def test_a_state_that_cannot_be_purged_is_refused(
    retention: RetentionService, add: Add, inspection: InspectionService, status: Any
) -> None:
    add()
    with pytest.raises(ConfigurationError, match="failed, pending, processing"):
        retention.purge(status)
    assert inspection.counts().pending == 1


# Shards that refuse


@pytest.mark.parametrize("shard_count", [3])
@pytest.mark.parametrize(
    "delete", [lambda retention: retention.clean_up(7), lambda retention: retention.purge("failed")]
)
def test_a_shard_that_refuses_is_told_once_all_others_are_done(
    retention: RetentionService,
    end: End,
    inspection: InspectionService,
    damage: Callable[[int], None],
    delete: Callable[[RetentionService], int],
) -> None:
    for shard_id in range(3):
        end(8, shard_id=shard_id)
    damage(0)
    damage(1)
    with pytest.raises(ShardDamagedError, match="shard 0"):
        delete(retention)
    assert inspection.counts([2]).failed == 0


@pytest.mark.parametrize("shard_count", [2])
@pytest.mark.parametrize("busy_timeout_ms", [20])
@pytest.mark.parametrize(
    "delete", [lambda retention: retention.clean_up(7), lambda retention: retention.purge("failed")]
)
def test_a_shard_that_is_locked_comes_last(
    retention: RetentionService,
    end: End,
    inspection: InspectionService,
    locked: Callable[[int], AbstractContextManager[None]],
    delete: Callable[[RetentionService], int],
) -> None:
    end(8, shard_id=0)
    end(8, shard_id=1)
    with locked(0), pytest.raises(ShardBusyError, match="shard 0"):
        delete(retention)
    assert [inspection.counts([shard_id]).failed for shard_id in range(2)] == [1, 0]


def test_what_was_deleted_before_a_shard_was_locked_counts(
    retention: RetentionService,
    end: End,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end(*[8] * 1_500)
    writing, begun = store.writing, []

    def busy_the_second_time(shard_id: int, wait: float | None = None) -> Any:
        begun.append(wait)
        if len(begun) == 2:
            raise ShardBusyError(shard_id, "is locked")
        return writing(shard_id, wait)

    monkeypatch.setattr(store, "writing", busy_the_second_time)
    assert retention.clean_up(7) == 1_500
    assert begun[:3] == [0.0, 0.0, None]


def test_all_that_is_old_goes_however_much_and_of_whatever_kind(
    retention: RetentionService, end: End, clock: FakeClock
) -> None:
    end(*[10] * (STEP + 500))
    end(*[1] * 5, status="completed", keep_until=clock.now)
    assert retention.clean_up(7) == STEP + 505


def test_what_is_old_or_expired_is_tidied_away_without_a_lock_where_nothing_is(
    retention: RetentionService, end: End, clock: FakeClock, statements: list[str]
) -> None:
    end(*[10] * (STEP + 500))
    end(*[1] * 5, status="completed", keep_until=clock.now)
    end(1, status="completed", keep_until=clock.now + timedelta(days=1))
    assert retention.tidy() == STEP + 505
    statements.clear()
    assert retention.tidy() == 0
    assert "BEGIN IMMEDIATE" not in statements
