import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.events import Events
from queue_max.domain.failures import Failure
from queue_max.domain.job import Job, JobStatus
from queue_max.exceptions import ShardDamagedError, ShardError
from queue_max.repositories.unit_of_work import Store
from queue_max.services import dispatch as dispatch_module
from queue_max.services.admission import Admission
from queue_max.services.controls import Controls
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.dispatch import DispatchService
from queue_max.services.inspection import InspectionService
from queue_max.services.of_the_queue import QueueCircuitBreaker, QueueRateLimiter
from queue_max.services.retry import RetryService
from queue_max.services.shard_watch import ShardWatch
from queue_max.services.urgency import Urgency
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

Add = Callable[..., list[int]]
Start = Callable[..., Job]
Locked = Callable[[int], AbstractContextManager[None]]
Damage = Callable[[int], None]

two_shards = pytest.mark.parametrize("shard_count", [2])
three_shards = pytest.mark.parametrize("shard_count", [3])
short_wait = pytest.mark.usefixtures("_short_wait")
limited = pytest.mark.parametrize("rate_limit", [60])


@pytest.fixture
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_module, "BUSY_SHARD_WAIT", 0.02)


@pytest.fixture
def unwritable(shard_files: list[Path]) -> Callable[[int], None]:
    """Let a shard be read, and refuse every change of a job."""

    def refuse(shard_id: int) -> None:
        database = SqliteDatabase(shard_files[shard_id], shard_id, SqliteOptions())
        with database.writing() as connection:
            connection.execute(
                text(
                    "CREATE TRIGGER refuse BEFORE UPDATE ON fila "
                    "BEGIN SELECT RAISE(FAIL, 'no room'); END"
                )
            )
        database.close()

    return refuse


def later(store: Store, job: Job, seconds: float) -> None:
    """Let a running job wait for its next attempt."""
    with store.writing(job.shard_id) as unit:
        at = unit.now + timedelta(seconds=seconds)
        unit.jobs.reschedule(job, Failure("ValueError", "not yet"), at)


# What is claimed


def test_the_most_urgent_job_is_claimed_first(dispatch: DispatchService, add: Add) -> None:
    [low], [high], [low_again] = add(priority=0), add(priority=2), add(priority=0)
    claimed = [dispatch.claim("worker-1") for _ in range(4)]
    assert [job and job.id for job in claimed] == [high, low, low_again, None]


def test_the_claimed_job_shows_the_attempt_just_taken(
    dispatch: DispatchService, add: Add, clock: FakeClock
) -> None:
    add()
    clock.advance(5)
    job = dispatch.claim("worker-7")
    assert job is not None
    assert (job.status, job.attempts, job.fence) == (JobStatus.PROCESSING, 1, 1)
    assert (job.worker_id, job.started_at) == ("worker-7", to_text(clock.now))


def test_a_job_that_waits_is_claimed_from_its_time_on(
    dispatch: DispatchService, start: Start, store: Store, clock: FakeClock
) -> None:
    job = start()
    later(store, job, 10)
    clock.advance(9.999)
    assert dispatch.claim("worker-1") is None
    clock.advance(0.001)
    again = dispatch.claim("worker-1")
    assert again is not None
    assert (again.id, again.attempts) == (job.id, 2)


def test_an_urgent_job_that_has_just_become_due_goes_first(
    dispatch: DispatchService, start: Start, add: Add, store: Store, clock: FakeClock
) -> None:
    urgent = start(priority=2)
    later(store, urgent, 10)
    add(priority=1)
    clock.advance(10)
    first = dispatch.claim("worker-1")
    assert first is not None
    assert first.id == urgent.id


