import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import from_text, to_text
from queue_max.domain.events import Events
from queue_max.domain.job import Job, JobStatus
from queue_max.repositories.shard_metadata import Totals
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.inspection import InspectionService
from queue_max.services.leases import LeaseService
from queue_max.services.recovery import RecoveryService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService

Told = list[tuple[str, dict[str, Any]]]
Add = Callable[..., list[int]]
Start = Callable[..., Job]
Claim = Callable[..., Job | None]
Find = Callable[..., Job | None]

two_shards = pytest.mark.parametrize("shard_count", [2])


def wait_of(job: Job | None, clock: FakeClock) -> float:
    """Tell in how many seconds a job is due."""
    assert job is not None
    assert job.next_retry_at is not None
    return (from_text(job.next_retry_at) - clock.now).total_seconds()


def die(clock: FakeClock, recovery: RecoveryService, **options: bool) -> None:
    """Let the workers' leases run out and be noticed."""
    clock.advance(31)
    assert recovery.recover(**options) == 1


def test_only_leases_older_than_the_lease_time_are_ended(
    recovery: RecoveryService, start: Start, find: Find, clock: FakeClock
) -> None:
    job = start()
    clock.advance(30)
    assert recovery.recover() == 0
    assert find(job.id) == job
    clock.advance(0.001)
    assert recovery.recover() == 1
    assert recovery.recover() == 0


def test_only_the_silent_one_of_two_workers_loses_its_job(
    recovery: RecoveryService, start: Start, find: Find, clock: FakeClock
) -> None:
    silent = start("worker-1")
    clock.advance(25)
    alive = start("worker-2")
    clock.advance(6)
    assert recovery.recover() == 1
    assert find(silent.id) != silent
    assert find(alive.id) == alive


@pytest.mark.parametrize("at_once", [False, True])
def test_a_job_whose_lease_is_prolonged_is_left_alone(
    recovery: RecoveryService, leases: LeaseService, start: Start, clock: FakeClock, at_once: bool
) -> None:
    job = start()
    leases.hold(job.lease)
    for _ in range(5):
        clock.advance(20)
        leases.renew()
        assert recovery.recover(at_once=at_once) == 0


def test_jobs_that_do_not_run_are_left_alone(
    recovery: RecoveryService, retry: RetryService, start: Start, add: Add, clock: FakeClock
) -> None:
    retry.settle(start().id, 0, "not yet")
    retry.settle(start().id, 0, "never", permanent=True)
    add()
    clock.advance(10_000)
    assert recovery.recover() == 0


def test_a_recovered_job_says_what_happened(
    recovery: RecoveryService, start: Start, find: Find, told: Told, clock: FakeClock
) -> None:
    job = start("worker-7")
    died_at = to_text(clock.now)
    die(clock, recovery)
    recovered = find(job.id)
    assert recovered is not None
    error = f"worker worker-7 was last heard of at {died_at}"
    assert (recovered.error_type, recovered.last_error) == ("WorkerDied", error)
    assert (recovered.worker_id, recovered.heartbeat) == (None, None)
    assert told == [("job_retried", {"job_id": job.id, "shard_id": 0, "error": error})]


def test_the_first_time_a_job_is_due_at_once_and_later_by_its_back_off(
    recovery: RecoveryService, start: Start, claim: Claim, find: Find, clock: FakeClock
) -> None:
    job: Job | None = start(retry_delay=100, max_attempts=9)
    die(clock, recovery)
    for factor in (4, 8):
        job = claim()
        assert job is not None
        die(clock, recovery)
        waiting = find(job.id)
        assert waiting is not None
        assert waiting.status is JobStatus.SCHEDULED
        wait = wait_of(waiting, clock)
        assert 0.8 * factor * 100 <= wait <= 1.2 * factor * 100
        clock.advance(wait)


def test_the_first_death_of_a_worker_is_the_first_whatever_failed_before(
    recovery: RecoveryService, retry: RetryService, start: Start, claim: Claim, clock: FakeClock
) -> None:
    job = start()
    retry.settle(job.id, 0, "no such page")
    clock.advance(3600)
    assert claim() is not None
    die(clock, recovery)
    again = claim()
    assert again is not None
    assert again.id == job.id


def test_when_asked_jobs_are_always_due_at_once(
    recovery: RecoveryService, start: Start, claim: Claim, clock: FakeClock
) -> None:
    start(max_attempts=9)
    for attempt in (2, 3, 4):
        die(clock, recovery, at_once=True)
        job = claim()
        assert job is not None
        assert job.attempts == attempt


