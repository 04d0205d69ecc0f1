import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import from_text, to_text
from queue_max.domain.events import Events
from queue_max.domain.job import Job, JobStatus
from queue_max.domain.leases import LeaseWatch
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.inspection import InspectionService
from queue_max.services.leases import LeaseService
from queue_max.services.recovery import RecoveryService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService
from queue_max.storage.presence import Presence
from queue_max.storage.sqlite import SqliteDatabase

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


def die(clock: FakeClock, recovery: RecoveryService) -> None:
    """Let the worker's lease run out and be noticed."""
    assert recovery.recover_silent() == 0
    clock.advance(31)
    assert recovery.recover_silent() == 1


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


def test_a_job_whose_lease_is_prolonged_is_left_alone(
    recovery: RecoveryService, leases: LeaseService, start: Start, clock: FakeClock
) -> None:
    job = start()
    leases.hold(job.lease)
    for _ in range(5):
        clock.advance(20)
        leases.renew()
        assert recovery.recover() == 0
        assert recovery.recover_silent() == 0


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
    facts = {"job_id": job.id, "shard_id": 0, "error": error}
    assert told == [("job_recovered", facts), ("job_retried", facts)]


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
        clock.advance(31)
        assert recovery.recover() == 1
        job = claim()
        assert job is not None
        assert job.attempts == attempt


def test_a_job_that_keeps_killing_its_worker_is_buried_after_its_attempts(
    recovery: RecoveryService,
    start: Start,
    claim: Claim,
    find: Find,
    told: Told,
    dead_letters: DeadLetterService,
    inspection: InspectionService,
    clock: FakeClock,
) -> None:
    job = start(max_attempts=3)
    attempts = 1
    for _ in range(8):
        recovery.recover_silent()
        clock.advance(31)
        recovery.recover_silent()
        clock.advance(3600)
        attempts += claim() is not None
    assert attempts == 3
    failed = find(job.id)
    assert failed is not None
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, 3)
    [letter] = dead_letters.newest(0, 10)
    assert (letter["error_type"], letter["reason"]) == ("WorkerDied", "3 of 3 attempts made")
    assert inspection.totals() == Totals(processed=0, failed=1)
    assert [event for event, _ in told if event != "job_recovered"] == [
        "job_retried",
        "job_retried",
        "job_failed",
        "job_dead_lettered",
    ]
    assert [event for event, _ in told].count("job_recovered") == 3


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


# Leases, by a clock of one's own


def test_a_lease_is_over_when_it_was_seen_unchanged_for_all_its_time(
    recovery: RecoveryService, start: Start, find: Find, clock: FakeClock
) -> None:
    job = start()
    clock.advance(10_000)  # nobody looked meanwhile
    assert recovery.recover_silent() == 0
    clock.advance(29)
    assert recovery.recover_silent() == 0
    assert find(job.id) == job
    clock.advance(1)
    assert recovery.recover_silent() == 1


def test_a_wall_clock_that_is_set_forward_ends_no_lease(
    store: Store, recovery: RecoveryService, start: Start, clock: FakeClock
) -> None:
    start()
    recovery.recover_silent()
    with store.writing(0) as unit:
        assert unit.leases.silent_since(clock.now + timedelta(hours=1), 10)
    assert recovery.recover_silent() == 0


def test_a_lease_that_is_prolonged_between_look_and_verdict_is_left_alone(
    store: Store,
    recovery: RecoveryService,
    start: Start,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = start()
    recovery.recover_silent()
    clock.advance(31)
    overdue = LeaseWatch.overdue

    def prolonged_meanwhile(*arguments: Any) -> object:
        found = overdue(*arguments)
        with store.writing(0) as unit:
            unit.leases.renew([job.lease])
        return found

    monkeypatch.setattr(LeaseWatch, "overdue", prolonged_meanwhile)
    assert recovery.recover_silent() == 0


# Processes that are no more


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Presence]:
    """Another process that works on the shards."""
    other = Presence(tmp_path)
    other.appear()
    yield other
    other.vanish()


