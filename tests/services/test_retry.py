import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import from_text, later, to_text
from queue_max.domain.events import Events
from queue_max.domain.job import Job, JobStatus
from queue_max.domain.retry import Bury, CallOff, RetryPolicy, TryAgain
from queue_max.exceptions import Cancel, LeaseLostError, Snooze
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store
from queue_max.services.admission import Admission
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.inspection import InspectionService
from queue_max.services.of_the_queue import QueueCircuitBreaker
from queue_max.services.recovery import RecoveryService
from queue_max.services.retry import RetryService

Told = list[tuple[str, dict[str, Any]]]
GIVEN_UP = ["job_failed", "job_dead_lettered"]
Start = Callable[..., Job]
Claim = Callable[..., Job | None]
Find = Callable[..., Job | None]


def raised(error: BaseException) -> BaseException:
    """Give an exception the traceback it has in a worker."""
    try:
        raise error
    except BaseException as caught:
        return caught


def wait_of(job: Job | None, clock: FakeClock) -> float:
    """Tell in how many seconds a job is due."""
    assert job is not None
    assert job.next_retry_at is not None
    return (from_text(job.next_retry_at) - clock.now).total_seconds()


# Another attempt


@pytest.mark.parametrize("own", [True, False])
def test_the_policy_of_a_job_goes_before_that_of_its_queue(
    store: Store,
    rng: random.Random,
    dead_letters: DeadLetterService,
    admission: Admission,
    events: Events,
    start: Start,
    own: bool,
) -> None:
    policy = RetryPolicy.delays([7])
    retry = RetryService(store, policy, rng, dead_letters, admission, events)
    mine = RetryPolicy.delays([11]).to_json() if own else None
    assert retry.settle_job(start(retry_policy=mine), "no") == TryAgain(11.0 if own else 7.0)