@pytest.mark.parametrize("at_once", [False, True])
def test_a_job_that_keeps_killing_its_worker_is_buried_after_its_attempts(
    recovery: RecoveryService,
    start: Start,
    claim: Claim,
    find: Find,
    told: Told,
    dead_letters: DeadLetterService,
    inspection: InspectionService,
    clock: FakeClock,
    at_once: bool,
) -> None:
    job = start(max_attempts=3)
    attempts = 1
    for _ in range(8):
        clock.advance(31)
        recovery.recover(at_once=at_once)
        clock.advance(3600)
        attempts += claim() is not None
    assert attempts == 3
    failed = find(job.id)
    assert failed is not None
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, 3)
    [letter] = dead_letters.newest(0, 10)
    assert (letter["error_type"], letter["reason"]) == ("WorkerDied", "3 of 3 attempts made")
    assert inspection.totals() == Totals(processed=0, failed=1)
    assert [event for event, _ in told] == ["job_retried", "job_retried", "job_failed"]


def test_the_worker_that_comes_back_finds_its_lease_lost_and_a_new_one_to_take(
    recovery: RecoveryService,
    settlement: SettlementService,
    start: Start,
    claim: Claim,
    clock: FakeClock,
) -> None:
    lost = start("worker-1")
    die(clock, recovery)
    again = claim("worker-1")
    assert again is not None
    assert (again.fence, again.attempts) == (lost.fence + 1, lost.attempts + 1)
    assert settlement.complete(again.id, 0, fence=again.fence) is True


def test_many_jobs_are_recovered_in_steps(
    recovery: RecoveryService,
    add: Add,
    claim: Claim,
    inspection: InspectionService,
    clock: FakeClock,
    statements: list[str],
    told: Told,
) -> None:
    add(450)
    while claim():
        pass
    clock.advance(31)
    statements.clear()
    assert recovery.recover() == 450
    assert statements.count("BEGIN IMMEDIATE") == 3
    assert inspection.counts().pending == 450
    assert len({facts["job_id"] for _, facts in told}) == 450


@two_shards
def test_where_nothing_is_to_recover_no_write_lock_is_taken(
    recovery: RecoveryService, start: Start, clock: FakeClock, statements: list[str]
) -> None:
    start(shard_id=0)
    clock.advance(29)
    statements.clear()
    assert recovery.recover() == 0
    assert "BEGIN IMMEDIATE" not in statements


@two_shards
@pytest.mark.parametrize("busy_timeout_ms", [50])
@pytest.mark.parametrize("bad", [0, 1])
def test_a_locked_shard_does_not_keep_the_others_from_recovering(
    recovery: RecoveryService,
    start: Start,
    find: Find,
    locked: Callable[[int], AbstractContextManager[None]],
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    bad: int,
) -> None:
    jobs = [start(shard_id=shard_id) for shard_id in range(2)]
    clock.advance(31)
    with locked(bad):
        assert recovery.recover() == 1
    assert find(jobs[bad].id, shard_id=bad) == jobs[bad]
    assert any(f"shard {bad}" in record.getMessage() for record in caplog.records)
    assert recovery.recover() == 1


@two_shards
@pytest.mark.parametrize("busy_timeout_ms", [6_000])
@pytest.mark.parametrize("bad", [0, 1])
def test_nor_do_the_others_wait_until_it_gives_in(
    recovery: RecoveryService,
    start: Start,
    find: Find,
    locked: Callable[[int], AbstractContextManager[None]],
    clock: FakeClock,
    bad: int,
) -> None:
    jobs = [start(shard_id=shard_id) for shard_id in range(2)]
    clock.advance(31)
    other = jobs[1 - bad]
    with ThreadPoolExecutor(1) as thread:
        with locked(bad):
            recovered = thread.submit(recovery.recover)
            deadline = time.monotonic() + 4
            while find(other.id, shard_id=other.shard_id) == other:
                assert time.monotonic() < deadline, "it waits for the locked one"
                time.sleep(0.01)
        assert recovered.result() == 2


@two_shards
@pytest.mark.parametrize("bad", [0, 1])
def test_a_damaged_shard_does_not_keep_the_others_from_recovering(
    recovery: RecoveryService,
    start: Start,
    damage: Callable[[int], None],
    clock: FakeClock,
    bad: int,
) -> None:
    start(shard_id=1 - bad)
    clock.advance(31)
    damage(bad)
    assert recovery.recover() == 1


@pytest.mark.parametrize("busy_timeout_ms", [50])
def test_what_was_recovered_before_a_shard_refused_is_counted(
    recovery: RecoveryService,
    add: Add,
    claim: Claim,
    events: Events,
    locked: Callable[[int], AbstractContextManager[None]],
    clock: FakeClock,
) -> None:
    add(250)
    while claim():
        pass
    clock.advance(31)
    told = itertools.count(1)
    with ExitStack() as lock:

        def lock_after_the_first_step(**_: object) -> None:
            if next(told) == 200:
                lock.enter_context(locked(0))

        events.on("job_retried", lock_after_the_first_step)
        assert recovery.recover() == 200
    assert recovery.recover() == 50
