from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.failures import Failure
from queue_max.domain.identity import new_uid
from queue_max.domain.job import Job, JobStatus
from queue_max.domain.reference import JobRef
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

ENDED = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


def all_before(moment: datetime) -> dict[JobStatus, datetime]:
    return dict.fromkeys(ENDED, moment)


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


def test_jobs_are_counted_in_no_state_further_than_asked(
    store: Store, add: Add, start: Start, schedule: Schedule
) -> None:
    start()
    schedule(60, 60)
    for _ in range(4):
        add()
    with store.reading(0) as unit:
        found = [unit.job_lists.counts(at_most) for at_most in (1, 3)]
    assert found == [Counts(1, 1, 1, 0), Counts(3, 2, 1, 0)]
    assert found[1].largest == 3


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


@pytest.mark.parametrize("status", ENDED)
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
        week_ago = all_before(clock.now - timedelta(days=7))
        assert unit.job_lists.delete_ended_before(week_ago, limit=100) == 2
    kept = [job.completed_at for job in in_status(status)]
    assert kept == [to_text(clock.now), to_text(clock.now - timedelta(days=7))]


def test_each_kind_of_job_is_deleted_by_a_moment_of_its_own(
    store: Store, clock: FakeClock, insert_rows: InsertRows, in_status: InStatus
) -> None:
    ages = dict(zip(ENDED, (1, 2, 3), strict=True))
    moments = {status: clock.now - timedelta(days=age) for status, age in ages.items()}
    insert_rows(
        [
            {"status": status, "completed_at": clock.now - timedelta(days=age)}
            for status in ENDED
            for age in (0.5, 1.5, 2.5, 3.5)
        ]
    )
    with store.writing(0) as unit:
        assert unit.job_lists.has_ended_before(moments)
        assert unit.job_lists.delete_ended_before(moments, limit=100) == 3 + 2 + 1
        assert not unit.job_lists.has_ended_before(moments)
    assert [len(in_status(status)) for status in ENDED] == [1, 2, 3]


def test_no_more_jobs_are_deleted_than_asked(
    store: Store, clock: FakeClock, insert_rows: InsertRows
) -> None:
    insert_rows([{"status": ENDED[at % 3], "completed_at": clock.now} for at in range(5)])
    later = all_before(clock.now + timedelta(days=1))
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
        later = all_before(clock.now + timedelta(days=99))
        unit.job_lists.delete_ended_before(later, limit=100)
    assert [job.id for job in in_status(*JobStatus)] == [buried.id]


def test_jobs_that_have_not_ended_are_never_deleted_for_their_age(
    store: Store, clock: FakeClock, add: Add, start: Start, schedule: Schedule, counts: CountAll
) -> None:
    start()
    add()
    schedule(60)
    with store.writing(0) as unit:
        later = all_before(clock.now + timedelta(days=99))
        assert unit.job_lists.delete_ended_before(later, limit=100) == 0
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


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda unit: unit.job_lists.has_ended_before(all_before(unit.now)), id="look"),
        pytest.param(
            lambda unit: unit.job_lists.delete_ended_before(all_before(unit.now), 100), id="delete"
        ),
    ],
)
def test_jobs_of_an_age_are_found_by_an_index_and_no_index_is_read_from_end_to_end(
    plan: Plan, fill: Callable[[], None], step: Callable[[UnitOfWork], object]
) -> None:
    fill()
    lines = plan(step)
    assert len([line for line in lines if "ix_fila_ended" in line]) == len(ENDED)
    assert not [line for line in lines if line.startswith("SCAN")]  # as SQLite has it


def test_failed_jobs_that_are_named_are_deleted_without_a_look_at_all_the_failed(
    plan: Plan, fill: Callable[[], None]
) -> None:
    fill()
    named = [JobRef(0, job_id=4 * n) for n in range(9)] + [JobRef(0, new_uid()) for _ in range(9)]
    lines = plan(lambda unit: unit.job_lists.delete_failed(named))
    assert lines
    assert not [line for line in lines if "ix_fila_ended" in line]