def test_a_stored_policy_that_cannot_be_read_is_logged_and_has_no_say(
    retry: RetryService, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    job = start(retry_policy='{"kind": "weekly"}')
    assert isinstance(retry.settle_job(job, "no"), TryAgain)
    assert f"job {job.key} goes by the policy of the queue" in caplog.text


def test_a_snooze_is_neither_an_attempt_nor_a_failure(
    retry: RetryService,
    store: Store,
    breaker: QueueCircuitBreaker,
    start: Start,
    find: Find,
    told: Told,
    clock: FakeClock,
) -> None:
    job = start(max_attempts=1)
    assert retry.settle_job(job, Snooze(30)) == TryAgain(30, is_counted=False)
    waiting = find(job.id)
    assert waiting is not None
    assert (waiting.status, waiting.attempts) == (JobStatus.SCHEDULED, 0)
    assert wait_of(waiting, clock) == 30
    assert (waiting.last_error, told) == (None, [])
    assert breaker.get_stats()["failure_count"] == 0
    with store.reading(0) as unit:
        assert unit.attempts.of(job.uid) == []


def test_a_cancel_ends_the_job_without_a_dead_letter(
    retry: RetryService, dead_letters: DeadLetterService, start: Start, find: Find, told: Told
) -> None:
    job = start()
    assert retry.settle_job(job, Cancel("the page is gone")) == CallOff("the page is gone")
    cancelled = find(job.id)
    assert cancelled is not None
    assert (cancelled.status, cancelled.last_error) == (JobStatus.CANCELLED, "the page is gone")
    assert cancelled.completed_at
    assert dead_letters.newest(0, 10) == []
    facts = {"job_id": job.id, "shard_id": 0, "reason": "the page is gone"}
    assert told == [("job_cancelled", facts)]


def test_user_code_that_decides_runs_outside_of_the_transaction(
    store: Store,
    rng: random.Random,
    dead_letters: DeadLetterService,
    admission: Admission,
    events: Events,
    start: Start,
) -> None:
    def decide(attempts: int, error: BaseException | str) -> float:
        with store.writing(0):
            return 5.0

    policy = RetryPolicy.function(decide)
    retry = RetryService(store, policy, rng, dead_letters, admission, events)
    assert retry.settle_job(start(), ValueError()) == TryAgain(5.0)


def test_a_failed_attempt_is_followed_by_another(
    retry: RetryService,
    start: Start,
    find: Find,
    told: Told,
    inspection: InspectionService,
    clock: FakeClock,
) -> None:
    job = start()
    verdict = retry.settle(job.id, 0, raised(ValueError("no such page")), fence=job.fence)
    waiting = find(job.id)
    assert waiting is not None
    assert waiting.status is JobStatus.SCHEDULED
    assert isinstance(verdict, TryAgain)
    assert waiting.next_retry_at == to_text(later(clock.now, verdict.wait))
    assert (waiting.error_type, waiting.last_error) == ("ValueError", "no such page")
    assert "ValueError: no such page" in str(waiting.error_stack)
    assert (waiting.attempts, waiting.worker_id, waiting.heartbeat) == (1, None, None)
    facts = {"job_id": job.id, "shard_id": 0, "error": "no such page"}
    assert told == [("job_retried", facts)]
    assert inspection.totals() == Totals()


def test_an_operator_can_read_in_the_log_what_failed_and_what_becomes_of_it(
    retry: RetryService, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = start(), start()
    retry.settle(first.id, 0, ValueError("no such page"), fence=first.fence)
    retry.settle(second.id, 0, ValueError("no such site"), permanent=True, fence=second.fence)
    tried_again, given_up = caplog.records
    assert (tried_again.levelno, given_up.levelno) == (logging.WARNING, logging.ERROR)
    assert f"job {first.key} failed, next attempt in" in tried_again.getMessage()
    assert f"job {second.key} failed for good" in given_up.getMessage()
    assert given_up.getMessage().endswith("ValueError: no such site")


@pytest.mark.parametrize("retry_delay", [1, 60, 100])
def test_the_wait_doubles_with_each_attempt_from_the_delay_of_the_job(
    retry: RetryService,
    start: Start,
    claim: Claim,
    find: Find,
    clock: FakeClock,
    retry_delay: int,
) -> None:
    job: Job | None = start(retry_delay=retry_delay)
    for factor in (2, 4, 8):
        assert job is not None
        retry.settle(job.id, 0, "not yet", fence=job.fence)
        wait = wait_of(find(job.id), clock)
        assert 0.8 * factor * retry_delay <= wait <= 1.2 * factor * retry_delay
        clock.advance(wait)
        job = claim()


def test_jobs_that_failed_together_do_not_come_back_together(
    retry: RetryService, start: Start, find: Find, clock: FakeClock
) -> None:
    waits = []
    for _ in range(50):
        job = start(retry_delay=100)
        retry.settle(job.id, 0, "not yet")
        waits.append(wait_of(find(job.id), clock))
    assert 160 <= min(waits) < 170
    assert 230 < max(waits) <= 240


def test_no_wait_is_longer_than_an_hour(
    retry: RetryService, start: Start, find: Find, clock: FakeClock
) -> None:
    job = start(retry_delay=10**9)
    retry.settle(job.id, 0, "not yet")
    assert wait_of(find(job.id), clock) == 3600


def test_without_a_delay_the_next_attempt_is_due_at_once(
    retry: RetryService, start: Start, claim: Claim
) -> None:
    job = start(retry_delay=0)
    retry.settle(job.id, 0, "not yet")
    again = claim()
    assert again is not None
    assert (again.id, again.attempts) == (job.id, 2)


def test_a_reason_in_words_will_do(retry: RetryService, start: Start, find: Find) -> None:
    job = start()
    retry.settle(job.id, 0, "the page is being written")
    waiting = find(job.id)
    assert waiting is not None
    assert waiting.last_error == "the page is being written"


@pytest.mark.parametrize("text", ["half a \ud83d face", "a NUL \0 within", "\udcff.py"])
@pytest.mark.parametrize("permanent", [False, True])
def test_an_error_in_any_characters_settles_its_job(
    retry: RetryService, start: Start, inspection: InspectionService, text: str, permanent: bool
) -> None:
    job = start()
    error = raised(OSError(text))
    assert retry.settle(job.id, 0, error, permanent=permanent, fence=job.fence) is not None
    assert inspection.counts().processing == 0


# The end


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_job_is_buried_after_its_last_attempt(
    retry: RetryService,
    start: Start,
    claim: Claim,
    find: Find,
    clock: FakeClock,
    told: Told,
    inspection: InspectionService,
    dead_letters: DeadLetterService,
    max_attempts: int,
) -> None:
    job: Job | None = start(max_attempts=max_attempts)
    for attempt in range(1, max_attempts + 1):
        assert job is not None
        assert job.attempts == attempt
        verdict = retry.settle(job.id, 0, raised(ValueError(f"attempt {attempt}")), fence=job.fence)
        clock.advance(3600)
        job = claim() or job
    assert job is not None
    assert verdict == Bury(f"{max_attempts} of {max_attempts} attempts made")
    failed = find(job.id)
    assert failed is not None
    assert failed.status is JobStatus.FAILED
    assert failed.last_error == f"attempt {max_attempts}"
    [letter] = dead_letters.newest(0, 10)
    assert letter["original_job_id"] == job.id
    assert (letter["payload"], letter["error_type"]) == ('{"n":1}', "ValueError")
    assert letter["error"] == f"attempt {max_attempts}"
    assert letter["reason"] == f"{max_attempts} of {max_attempts} attempts made"
    assert letter["failed_at"] == failed.completed_at
    assert inspection.totals() == Totals(processed=0, failed=1)
    # Of each attempt one is told, and of the last one that it was the last.
    assert [event for event, _ in told] == ["job_retried"] * (max_attempts - 1) + GIVEN_UP
    facts = {"job_id": job.id, "shard_id": 0, "error": f"attempt {max_attempts}"}
    reason = f"{max_attempts} of {max_attempts} attempts made"
    assert [facts for _, facts in told[-2:]] == [facts, facts | {"reason": reason}]


def test_a_permanent_failure_is_buried_at_once(
    retry: RetryService,
    start: Start,
    find: Find,
    told: Told,
    dead_letters: DeadLetterService,
) -> None:
    job = start(max_attempts=4)
    assert retry.settle(job.id, 0, "gone", permanent=True) == Bury("permanent")
    failed = find(job.id)
    assert failed is not None
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, 1)
    assert [letter["reason"] for letter in dead_letters.newest(0, 10)] == ["permanent"]
    assert [event for event, _ in told] == GIVEN_UP


def test_the_event_comes_after_the_commit(
    retry: RetryService, start: Start, events: Events, inspection: InspectionService
) -> None:
    seen: list[tuple[int, int, int]] = []

    def look(**_: object) -> None:
        counts = inspection.counts()
        seen.append((counts.processing, counts.scheduled, counts.failed))

    events.on("job_retried", look)
    events.on("job_failed", look)
    retry.settle(start().id, 0, "not yet")
    retry.settle(start().id, 0, "never", permanent=True)
    assert seen == [(0, 1, 0), (0, 1, 1)]


# Fences


def test_what_does_not_run_cannot_fail(
    retry: RetryService,
    add: Callable[..., list[int]],
    told: Told,
    inspection: InspectionService,
) -> None:
    [waiting] = add()
    assert retry.settle(waiting, 0, "no") is None
    assert retry.settle(9_999, 0, "no", permanent=True) is None
    assert (inspection.counts().pending, inspection.totals(), told) == (1, Totals(), [])


def test_failing_twice_counts_once(
    retry: RetryService, start: Start, told: Told, inspection: InspectionService
) -> None:
    job = start()
    verdicts = [retry.settle(job.id, 0, "no", permanent=True) for _ in range(2)]
    assert verdicts == [Bury("permanent"), None]
    assert inspection.totals() == Totals(processed=0, failed=1)
    assert [event for event, _ in told] == GIVEN_UP


@pytest.mark.parametrize("off_by", [-1, 1])
@pytest.mark.parametrize("permanent", [False, True])
def test_a_wrong_fence_fails_nothing(
    retry: RetryService, start: Start, find: Find, told: Told, off_by: int, permanent: bool
) -> None:
    job = start()
    with pytest.raises(LeaseLostError):
        retry.settle(job.id, 0, "no", permanent=permanent, fence=job.fence + off_by)
    assert (find(job.id), told) == (job, [])


def test_a_worker_that_lost_its_lease_cannot_fail_the_next_ones_job(
    retry: RetryService,
    recovery: RecoveryService,
    clock: FakeClock,
    start: Start,
    claim: Claim,
    find: Find,
    told: Told,
) -> None:
    lost = start("worker-a")
    clock.advance(31)
    recovery.recover()
    running = claim("worker-b")
    assert running is not None
    told.clear()
    with pytest.raises(LeaseLostError):
        retry.settle(lost.id, 0, "too late", permanent=True, fence=lost.fence)
    assert (find(running.id), told) == (running, [])
    # What happens to the job afterwards is up to the one who has it.
    retry.settle(running.id, 0, "in time", fence=running.fence)
    assert [(event, facts["error"]) for event, facts in told] == [("job_retried", "in time")]


# Handing back


def test_a_job_that_is_handed_back_is_due_at_once_and_the_attempt_counts(
    retry: RetryService, start: Start, claim: Claim, told: Told
) -> None:
    job = start()
    retry.hand_back(job, "worker-1 was told to leave")
    again = claim("worker-2")
    assert again is not None
    assert (again.id, again.attempts, again.fence) == (job.id, 2, 2)
    assert again.error_type == "WorkerStopped"
    facts = {"job_id": job.id, "shard_id": 0, "error": "worker-1 was told to leave"}
    assert told == [("job_retried", facts)]


def test_a_job_that_is_handed_back_from_its_last_attempt_is_buried(
    retry: RetryService, start: Start, dead_letters: DeadLetterService, told: Told
) -> None:
    job = start(max_attempts=1)
    retry.hand_back(job, "worker-1 was told to leave")
    assert [letter["original_job_id"] for letter in dead_letters.newest(0, 10)] == [job.id]
    assert [event for event, _ in told] == GIVEN_UP


def test_a_job_that_was_lost_cannot_be_handed_back(
    retry: RetryService,
    recovery: RecoveryService,
    clock: FakeClock,
    start: Start,
    claim: Claim,
    find: Find,
) -> None:
    lost = start("worker-a")
    clock.advance(31)
    recovery.recover()
    running = claim("worker-b")
    assert running is not None
    with pytest.raises(LeaseLostError):
        retry.hand_back(lost, "worker-a was told to leave")
    assert find(running.id) == running