@three_shards
def test_the_most_urgent_job_of_all_shards_comes_first_where_that_is_asked_for(
    store: Store,
    retry: RetryService,
    admission: Admission,
    rng: random.Random,
    events: Events,
    add: Add,
    clock: FakeClock,
) -> None:
    for shard_id, priority in enumerate((0, 2, 1)):
        add(2, shard_id=shard_id, priority=priority)
    strict = DispatchService(
        store, retry, admission, rng, events, ShardWatch(events), urgency=Urgency(store)
    )
    claimed = [strict.claim("worker-1") for _ in range(6)]
    assert [job and job.priority for job in claimed] == [2, 2, 1, 1, 0, 0]


@three_shards
def test_all_shards_are_served(dispatch: DispatchService, add: Add) -> None:
    for shard_id in range(3):
        add(10, shard_id=shard_id)
    claimed = [dispatch.claim("worker-1") for _ in range(30)]
    assert sorted(job.shard_id for job in claimed if job) == [0] * 10 + [1] * 10 + [2] * 10
    # None is drained before the others get their turn.
    assert {job.shard_id for job in claimed[:10] if job} == {0, 1, 2}


@three_shards
def test_each_of_400_jobs_goes_to_exactly_one_of_8_threads(
    dispatch: DispatchService, add: Add
) -> None:
    expected = [
        (shard_id, job_id)
        for shard_id, count in enumerate([134, 133, 133])
        for job_id in add(count, shard_id=shard_id)
    ]
    barrier = threading.Barrier(8)

    def take_all(worker: int) -> list[tuple[int, int]]:
        barrier.wait()
        taken = []
        while job := dispatch.claim(f"worker-{worker}"):
            taken.append((job.shard_id, job.id))
        return taken

    with ThreadPoolExecutor(8) as threads:
        taken = [each for part in threads.map(take_all, range(8)) for each in part]
    assert sorted(taken) == expected


# What a claim costs


@three_shards
def test_an_idle_claim_takes_no_write_lock(
    dispatch: DispatchService, start: Start, store: Store, statements: list[str]
) -> None:
    later(store, start(), 60)
    start()
    statements.clear()
    assert dispatch.claim("worker-1") is None
    assert not [sql for sql in statements if "IMMEDIATE" in sql]
    assert {sql.split()[0] for sql in statements} == {"BEGIN", "SELECT", "WITH"}
    assert len(statements) == 9


@three_shards
def test_a_claim_looks_no_further_than_the_first_shard_that_serves(
    dispatch: DispatchService, add: Add, statements: list[str], controls: Controls
) -> None:
    controls.now()
    for shard_id in range(3):
        add(shard_id=shard_id)
    statements.clear()
    assert dispatch.claim("worker-1") is not None
    assert statements.count("BEGIN") == 1
    assert statements.count("BEGIN IMMEDIATE") == 1


# Limits


@limited
def test_a_token_is_taken_for_each_job(
    dispatch: DispatchService, add: Add, limiter: QueueRateLimiter
) -> None:
    add(5)
    for _ in range(3):
        assert dispatch.claim("worker-1") is not None
    assert limiter.get_remaining_tokens() == 57


@limited
def test_an_empty_poll_takes_no_token(dispatch: DispatchService, limiter: QueueRateLimiter) -> None:
    for _ in range(100):
        assert dispatch.claim("worker-1", patience=5.0) is None
    assert limiter.get_remaining_tokens() == 60
    assert limiter.get_stats()["total_granted"] == 0


@limited
@short_wait
def test_a_job_that_could_not_be_claimed_after_all_costs_no_token(
    dispatch: DispatchService, add: Add, locked: Locked, limiter: QueueRateLimiter
) -> None:
    add()
    with locked(0):
        for _ in range(3):
            assert dispatch.claim("worker-1") is None
    assert limiter.get_remaining_tokens() == 60
    assert dispatch.claim("worker-1") is not None


