from collections.abc import Callable

import pytest
from support.clock import FakeClock

from queue_max.domain.attempts import KEPT, Attempt
from queue_max.domain.clock import to_text
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job
from queue_max.repositories.unit_of_work import Store

Start = Callable[..., Job]
Claim = Callable[..., Job | None]

FAILURE = Failure("ValueError", "no such page", "Traceback: ...")


@pytest.fixture
def fail(store: Store, clock: FakeClock) -> Callable[[Job, Failure], None]:
    """Let an attempt fail; the job is due again at once."""

    def fail(job: Job, failure: Failure = FAILURE) -> None:
        with store.writing(0) as unit:
            unit.attempts.add(job, failure)
            unit.jobs.reschedule(job, failure, clock.now)

    return fail


def test_each_attempt_tells_who_made_it_when_and_how_it_failed(
    store: Store, start: Start, claim: Claim, fail: Callable[..., None], clock: FakeClock
) -> None:
    first = start("worker-1", max_attempts=5)
    begun = to_text(clock.now)
    clock.advance(3)
    fail(first)
    second = claim("worker-2")
    assert second is not None
    fail(second, Failure("KeyError", "'page'"))
    with store.reading(0) as unit:
        attempts = unit.attempts.of(first.uid)
    now = to_text(clock.now)
    assert attempts == [
        Attempt(
            number=1,
            worker_id="worker-1",
            started_at=begun,
            ended_at=now,
            error_type="ValueError",
            error="no such page",
            error_stack="Traceback: ...",
        ),
        Attempt(
            number=2,
            worker_id="worker-2",
            started_at=now,
            ended_at=now,
            error_type="KeyError",
            error="'page'",
            error_stack=None,
        ),
    ]


def test_only_the_newest_attempts_of_a_job_are_kept(
    store: Store, start: Start, claim: Claim, fail: Callable[..., None]
) -> None:
    other = start(max_attempts=1000)
    fail(other)
    job = claim()
    while job and job.attempts < KEPT + 5:
        fail(job)
        job = claim()
    with store.reading(0) as unit:
        numbers = [attempt.number for attempt in unit.attempts.of(other.uid)]
    assert numbers == list(range(5, KEPT + 5))


def test_attempts_are_counted_by_how_they_failed(
    store: Store, start: Start, claim: Claim, fail: Callable[..., None]
) -> None:
    job = start(max_attempts=9)
    fail(job)
    again = claim()
    assert again is not None
    fail(again, Failure("WorkerDied", "gone"))
    with store.reading(0) as unit:
        assert unit.attempts.count(job, "WorkerDied") == 1
        assert unit.attempts.count(job, "OSError") == 0


def test_of_jobs_that_are_gone_no_attempts_stay(
    store: Store, start: Start, fail: Callable[..., None]
) -> None:
    gone, kept = start(), start()
    fail(gone)
    fail(kept)
    with store.writing(0) as unit:
        unit.attempts.forget([gone.uid])
        assert unit.attempts.of(gone.uid) == []
        assert len(unit.attempts.of(kept.uid)) == 1
