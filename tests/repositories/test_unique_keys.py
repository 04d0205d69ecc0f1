import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from support.clock import FakeClock
from support.jobs import a_new_job

from queue_max.domain.job import DEFAULT_QUEUE, JobHandle
from queue_max.repositories.unit_of_work import Store


@pytest.fixture
def add(store: Store) -> Callable[..., JobHandle]:
    """Store a job under a key, or find the one that has it."""

    def add(key: str = "page-7", unique_for: float | None = None) -> JobHandle:
        job = a_new_job(unique_key=key, unique_for=unique_for)
        with store.writing(0) as unit:
            if (held := unit.unique_keys.holder(key)) is not None:
                return held
            [job_id] = unit.jobs.add([job])
            unit.unique_keys.take(job, job_id)
            return JobHandle(job_id, 0, job.uid)

    return add


def test_a_key_is_taken_while_its_job_lives(store: Store, add: Callable[..., JobHandle]) -> None:
    first, again, other = add(), add(), add("page-8")
    assert (again, again.uid, again.created) == (first, first.uid, False)
    assert other != first
    with store.writing(0) as unit:
        job = unit.claims.claim_next(DEFAULT_QUEUE, "w")
        assert job is not None
    assert add() == first
    with store.writing(0) as unit:
        unit.jobs.complete(job.id, job.fence)
    assert add().created


def test_a_key_with_a_period_is_taken_until_it_is_over_whatever_becomes_of_the_job(
    store: Store, add: Callable[..., JobHandle], clock: FakeClock
) -> None:
    first = add(unique_for=60)
    with store.writing(0) as unit:
        job = unit.claims.claim_next(DEFAULT_QUEUE, "w")
        assert job is not None
        unit.jobs.complete(job.id, job.fence)
    clock.advance(59.999)
    assert add(unique_for=60) == first
    clock.advance(0.001)
    assert add(unique_for=60).created


def test_one_of_8_threads_gets_the_key(add: Callable[..., JobHandle]) -> None:
    barrier = threading.Barrier(8)

    def race(_: int) -> JobHandle:
        barrier.wait()
        return add()

    with ThreadPoolExecutor(8) as threads:
        handles = list(threads.map(race, range(8)))
    assert sum(handle.created for handle in handles) == 1
    assert len({handle.uid for handle in handles}) == 1


def test_keys_that_are_free_again_are_forgotten(
    store: Store, add: Callable[..., JobHandle], clock: FakeClock
) -> None:
    add("living")
    add("expired", unique_for=1)
    with store.writing(0) as unit:
        assert not unit.unique_keys.has_free()
        assert unit.unique_keys.forget_free(10) == 0
    clock.now += timedelta(seconds=2)
    with store.writing(0) as unit:
        assert unit.unique_keys.has_free()
        assert unit.unique_keys.forget_free(10) == 1
        assert not unit.unique_keys.has_free()
    assert not add("living").created