@pytest.mark.parametrize("rate_limit", [2])
def test_without_a_token_no_job_starts(
    dispatch: DispatchService, add: Add, inspection: InspectionService, clock: FakeClock
) -> None:
    add(5)
    claimed = []
    for _ in range(5):
        claimed.append(dispatch.claim("worker-1"))
        clock.advance(0.1)
    assert [job is not None for job in claimed] == [True, True, False, False, False]
    assert inspection.counts().pending == 3


@pytest.mark.parametrize("rate_limit", [2])
@pytest.mark.parametrize(("patience", "starts"), [(29.8, False), (30.0, True)])
def test_a_patient_caller_waits_for_a_token_as_long_as_it_takes(
    dispatch: DispatchService, add: Add, clock: FakeClock, patience: float, starts: bool
) -> None:
    add(3)
    before = clock.now
    dispatch.claim("worker-1", 0.1)
    dispatch.claim("worker-1", 0.1)
    assert (dispatch.claim("worker-1", patience) is not None) is starts
    # The last token of a full bucket comes a tenth of a second later.
    assert (clock.now - before).total_seconds() == (30.1 if starts else 0.1)


@pytest.mark.parametrize("failure_threshold", [1])
def test_while_the_circuit_is_open_no_job_starts_and_no_token_is_taken(
    dispatch: DispatchService, add: Add, breaker: QueueCircuitBreaker, statements: list[str]
) -> None:
    add()
    breaker.record_failure()
    statements.clear()
    assert dispatch.claim("worker-1") is None
    assert "BEGIN IMMEDIATE" not in statements


# Shards that do not serve


@two_shards
@pytest.mark.parametrize("bad", [0, 1])
def test_a_locked_shard_does_not_hold_up_the_others(
    dispatch: DispatchService, add: Add, locked: Locked, statements: list[str], bad: int
) -> None:
    add(1, shard_id=bad)
    ids = add(20, shard_id=1 - bad)
    with locked(bad):
        for job_id in ids:
            statements.clear()
            job = dispatch.claim("worker-1")
            assert job is not None
            assert (job.shard_id, job.id) == (1 - bad, job_id)
            # The locked one is asked once at the most, and not waited for.
            assert statements.count("BEGIN IMMEDIATE") <= 2


@two_shards
def test_a_locked_shard_is_waited_for_when_nothing_else_is_to_do(
    dispatch: DispatchService, add: Add, locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "BUSY_SHARD_WAIT", 20.0)
    [job_id] = add(shard_id=1)
    with ThreadPoolExecutor(1) as threads:
        with locked(1):
            claim = threads.submit(dispatch.claim, "worker-1")
            with pytest.raises(TimeoutError):
                claim.result(timeout=0.1)
        job = claim.result(timeout=20)
    assert job is not None
    assert job.id == job_id


@short_wait
def test_a_lock_that_lasts_never_reaches_the_caller_and_is_warned_of_once(
    dispatch: DispatchService, add: Add, locked: Locked, caplog: pytest.LogCaptureFixture
) -> None:
    add(2)
    for warnings in (1, 2):
        with locked(0):
            assert [dispatch.claim("worker-1") for _ in range(4)] == [None] * 4
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * warnings
        # Once it has served, the next lock is news again.
        assert dispatch.claim("worker-1") is not None


@two_shards
@pytest.mark.parametrize("bad", [0, 1])
def test_a_damaged_shard_does_not_hold_up_the_others_and_is_warned_of_once(
    dispatch: DispatchService,
    add: Add,
    damage: Damage,
    caplog: pytest.LogCaptureFixture,
    told: list[tuple[str, dict[str, Any]]],
    bad: int,
) -> None:
    ids = add(10, shard_id=1 - bad)
    damage(bad)
    claimed = [dispatch.claim("worker-1") for _ in range(12)]
    assert [job and job.id for job in claimed] == [*ids, None, None]
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"shard_{bad}.db is damaged" in warning.getMessage()
    assert [(event, facts["shard_id"]) for event, facts in told] == [("shard_unavailable", bad)]