def crash(process: Presence) -> None:
    """End without a word, as by SIGKILL: the kernel closes the file."""
    assert process._file is not None
    os.close(process._file)
    process._file = None


def test_jobs_a_dead_process_had_started_are_due_again_at_once_and_charged(
    recovery: RecoveryService, other: Presence, start: Start, find: Find, told: Told
) -> None:
    job = start("worker-7", holder=other.identity)
    other.started(job.lease)
    assert recovery.recover_dead() == 0
    crash(other)
    assert recovery.recover_dead() == 1
    recovered = find(job.id)
    assert recovered is not None
    assert (recovered.status, recovered.attempts) == (JobStatus.PENDING, 1)
    assert recovered.is_suspect
    assert recovered.last_error == f"process {other.identity} died while it ran"
    assert [event for event, _ in told] == ["job_recovered", "job_retried"]
    assert recovery.recover_dead() == 0


def test_jobs_it_had_only_claimed_or_finished_are_not_charged(
    recovery: RecoveryService, other: Presence, start: Start, find: Find, told: Told
) -> None:
    claimed = start("worker-1", holder=other.identity)
    ended = start("worker-1", holder=other.identity)
    other.started(ended.lease)
    other.ended(ended.lease)
    crash(other)
    assert recovery.recover_dead() == 2
    for job in (claimed, ended):
        waiting = find(job.id)
        assert waiting is not None
        assert (waiting.status, waiting.attempts) == (JobStatus.PENDING, 0)
        assert not waiting.is_suspect
    assert told == []


@pytest.mark.parametrize("content", [b"", b"another boot\n", b"\xff" * 200])
def test_where_it_cannot_be_told_what_had_started_all_are_charged(
    recovery: RecoveryService, other: Presence, start: Start, find: Find, content: bytes
) -> None:
    job = start("worker-1", holder=other.identity)
    other._path().write_bytes(content)
    crash(other)
    assert recovery.recover_dead() == 1
    recovered = find(job.id)
    assert recovered is not None
    assert recovered.attempts == 1


@two_shards
@pytest.mark.parametrize("busy_timeout_ms", [50])
def test_what_a_locked_shard_kept_from_being_recovered_is_recovered_later(
    recovery: RecoveryService,
    other: Presence,
    start: Start,
    locked: Callable[[int], AbstractContextManager[None]],
) -> None:
    for shard_id in range(2):
        start("worker-1", shard_id=shard_id, holder=other.identity)
    crash(other)
    with locked(1):
        assert recovery.recover_dead() == 1
    assert recovery.recover_dead() == 1
    assert not other._path().exists()


def test_many_processes_that_died_are_recovered_by_many_without_one_job_twice(
    store: Store, retry: RetryService, tmp_path: Path, start: Start, told: Told
) -> None:
    for _ in range(10):
        process = Presence(tmp_path)
        process.appear()
        process.started(start("worker-1", holder=process.identity).lease)
        crash(process)
    recoverers = [
        RecoveryService(store, retry, Presence(tmp_path), LeaseWatch(30), timedelta(seconds=30))
        for _ in range(4)
    ]
    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(RecoveryService.recover_dead, recoverers))
    assert sum(numbers) == 10
    assert len({facts["job_id"] for _, facts in told}) == 10


def test_a_damaged_job_of_a_silent_worker_is_buried(
    recovery: RecoveryService,
    dead_letters: DeadLetterService,
    shards: list[SqliteDatabase],
    start: Start,
    clock: FakeClock,
) -> None:
    job = start()
    with shards[0].writing() as connection:
        connection.exec_driver_sql("UPDATE fila SET payload = '{', fence = 'x'")
    clock.advance(86_400)
    assert recovery.recover() == 1
    [letter] = dead_letters.list()
    assert (letter.job_id, letter.error_type, letter.payload) == (job.id, "JobDamaged", "{")
    assert recovery.recover() == 0
