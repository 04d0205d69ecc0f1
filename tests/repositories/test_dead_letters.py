from collections.abc import Callable
from datetime import timedelta

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job
from queue_max.repositories.unit_of_work import Store, UnitOfWork

FAILURE = Failure("ValueError", "no such page", "Traceback: ...")

Start = Callable[..., Job]


def bury(store: Store, job: Job, failure: Failure = FAILURE, reason: str = "permanent") -> None:
    with store.writing(0) as unit:
        unit.jobs.fail(job, failure)
        unit.dead_letters.add(job, failure, reason)


def job_ids(store: Store, limit: int = 100) -> list[int]:
    with store.reading(0) as unit:
        return [letter["original_job_id"] for letter in unit.dead_letters.newest(limit)]


def test_a_dead_letter_names_the_job_and_the_error(
    store: Store, clock: FakeClock, start: Start
) -> None:
    job = start()
    clock.advance(2)
    bury(store, job, reason="4 of 4 attempts made")
    with store.reading(0) as unit:
        [letter] = unit.dead_letters.newest(10)
    assert letter.pop("id") > 0
    assert letter == {
        "original_job_id": job.id,
        "payload": '{"n":1}',
        "error": "no such page",
        "error_type": "ValueError",
        "failed_at": to_text(clock.now),
        "shard_id": 0,
        "reason": "4 of 4 attempts made",
    }


def test_the_payload_is_kept_to_the_letter(store: Store, start: Start) -> None:
    stored = '{"b": 1.0,  "a":"\\ud83d", "big": 123456789012345678901234567890}'
    bury(store, start(payload=stored))
    with store.reading(0) as unit:
        assert [letter["payload"] for letter in unit.dead_letters.newest(10)] == [stored]


def test_a_failure_without_a_traceback_can_be_kept(store: Store, start: Start) -> None:
    job = start()
    bury(store, job, Failure("WorkerDied", "worker-1 was last heard of yesterday"))
    assert job_ids(store) == [job.id]


def test_dead_letters_are_read_newest_first_and_bounded(
    store: Store, clock: FakeClock, start: Start
) -> None:
    buried = []
    for _ in range(4):
        buried.append(start())
        bury(store, buried[-1])
        clock.advance(-60)  # whatever the clock does, the order is that of burial
    assert job_ids(store, limit=3) == [job.id for job in buried[:0:-1]]


@pytest.mark.parametrize("number", [0, 3])
def test_dead_letters_are_counted(store: Store, start: Start, number: int) -> None:
    for _ in range(number):
        bury(store, start())
    with store.reading(0) as unit:
        assert unit.dead_letters.count() == number


def test_the_dead_letter_of_one_job_can_be_removed_alone(store: Store, start: Start) -> None:
    first, second = start(), start()
    for job in (first, second):
        bury(store, job)
    with store.writing(0) as unit:
        unit.dead_letters.remove_of_failed(first.id)
    assert job_ids(store) == [second.id]


def test_the_dead_letters_of_all_failed_jobs_are_removed_and_no_others(
    store: Store, start: Start
) -> None:
    first, second, third = (start() for _ in range(3))
    for job in (first, second, third):
        bury(store, job)
    with store.writing(0) as unit:
        unit.job_lists.requeue_failed(second.id)
        unit.dead_letters.remove_of_failed()
    assert job_ids(store) == [second.id]


def test_a_dead_letter_outlives_the_row_of_its_job(
    store: Store, clock: FakeClock, start: Start
) -> None:
    job = start()
    bury(store, job)
    with store.writing(0) as unit:
        unit.job_lists.purge([job.status.FAILED])
    clock.advance(timedelta(days=365).total_seconds())
    assert job_ids(store) == [job.id]


# By age


def test_letters_are_removed_by_the_time_of_the_failure_no_more_than_asked_and_name_their_jobs(
    store: Store, clock: FakeClock, start: Start
) -> None:
    old = [start() for _ in range(3)]
    for job in old:
        bury(store, job)
    clock.advance(1)
    moment = clock.now
    bury(store, start())
    with store.writing(0) as unit:
        assert unit.dead_letters.has_before(moment)
        steps = [unit.dead_letters.remove_before(moment, 2) for _ in range(3)]
        assert [len(step) for step in steps] == [2, 1, 0]
        assert not unit.dead_letters.has_before(moment)
        assert unit.dead_letters.count() == 1
    named = [(ref.shard_id, ref.uid, ref.job_id) for step in steps for ref in step]
    assert sorted(named) == sorted((0, job.uid, job.id) for job in old)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda unit: unit.dead_letters.has_before(unit.now), id="has"),
        pytest.param(lambda unit: unit.dead_letters.remove_before(unit.now, 100), id="remove"),
    ],
)
def test_letters_of_an_age_are_found_by_an_index(
    plan: Callable[..., list[str]], step: Callable[[UnitOfWork], object]
) -> None:
    assert [line for line in plan(step) if "ix_dead_letter_queue_failed_at" in line]
