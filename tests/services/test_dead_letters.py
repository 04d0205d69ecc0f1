from collections.abc import Callable
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.failures import Failure
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.domain.retry import Bury
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.inspection import InspectionService
from queue_max.services.retry import RetryService

Told = list[tuple[str, dict[str, Any]]]
Start = Callable[..., Job]
Claim = Callable[..., Job | None]
Find = Callable[..., Job | None]


@pytest.fixture
def bury(start: Start, retry: RetryService) -> Callable[..., Job]:
    """Store a job that fails for good."""

    def bury(**fields: Any) -> Job:
        job = start(**fields)
        retry.settle(job.id, job.shard_id, "no such page", permanent=True)
        return job

    return bury


def test_a_job_is_failed_and_its_evidence_kept_in_one_transaction(
    dead_letters: DeadLetterService, store: Store, start: Start, find: Find
) -> None:
    job = start()

    def bury_and_fail() -> None:
        with store.writing(0) as unit:
            dead_letters.bury(unit, job, Failure("ValueError", "no"), Bury("permanent"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bury_and_fail()
    assert find(job.id) == job
    assert dead_letters.newest(0, 10) == []
    with store.reading(0) as unit:
        assert unit.metadata.totals() == Totals()


def test_a_revived_job_lives_again_and_is_no_dead_letter(
    dead_letters: DeadLetterService, bury: Callable[..., Job], find: Find, claim: Claim
) -> None:
    buried = bury(max_attempts=2)
    assert dead_letters.revive(0) == 1
    assert dead_letters.newest(0, 10) == []
    revived = find(buried.id)
    assert revived is not None
    assert revived.status is JobStatus.PENDING
    assert (revived.attempts, revived.completed_at, revived.next_retry_at) == (0, None, None)
    # What it died of is still told.
    assert revived.last_error == "no such page"


def test_a_revived_job_has_a_fresh_budget_and_its_fence_keeps_rising(
    dead_letters: DeadLetterService,
    bury: Callable[..., Job],
    claim: Claim,
    retry: RetryService,
    clock: FakeClock,
) -> None:
    buried = bury(max_attempts=2)
    dead_letters.revive(0)
    for attempt in (1, 2):
        job = claim()
        assert job is not None
        assert (job.attempts, job.fence) == (attempt, buried.fence + attempt)
        retry.settle(job.id, 0, "again", fence=job.fence)
        clock.advance(3600)
    assert claim() is None
    assert [letter["error"] for letter in dead_letters.newest(0, 10)] == ["again"]


def test_one_job_can_be_revived_alone(
    dead_letters: DeadLetterService, bury: Callable[..., Job], inspection: InspectionService
) -> None:
    first, second = bury(), bury()
    assert dead_letters.revive(0, second.id) == 1
    assert [letter["original_job_id"] for letter in dead_letters.newest(0, 10)] == [first.id]
    assert (inspection.counts().pending, inspection.counts().failed) == (1, 1)


def test_what_is_not_dead_is_not_revived(
    dead_letters: DeadLetterService, start: Start, find: Find
) -> None:
    running = start()
    assert dead_letters.revive(0, running.id) == 0
    assert dead_letters.revive(0, 9_999) == 0
    assert dead_letters.revive(0) == 0
    assert find(running.id) == running


def test_reviving_twice_revives_once(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    bury()
    assert [dead_letters.revive(0) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("shard_count", [2])
def test_each_shard_has_its_own_dead_letters(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    bury(shard_id=0)
    second = bury(shard_id=1)
    [letter] = dead_letters.newest(1, 10)
    assert (letter["original_job_id"], letter["shard_id"]) == (second.id, 1)
    assert dead_letters.revive(1) == 1
    assert len(dead_letters.newest(0, 10)) == 1


def test_the_newest_dead_letters_are_read_first(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    ids = [bury().id for _ in range(4)]
    newest = [letter["original_job_id"] for letter in dead_letters.newest(0, 3)]
    assert newest == ids[:0:-1]


def test_any_number_of_jobs_can_be_revived_together(
    dead_letters: DeadLetterService,
    store: Store,
    add: Callable[..., list[int]],
    claim: Claim,
    inspection: InspectionService,
    statements: list[str],
) -> None:
    add(1_500)
    with store.writing(0) as unit:
        while job := unit.jobs.claim_next(DEFAULT_QUEUE, "worker-1"):
            dead_letters.bury(unit, job, Failure("ValueError", "no"), Bury("permanent"))
    statements.clear()
    assert dead_letters.revive(0) == 1_500
    assert inspection.counts().pending == 1_500
    assert dead_letters.newest(0, 1) == []
    # SQLite takes some 32,000 values in a statement, older ones 999.
    assert max(sql.count("?") for sql in statements) < 999
