from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job, JobStatus
from queue_max.repositories.job_lists import Counts
from queue_max.repositories.unit_of_work import Store, UnitOfWork

FAILURE = Failure("ValueError", "no such page", "Traceback: ...")

Add = Callable[..., int]
Claim = Callable[..., Job | None]
Start = Callable[..., Job]
Find = Callable[[int], Job | None]
Schedule = Callable[..., None]
InsertRows = Callable[[list[dict[str, Any]]], None]
InStatus = Callable[..., list[Job]]
CountAll = Callable[[], Counts]
Plan = Callable[[Callable[[UnitOfWork], object]], list[str]]


# Counting and listing


def test_jobs_are_counted_by_state(
    store: Store, add: Add, start: Start, schedule: Schedule, counts: CountAll
) -> None:
    failed = start()
    with store.writing(0) as unit:
        unit.jobs.fail(failed, FAILURE)
    start()
    schedule(60, 60)
    for _ in range(3):
        add()
    assert counts() == Counts(pending=3, scheduled=2, processing=1, failed=1)


def test_counts_add_up() -> None:
    total = Counts(1, 2, 3, 4) + Counts(10, 20, 30, 40)
    assert total == Counts(pending=11, scheduled=22, processing=33, failed=44)
    assert total.unfinished == 66


def test_what_waits_is_counted_no_further_than_asked(
    store: Store, add: Add, start: Start, schedule: Schedule
) -> None:
    start()
    for _ in range(4):
        add()
    with store.reading(0) as unit:
        assert unit.job_lists.count_waiting(3) == 3
        assert unit.job_lists.count_waiting(100) == 4
    schedule(60, 60)
    with store.reading(0) as unit:
        assert unit.job_lists.count_waiting(100) == 6


def test_jobs_are_listed_newest_first_and_bounded(add: Add, in_status: InStatus) -> None:
    ids = [add(priority=number % 3) for number in range(5)]
    listed = in_status(JobStatus.PENDING, limit=3)
    assert [job.id for job in listed] == ids[:1:-1]


def test_jobs_are_listed_in_each_state_and_in_several(
    clock: FakeClock, insert_rows: InsertRows, in_status: InStatus
) -> None:
    ended = {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    rows = [
        {"status": status, "completed_at": clock.now if status in ended else None}
        for status in JobStatus
    ]
    insert_rows(rows)
    for status in JobStatus:
        assert [job.status for job in in_status(status)] == [status]
    several = in_status(JobStatus.FAILED, JobStatus.PENDING)
    assert {job.status for job in several} == {JobStatus.FAILED, JobStatus.PENDING}
    assert len(in_status(*JobStatus)) == len(JobStatus)


def test_a_damaged_row_is_listed_without_a_payload_and_says_what_is_wrong(
    insert_rows: InsertRows, in_status: InStatus
) -> None:
    insert_rows([{"id": 7, "payload": '{"n":'}])
    insert_rows([{"id": 8, "payload": '{"n":1}', "checksum": 5}])
    unlike, broken = in_status(JobStatus.PENDING)
    assert (broken.id, broken.payload, broken.damage) == (7, {}, "its payload is not JSON")
    assert (unlike.id, unlike.payload) == (8, {})
    assert unlike.damage == "its payload is not the one that was stored"


# Deleting


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_jobs_are_deleted_by_the_time_of_their_end(
    store: Store, clock: FakeClock, insert_rows: InsertRows, in_status: InStatus, status: JobStatus
) -> None:
    ages = [timedelta(days=8), timedelta(days=7, milliseconds=1), timedelta(days=7), timedelta(0)]
    insert_rows(
        [
            {
                "status": status,
                "completed_at": clock.now - age,
                "created_at": clock.now - timedelta(days=30),
            }
            for age in ages
        ],
    )
    with store.writing(0) as unit:
        assert unit.job_lists.delete_ended_before(clock.now - timedelta(days=7), limit=100) == 2
    kept = [job.completed_at for job in in_status(status)]
    assert kept == [to_text(clock.now), to_text(clock.now - timedelta(days=7))]


def test_no_more_jobs_are_deleted_than_asked(
    store: Store, clock: FakeClock, insert_rows: InsertRows
) -> None:
    insert_rows([{"status": "completed", "completed_at": clock.now}] * 5)
    later = clock.now + timedelta(days=1)
    deleted = []
    for _ in range(3):
        with store.writing(0) as unit:
            deleted.append(unit.job_lists.delete_ended_before(later, limit=3))
    assert deleted == [3, 2, 0]


def test_a_job_with_a_dead_letter_is_not_deleted_for_its_age(
    store: Store, clock: FakeClock, start: Start, in_status: InStatus
) -> None:
    buried, failed = start(), start()
    with store.writing(0) as unit:
        for job in (buried, failed):
            unit.jobs.fail(job, FAILURE)
        unit.dead_letters.add(buried, FAILURE, "permanent")
    with store.writing(0) as unit:
        unit.job_lists.delete_ended_before(clock.now + timedelta(days=99), limit=100)
    assert [job.id for job in in_status(*JobStatus)] == [buried.id]


def test_jobs_that_have_not_ended_are_never_deleted_for_their_age(
    store: Store, clock: FakeClock, add: Add, start: Start, schedule: Schedule, counts: CountAll
) -> None:
    start()
    add()
    schedule(60)
    with store.writing(0) as unit:
        assert unit.job_lists.delete_ended_before(clock.now + timedelta(days=99), limit=100) == 0
    assert counts().unfinished == 3


@pytest.mark.parametrize(
    ("statuses", "left"),
    [
        ([JobStatus.PENDING], Counts(0, 1, 1, 1)),
        ([JobStatus.PENDING, JobStatus.SCHEDULED], Counts(0, 0, 1, 1)),
        ([JobStatus.PROCESSING], Counts(1, 1, 0, 1)),
        ([JobStatus.FAILED], Counts(1, 1, 1, 0)),
        (list(JobStatus), Counts()),
    ],
)
def test_jobs_are_purged_by_state(
    store: Store,
    add: Add,
    start: Start,
    schedule: Schedule,
    counts: CountAll,
    statuses: list[JobStatus],
    left: Counts,
) -> None:
    failed = start()
    with store.writing(0) as unit:
        unit.jobs.fail(failed, FAILURE)
    start()
    schedule(60)
    add()
    with store.writing(0) as unit:
        purged = unit.job_lists.purge(statuses)
    assert counts() == left
    assert purged == 4 - left.unfinished - left.failed


# Cost


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda unit: unit.job_lists.counts(), id="counts"),
        pytest.param(lambda unit: unit.job_lists.count_waiting(1_000), id="count_waiting"),
    ],
)
def test_to_count_goes_by_an_index(
    plan: Plan, fill: Callable[[], None], step: Callable[[UnitOfWork], object]
) -> None:
    fill()
    assert plan(step)