def test_a_time_that_cannot_be_read_keeps_no_job_from_running(
    dispatch: DispatchService, add: Add, shards: list[SqliteDatabase]
) -> None:
    [job_id] = add(1)
    with shards[0].writing() as connection:
        connection.exec_driver_sql("UPDATE fila SET created_at = 'yesterday'")
    job = dispatch.claim("worker-1")
    assert job is not None
    assert (job.id, job.created_at) == (job_id, "yesterday")


@pytest.mark.parametrize(
    "damage_in_sql",
    [
        "payload = replace(payload, '1', '3')",
        "payload = CAST(x'7bff7d' AS TEXT)",
        "payload = '{}'",
        "uid = 'another'",
        "max_tentativas = 'many'",
    ],
)
def test_a_job_that_is_not_what_was_stored_is_buried_and_never_run(
    dispatch: DispatchService,
    dead_letters: DeadLetterService,
    add: Add,
    shards: list[SqliteDatabase],
    told: list[tuple[str, dict[str, Any]]],
    damage_in_sql: str,
) -> None:
    damaged, sound = add(2, payload='{"n":1}')
    with shards[0].writing() as connection:
        connection.exec_driver_sql(f"UPDATE fila SET {damage_in_sql} WHERE id = {damaged}")
    job = dispatch.claim("worker-1")
    assert job is not None
    assert job.id == sound
    [letter] = dead_letters.list()
    assert (letter.job_id, letter.error_type, letter.reason) == (damaged, "JobDamaged", "damaged")
    assert not letter.is_sound
    assert [(event, facts["job_id"]) for event, facts in told] == [
        ("job_failed", damaged),
        ("job_dead_lettered", damaged),
    ]


@two_shards
def test_a_shard_that_served_meanwhile_is_warned_of_again(
    dispatch: DispatchService,
    damage: Damage,
    shards: list[SqliteDatabase],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards[1].close()
    sound = shards[1].path.read_bytes()
    for _ in range(2):
        damage(1)
        dispatch.claim("worker-1")
        dispatch.claim("worker-1")
        shards[1].close()
        shards[1].path.write_bytes(sound)
        dispatch.claim("worker-1")
    assert len(caplog.records) == 2


@two_shards
def test_when_no_shard_can_be_read_the_caller_is_told(
    dispatch: DispatchService, damage: Damage
) -> None:
    damage(0)
    damage(1)
    with pytest.raises(ShardDamagedError):
        dispatch.claim("worker-1")


@two_shards
def test_a_shard_that_refuses_to_be_written_does_not_hold_up_the_others(
    dispatch: DispatchService,
    add: Add,
    unwritable: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(1, shard_id=0)
    ids = add(10, shard_id=1)
    unwritable(0)
    claimed = [dispatch.claim("worker-1") for _ in range(10)]
    assert [(job.shard_id, job.id) for job in claimed if job] == [(1, job_id) for job_id in ids]
    assert len(caplog.records) == 1


@two_shards
def test_a_shard_that_refuses_to_be_written_is_no_error_while_another_serves(
    dispatch: DispatchService, add: Add, unwritable: Callable[[int], None]
) -> None:
    add(shard_id=0)
    unwritable(0)
    # Nothing is due in the other one at the moment, and what comes is not to wait for an outage.
    assert dispatch.claim("worker-1") is None
    [job_id] = add(shard_id=1)
    job = dispatch.claim("worker-1")
    assert job is not None
    assert (job.shard_id, job.id) == (1, job_id)


@limited
def test_when_no_shard_can_be_written_the_caller_is_told_and_no_token_is_gone(
    dispatch: DispatchService,
    add: Add,
    unwritable: Callable[[int], None],
    limiter: QueueRateLimiter,
) -> None:
    add()
    unwritable(0)
    with pytest.raises(ShardError, match="no room"):
        dispatch.claim("worker-1")
    assert limiter.get_remaining_tokens() == 60
