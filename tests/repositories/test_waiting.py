from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.identity import new_uid
from queue_max.domain.job import Job, JobStatus
from queue_max.repositories.unit_of_work import Store, UnitOfWork

Add = Callable[..., int]
InsertRows = Callable[[list[dict[str, Any]]], None]
Plan = Callable[[Callable[[UnitOfWork], object]], list[str]]


@pytest.fixture
def last_id(store: Store) -> Callable[[], int]:
    def last_id() -> int:
        with store.reading(0) as unit:
            return unit.waiting.last_id()

    return last_id


def test_each_job_that_comes_raises_the_last_id_by_one_also_when_others_have_gone(
    store: Store, add: Add, last_id: Callable[[], int]
) -> None:
    add()
    before = last_id()
    add()
    add()
    assert last_id() == before + 2
    with store.writing(0) as unit:
        unit.job_lists.purge(tuple(JobStatus))
    assert last_id() == before + 2
    add()
    assert last_id() == before + 3


def test_what_waits_is_pending_or_scheduled(
    store: Store, add: Add, start: Callable[..., Job], insert_rows: InsertRows, clock: FakeClock
) -> None:
    start()
    add()
    add(queue="mail")
    later = clock.now + timedelta(hours=1)
    insert_rows([{"status": "scheduled", "next_retry_at": later, "queue": "mail"}])
    insert_rows([{"status": "scheduled", "held_by": "task:x"}])
    insert_rows([{"status": "failed", "completed_at": clock.now}])
    with store.reading(0) as unit:
        assert unit.waiting.count(10) == unit.job_lists.count_waiting(10) == 4
        assert unit.waiting.count(1) == 2  # one of each state
        assert [unit.waiting.count(10, name) for name in ("mail", "default", "no")] == [2, 2, 0]
        assert unit.waiting.count(1, "mail") == 2


def test_the_lowest_priority_comes_first_and_of_these_the_oldest(
    store: Store, add: Add, insert_rows: InsertRows, clock: FakeClock
) -> None:
    ids = [add(priority=priority) for priority in (1, 0, 2, 0, 1)]
    add(queue="mail")
    insert_rows(
        [
            {"status": "scheduled", "next_retry_at": clock.now, "priority": priority, "queue": name}
            for priority, name in [(2, "default"), (0, "mail"), (1, "default")]
        ]
    )
    with store.reading(0) as unit:
        assert [each[2] for each in unit.waiting.oldest_pending(9, "default")] == [
            *(ids[1], ids[3]),
            *(ids[0], ids[4]),
            ids[2],
        ]
        assert [each[2] for each in unit.waiting.oldest_pending(3, "default")] == [
            *(ids[1], ids[3]),
            ids[0],
        ]
        assert [each[0] for each in unit.waiting.oldest_scheduled(9)] == [0, 1, 2]
        assert [each[0] for each in unit.waiting.oldest_scheduled(2, "default")] == [1, 2]


def test_only_what_waits_is_cancelled(
    store: Store,
    add: Add,
    start: Callable[..., Job],
    insert_rows: InsertRows,
    in_status: Callable[..., list[Job]],
    clock: FakeClock,
) -> None:
    running = start()
    pending, other = add(), add()
    insert_rows([{"status": "scheduled", "next_retry_at": clock.now, "uid": new_uid()}])
    [scheduled] = in_status(JobStatus.SCHEDULED)
    with store.writing(0) as unit:
        assert unit.waiting.cancel([running.id, pending, scheduled.id, 999], "no room") == 2
        assert unit.waiting.cancel([pending], "no room") == 0
    ended = in_status(JobStatus.CANCELLED)
    assert {job.id for job in ended} == {pending, scheduled.id}
    assert {job.last_error for job in ended} == {"no room"}
    assert all(job.completed_at and job.next_retry_at is None for job in ended)
    assert [job.id for job in in_status(JobStatus.PENDING)] == [other]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda unit: unit.waiting.count(1_000), id="count"),
        pytest.param(lambda unit: unit.waiting.count(1_000, "mail"), id="count_of_queue"),
        pytest.param(lambda unit: unit.waiting.oldest_pending(9, "mail"), id="oldest_pending"),
        pytest.param(lambda unit: unit.waiting.cancel([1, 2, 3], "no room"), id="cancel"),
    ],
)
def test_what_waits_is_found_by_an_index_and_not_sorted(
    plan: Plan, fill: Callable[[], None], step: Callable[[UnitOfWork], object]
) -> None:
    fill()
    assert plan(step)


def test_the_last_id_is_told_without_a_look_at_the_jobs(
    plan: Plan, fill: Callable[[], None]
) -> None:
    fill()
    assert plan(lambda unit: unit.waiting.last_id()) == []
