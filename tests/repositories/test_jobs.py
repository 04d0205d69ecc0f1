import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from chaos.support.figures import ROUNDS
from sqlalchemy import Connection
from support.clock import FakeClock
from support.jobs import a_new_job

from queue_max.domain.clock import from_text, to_text
from queue_max.domain.failures import Failure
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobPriority, JobStatus, Lease
from queue_max.repositories.claims import PROMOTED_AT_ONCE, ClaimRepository
from queue_max.repositories.job_lists import Counts
from queue_max.repositories.leases import LeaseRepository
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.storage.database import Database

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

only_sqlite = pytest.mark.parametrize("shard", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("shard", ["postgresql"], indirect=True)
wrong_fences = pytest.mark.parametrize("off_by", [-1, 1])


def promote(store: Store) -> int:
    with store.writing(0) as unit:
        return unit.claims.promote_due()


def claim_all(claim: Claim) -> list[int]:
    claimed = []
    while job := claim():
        claimed.append(job.id)
    return claimed


def forbid(connection: Connection, *ways: str) -> None:
    """Keep PostgreSQL from going some ways, within one transaction."""
    for way in ways:
        connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")


# Adding


def test_an_added_job_is_pending_and_holds_what_it_was_given(
    store: Store, clock: FakeClock, find: Find
) -> None:
    new = a_new_job(
        payload='{"title":"Olá \\u0000","n":[1,2.5,null]}',
        pagina_id=-7,
        priority=2,
        max_attempts=6,
        retry_delay=5,
    )
    with store.writing(0) as unit:
        [job_id] = unit.jobs.add([new])
    assert find(job_id) == Job(
        id=job_id,
        payload={"title": "Olá \0", "n": [1, 2.5, None]},
        pagina_id=-7,
        status=JobStatus.PENDING,
        priority=JobPriority.HIGH,
        attempts=0,
        max_attempts=6,
        retry_delay=5,
        created_at=to_text(clock.now),
        shard_id=0,
        uid=new.uid,
        fence=0,
    )


def test_ids_come_in_the_order_of_the_jobs(store: Store, in_status: InStatus) -> None:
    new = [a_new_job(payload=f'{{"n":{number}}}') for number in range(2_500)]
    with store.writing(0) as unit:
        ids = unit.jobs.add(new)
    numbers = {job.id: job.payload["n"] for job in in_status(JobStatus.PENDING)}
    assert [numbers[job_id] for job_id in ids] == list(range(2_500))


def test_the_largest_numbers_that_are_taken_fit(add: Add, find: Find) -> None:
    job = find(add(pagina_id=-(2**63 - 1), retry_delay=2**63 - 1))
    assert job is not None
    assert (job.pagina_id, job.retry_delay) == (-(2**63 - 1), 2**63 - 1)


def test_an_id_is_never_given_twice(store: Store, add: Add, start: Start) -> None:
    last = start()
    with store.writing(0) as unit:
        unit.jobs.complete(last.id, None)
    later = add()
    assert later > last.id
    with store.writing(0) as unit:
        unit.job_lists.purge(tuple(JobStatus))
    assert add() > later


# Looking for due jobs


def test_a_pending_job_is_due(store: Store, add: Add) -> None:
    with store.reading(0) as unit:
        assert not unit.claims.has_due(DEFAULT_QUEUE)
    add()
    with store.reading(0) as unit:
        assert unit.claims.has_due(DEFAULT_QUEUE)


def test_a_scheduled_job_is_due_from_its_time_on(
    store: Store, clock: FakeClock, schedule: Schedule
) -> None:
    schedule(10)
    clock.advance(9.999)
    with store.reading(0) as unit:
        assert not unit.claims.has_due(DEFAULT_QUEUE)
    clock.advance(0.001)
    with store.reading(0) as unit:
        assert unit.claims.has_due(DEFAULT_QUEUE)


def test_a_job_that_runs_or_has_failed_is_not_due(store: Store, start: Start) -> None:
    start()
    failed = start()
    with store.writing(0) as unit:
        unit.jobs.fail(failed, FAILURE)
    with store.reading(0) as unit:
        assert not unit.claims.has_due(DEFAULT_QUEUE)


def test_a_job_of_another_queue_is_neither_due_nor_claimed(
    store: Store, add: Add, claim: Claim
) -> None:
    add(queue="mail")
    with store.reading(0) as unit:
        assert not unit.claims.has_due(DEFAULT_QUEUE)
        assert unit.claims.has_due("mail")
    assert claim() is None


def test_due_jobs_are_found_while_another_holds_the_write_lock(store: Store, add: Add) -> None:
    add()
    with store.writing(0) as writer, store.reading(0) as reader:
        writer.job_lists.purge([JobStatus.PENDING])
        assert reader.claims.has_due(DEFAULT_QUEUE)


# Promotion


def test_a_scheduled_job_is_not_promoted_before_its_time(
    store: Store, clock: FakeClock, claim: Claim, schedule: Schedule
) -> None:
    schedule(10)
    clock.advance(9.999)
    assert promote(store) == 0
    assert claim() is None
    clock.advance(0.001)
    assert promote(store) == 1
    assert claim() is not None


@pytest.mark.parametrize("analyzed", [False, True])
def test_at_most_500_jobs_are_promoted_at_once_and_the_earliest_first(
    store: Store,
    shard: Database,
    clock: FakeClock,
    schedule: Schedule,
    in_status: InStatus,
    analyzed: bool,
) -> None:
    # The time at which they are due runs against the order of their ids.
    schedule(*(1_200 - number for number in range(1_200)))
    if analyzed:
        with shard.writing() as connection:
            connection.exec_driver_sql("ANALYZE")
    clock.advance(1_200)
    assert PROMOTED_AT_ONCE == 500
    assert promote(store) == 500
    pending = in_status(JobStatus.PENDING)
    assert len(pending) == 500
    latest_promoted = max(str(job.next_retry_at) for job in pending)
    assert all(str(job.next_retry_at) > latest_promoted for job in in_status(JobStatus.SCHEDULED))
    assert [promote(store) for _ in range(3)] == [500, 200, 0]


@only_postgresql
def test_no_plan_of_postgresql_promotes_more(
    shard: Database, clock: FakeClock, schedule: Schedule
) -> None:
    schedule(*range(600))
    clock.advance(600)
    with shard.writing() as connection:
        forbid(connection, "hashjoin", "mergejoin", "hashagg", "sort", "indexscan", "material")
        assert ClaimRepository(connection, 0, clock.now).promote_due() == 500


# Claiming


def test_jobs_are_claimed_by_priority_and_then_in_the_order_they_came(
    add: Add, claim: Claim
) -> None:
    priorities = [0, 2, 1, 2, 0, 1]
    ids = [add(priority=priority) for priority in priorities]
    assert claim_all(claim) == [ids[at] for at in (1, 3, 2, 5, 0, 4)]


def test_a_promoted_job_takes_its_place_by_priority_and_id(
    store: Store, clock: FakeClock, add: Add, claim: Claim, schedule: Schedule
) -> None:
    schedule(10)
    low = add(priority=0)
    high = add(priority=2)
    clock.advance(10)
    promote(store)
    assert claim_all(claim) == [high, low - 1, low]


@only_postgresql
def test_no_plan_of_postgresql_changes_the_order(
    shard: Database, clock: FakeClock, insert_rows: InsertRows
) -> None:
    # In the table they stand in the order in which they were stored.
    insert_rows([{"id": job_id} for job_id in (3, 1, 2)])
    with shard.writing() as connection:
        forbid(connection, "indexscan", "bitmapscan")
        repository = ClaimRepository(connection, 0, clock.now)
        claimed = [repository.claim_next(DEFAULT_QUEUE, "worker-1") for _ in range(3)]
    assert [job and job.id for job in claimed] == [1, 2, 3]


@only_postgresql
def test_on_postgresql_claims_do_not_wait_for_each_other(store: Store, add: Add) -> None:
    first, second = add(), add()
    with store.writing(0) as one, store.writing(0, wait=0.0) as other:
        jobs = [unit.claims.claim_next(DEFAULT_QUEUE, "worker-1") for unit in (one, other)]
    assert [job and job.id for job in jobs] == [first, second]


def test_a_claimed_job_shows_the_attempt_just_taken(clock: FakeClock, start: Start) -> None:
    clock.advance(5)
    job = start("worker-7")
    assert job.status is JobStatus.PROCESSING
    assert (job.attempts, job.fence, job.worker_id) == (1, 1, "worker-7")
    assert job.started_at == job.heartbeat == to_text(clock.now)


def test_what_a_claim_gives_is_what_is_stored(start: Start, find: Find) -> None:
    job = start()
    assert find(job.id) == job


def test_fence_and_attempts_rise_by_one_with_every_claim(
    store: Store, clock: FakeClock, claim: Claim, start: Start
) -> None:
    job: Job | None = start()
    for number in (2, 3, 4):
        assert job is not None
        with store.writing(0) as unit:
            unit.jobs.reschedule(job, FAILURE, clock.now)
        clock.advance(1)
        job = claim()
        assert job is not None
        assert (job.attempts, job.fence) == (number, number)
        assert job.started_at == to_text(clock.now)


@only_postgresql
def test_a_claim_is_one_statement_where_others_write_meanwhile(
    add: Add, claim: Claim, statements: list[tuple[str, Any]]
) -> None:
    add()
    statements.clear()
    assert claim() is not None
    changes = [sql for sql, _ in statements if sql.startswith(("UPDATE", "SELECT", "WITH"))]
    assert len(changes) == 1


@only_sqlite
def test_a_claim_of_many_sends_no_more_than_a_claim_of_one(
    add: Add, store: Store, statements: list[tuple[str, Any]]
) -> None:
    for _ in range(50):
        add()
    with store.writing(0) as unit:
        statements.clear()
        assert len(unit.claims.claim(DEFAULT_QUEUE, "w", at_most=50)) == 50
    assert len(statements) == 2


@only_sqlite
@pytest.mark.parametrize(
    "harm", ["payload = x'00ff'", "fence = 'many'", "payload = CAST(x'22ff22' AS TEXT)"]
)
def test_a_row_that_has_no_form_in_json_keeps_no_other_from_being_claimed(
    add: Add, store: Store, shard: Database, harm: str
) -> None:
    sound, damaged = add(), add()
    with shard.writing() as connection:
        connection.exec_driver_sql(f"UPDATE fila SET {harm} WHERE id = {damaged}")
    with store.writing(0) as unit:
        claimed = {job.id: job for job in unit.claims.claim(DEFAULT_QUEUE, "w", at_most=9)}
    assert claimed[sound].damage is None
    assert claimed[damaged].damage is not None


def test_nothing_is_claimed_of_an_empty_shard(claim: Claim) -> None:
    assert claim() is None


def test_a_job_that_runs_is_not_claimed_again(claim: Claim, start: Start) -> None:
    start()
    assert claim("worker-2") is None


def test_each_of_400_jobs_goes_to_exactly_one_of_8_threads(store: Store) -> None:
    with store.writing(0) as unit:
        ids = unit.jobs.add([a_new_job(priority=number % 3) for number in range(400)])
    barrier = threading.Barrier(8)

    def take_all(worker: int) -> list[tuple[int, int]]:
        barrier.wait()
        taken = []
        while True:
            with store.writing(0) as unit:
                job = unit.claims.claim_next(DEFAULT_QUEUE, f"worker-{worker}")
            if job is None:
                return taken
            taken.append((job.id, job.fence))

    with ThreadPoolExecutor(8) as threads:
        taken = [each for part in threads.map(take_all, range(8)) for each in part]
    assert sorted(taken) == [(job_id, 1) for job_id in ids]


# Finishing


def test_a_completed_job_is_gone_and_its_lease_and_uid_are_named(
    store: Store, start: Start, find: Find
) -> None:
    job = start()
    with store.writing(0) as unit:
        assert unit.jobs.complete(job.id, job.fence) == (
            Lease(0, job.id, job.fence),
            job.uid,
            None,
        )
    assert find(job.id) is None


def test_without_a_fence_whatever_runs_is_completed(store: Store, start: Start, find: Find) -> None:
    job = start()
    with store.writing(0) as unit:
        assert unit.jobs.complete(job.id, None) == (job.lease, job.uid, None)
    assert find(job.id) is None


@wrong_fences
def test_with_a_wrong_fence_nothing_is_completed(
    store: Store, start: Start, find: Find, off_by: int
) -> None:
    job = start()
    with store.writing(0) as unit:
        assert unit.jobs.complete(job.id, job.fence + off_by) is None
    assert find(job.id) == job


@pytest.mark.parametrize("fenced", [False, True])
def test_a_job_that_does_not_run_is_not_completed(
    store: Store, clock: FakeClock, start: Start, find: Find, fenced: bool
) -> None:
    job = start()
    fence = job.fence if fenced else None
    with store.writing(0) as unit:
        unit.jobs.reschedule(job, FAILURE, clock.now)
    waiting = find(job.id)
    with store.writing(0) as unit:
        assert unit.jobs.complete(job.id, fence) is None
        assert unit.jobs.running(job.id, fence) is None
    assert find(job.id) == waiting


@pytest.mark.parametrize("number", [0, -1, 2**63, -(2**70)])
def test_a_number_that_is_no_jobs_names_none(store: Store, start: Start, number: int) -> None:
    job = start()
    with store.writing(0) as unit:
        assert unit.jobs.complete(number, None) is None
        assert unit.jobs.complete(job.id, number) is None
        assert unit.jobs.running(number, None) is None
        assert unit.jobs.running(job.id, number) is None
        assert unit.job_lists.requeue_failed(number) == 0
        assert unit.jobs.running(job.id, job.fence) == job


def test_a_job_that_is_given_back_was_never_attempted(
    store: Store, start: Start, find: Find, claim: Claim
) -> None:
    job = start()
    with store.writing(0) as unit:
        unit.jobs.give_back(job)
    waiting = find(job.id)
    assert waiting is not None
    assert (waiting.status, waiting.attempts) == (JobStatus.PENDING, 0)
    assert (waiting.worker_id, waiting.heartbeat) == (None, None)
    again = claim()
    assert again is not None
    assert (again.attempts, again.fence) == (1, job.fence + 1)


def test_who_lost_its_lease_cannot_give_the_job_back(
    store: Store, clock: FakeClock, start: Start, claim: Claim, find: Find
) -> None:
    lost = start()
    with store.writing(0) as unit:
        unit.jobs.reschedule(lost, FAILURE, clock.now)
    again = claim()
    with store.writing(0) as unit:
        unit.jobs.give_back(lost)
    assert find(lost.id) == again


def test_the_jobs_a_process_holds_are_found_until_it_holds_them_no_longer(
    store: Store, add: Add, clock: FakeClock
) -> None:
    add()
    add()
    with store.writing(0) as unit:
        held = [unit.claims.claim_next(DEFAULT_QUEUE, "w", holder) for holder in ("one", "other")]
        assert unit.leases.held_by("one", 10) == held[:1]
        assert held[0] is not None
        unit.jobs.reschedule(held[0], FAILURE, clock.now)
        assert unit.leases.held_by("one", 10) == []


def test_all_leases_are_told_with_the_moment_they_were_prolonged(
    store: Store, add: Add, start: Start, clock: FakeClock
) -> None:
    first = start()
    clock.advance(5)
    second = start()
    add()
    with store.reading(0) as unit:
        leases = unit.leases.all()
    assert {lease: to_text(from_text(at)) for lease, at in leases.items()} == {
        first.lease: first.heartbeat,
        second.lease: second.heartbeat,
    }


def test_only_one_of_8_threads_completes_a_job(store: Store, start: Start) -> None:
    job = start()
    barrier = threading.Barrier(8)

    def complete(_: int) -> tuple[Lease, str, str | None] | None:
        barrier.wait()
        with store.writing(0) as unit:
            return unit.jobs.complete(job.id, job.fence)

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(complete, range(8)))
    assert [each for each in done if each] == [(job.lease, job.uid, None)]


def test_a_running_job_is_read_with_and_without_its_fence(store: Store, start: Start) -> None:
    job = start()
    with store.writing(0) as unit:
        assert unit.jobs.running(job.id, job.fence) == job
        assert unit.jobs.running(job.id, None) == job


@wrong_fences
def test_a_running_job_is_not_read_under_another_fence(
    store: Store, start: Start, off_by: int
) -> None:
    job = start()
    with store.writing(0) as unit:
        assert unit.jobs.running(job.id, job.fence + off_by) is None


# Failing


def test_a_rescheduled_job_waits_and_says_why(
    store: Store, clock: FakeClock, claim: Claim, start: Start, find: Find
) -> None:
    job = start()
    with store.writing(0) as unit:
        unit.jobs.reschedule(job, FAILURE, clock.now + timedelta(seconds=90))
    waiting = find(job.id)
    assert waiting is not None
    assert waiting.status is JobStatus.SCHEDULED
    assert waiting.next_retry_at == to_text(clock.now + timedelta(seconds=90))
    assert (waiting.error_type, waiting.last_error) == ("ValueError", "no such page")
    assert waiting.error_stack == "Traceback: ..."
    assert (waiting.worker_id, waiting.heartbeat) == (None, None)
    assert (waiting.attempts, waiting.fence) == (1, 1)
    assert claim() is None


def test_a_job_rescheduled_for_now_is_pending_at_once(
    store: Store, clock: FakeClock, claim: Claim, start: Start
) -> None:
    job = start()
    with store.writing(0) as unit:
        unit.jobs.reschedule(job, FAILURE, clock.now)
    again = claim()
    assert again is not None
    assert again.id == job.id


def test_a_failed_job_stays_with_its_error_and_the_time_of_its_end(
    store: Store, clock: FakeClock, claim: Claim, start: Start, find: Find
) -> None:
    job: Job | None = start()
    assert job is not None
    with store.writing(0) as unit:
        unit.jobs.reschedule(job, FAILURE, clock.now)
    job = claim()
    assert job is not None
    clock.advance(3)
    with store.writing(0) as unit:
        unit.jobs.fail(job, FAILURE)
    failed = find(job.id)
    assert failed is not None
    assert failed.status is JobStatus.FAILED
    assert failed.completed_at == to_text(clock.now)
    assert (failed.error_type, failed.last_error) == ("ValueError", "no such page")
    assert (failed.worker_id, failed.heartbeat, failed.next_retry_at) == (None, None, None)
    assert claim() is None


def test_a_worker_that_lost_its_job_can_neither_reschedule_nor_fail_it(
    store: Store, clock: FakeClock, claim: Claim, start: Start, find: Find
) -> None:
    lost = start("worker-1")
    with store.writing(0) as unit:
        unit.jobs.reschedule(lost, FAILURE, clock.now)
    running = claim("worker-2")
    assert running is not None
    with store.writing(0) as unit:
        unit.jobs.reschedule(lost, FAILURE, clock.now)
        unit.jobs.fail(lost, FAILURE)
    assert find(running.id) == running


@pytest.mark.parametrize("text", ["half a \ud83d face", "a NUL \0 within", "\udcff.py"])
def test_an_error_in_any_characters_can_be_kept(
    store: Store, clock: FakeClock, start: Start, find: Find, text: str
) -> None:
    job = start()
    try:
        raise ValueError(text)
    except ValueError as error:
        failure = Failure.of(error)
    with store.writing(0) as unit:
        unit.jobs.reschedule(job, failure, clock.now)
    waiting = find(job.id)
    assert waiting is not None
    assert waiting.error_type == "ValueError"


# Another life


def test_a_requeued_job_has_a_fresh_budget_and_a_rising_fence(
    store: Store, claim: Claim, start: Start
) -> None:
    job = start(max_attempts=1)
    with store.writing(0) as unit:
        unit.jobs.fail(job, FAILURE)
    with store.writing(0) as unit:
        assert unit.job_lists.requeue_failed() == 1
    again = claim()
    assert again is not None
    assert (again.id, again.attempts, again.max_attempts) == (job.id, 1, 1)
    assert again.fence == job.fence + 1
    assert again.completed_at is None


def test_one_failed_job_can_be_requeued_alone(
    store: Store, start: Start, in_status: InStatus
) -> None:
    first, second = start(), start()
    with store.writing(0) as unit:
        unit.jobs.fail(first, FAILURE)
        unit.jobs.fail(second, FAILURE)
    with store.writing(0) as unit:
        assert unit.job_lists.requeue_failed(second.id) == 1
    assert [job.id for job in in_status(JobStatus.FAILED)] == [first.id]


def test_only_failed_jobs_are_requeued(
    store: Store, add: Add, start: Start, schedule: Schedule, counts: CountAll
) -> None:
    running, pending = start(), add()
    schedule(60)
    with store.writing(0) as unit:
        assert unit.job_lists.requeue_failed() == 0
        assert unit.job_lists.requeue_failed(running.id) == 0
        assert unit.job_lists.requeue_failed(pending) == 0
    assert counts() == Counts(pending=1, scheduled=1, processing=1, failed=0)


# Leases


def test_leases_are_prolonged_to_the_present(
    store: Store, clock: FakeClock, start: Start, find: Find
) -> None:
    held = [start(), start()]
    other = start()
    clock.advance(10)
    with store.writing(0) as unit:
        assert unit.leases.renew([job.lease for job in held]) == 2
    assert [getattr(find(job.id), "heartbeat", None) for job in held] == [to_text(clock.now)] * 2
    assert find(other.id) == other


@wrong_fences
def test_a_lost_lease_stays_lost(
    store: Store, clock: FakeClock, start: Start, find: Find, off_by: int
) -> None:
    job = start()
    clock.advance(10)
    with store.writing(0) as unit:
        assert unit.leases.renew([Lease(0, job.id, job.fence + off_by)]) == 0
    assert find(job.id) == job


def test_a_fence_prolongs_the_lease_of_its_own_job_only(
    store: Store, clock: FakeClock, claim: Claim, start: Start
) -> None:
    first = start()
    with store.writing(0) as unit:
        unit.jobs.reschedule(first, FAILURE, clock.now)
    again, second = claim(), start()
    assert again is not None
    crossed = [Lease(0, again.id, second.fence), Lease(0, second.id, again.fence)]
    with store.writing(0) as unit:
        assert unit.leases.renew(crossed) == 0


def test_a_job_that_no_longer_runs_has_no_lease_to_prolong(
    store: Store, clock: FakeClock, start: Start, find: Find
) -> None:
    job = start()
    with store.writing(0) as unit:
        unit.jobs.reschedule(job, FAILURE, clock.now)
        assert unit.leases.renew([job.lease]) == 0
    assert getattr(find(job.id), "heartbeat", "") is None


def test_no_leases_are_prolonged_when_none_are_held(store: Store, start: Start) -> None:
    start()
    with store.writing(0) as unit:
        assert unit.leases.renew([]) == 0


def test_a_worker_can_prolong_its_leases_by_its_name(
    store: Store, clock: FakeClock, start: Start, find: Find
) -> None:
    own, other = start("worker-1"), start("worker-2")
    clock.advance(10)
    with store.writing(0) as unit:
        assert unit.leases.renew_of_worker("worker-1") == 1
    renewed = find(own.id)
    assert renewed is not None
    assert renewed.heartbeat == to_text(clock.now)
    assert find(other.id) == other


def test_silent_jobs_are_found_longest_silence_first_and_bounded(
    store: Store, clock: FakeClock, start: Start
) -> None:
    ids = []
    for _ in range(4):
        ids.append(start().id)
        clock.advance(1)
    with store.writing(0) as unit:
        renewed = Lease(0, ids[0], 1)
        unit.leases.renew([renewed])
        silent = unit.leases.silent_since(clock.now, limit=2)
    assert [job.id for job in silent] == ids[1:3]


def test_a_lease_prolonged_at_that_very_moment_is_not_silent(
    store: Store, clock: FakeClock, start: Start
) -> None:
    job = start()
    with store.reading(0) as unit:
        assert unit.leases.silent_since(clock.now, limit=9) == []
        just_after = clock.now + timedelta(milliseconds=1)
        assert unit.leases.silent_since(just_after, limit=9) == [job]


def test_only_jobs_that_run_can_be_silent(
    store: Store, clock: FakeClock, insert_rows: InsertRows
) -> None:
    # Files of 0.1.1 have heartbeats in jobs that have long been given back.
    others = [status for status in JobStatus if status is not JobStatus.PROCESSING]
    insert_rows([{"status": status, "heartbeat": clock.now} for status in others])
    with store.reading(0) as unit:
        assert unit.leases.silent_since(clock.now + timedelta(days=1), limit=9) == []


@only_postgresql
def test_no_plan_of_postgresql_finds_the_wrong_silent_jobs(
    shard: Database, clock: FakeClock, insert_rows: InsertRows
) -> None:
    silences = [timedelta(seconds=each) for each in (1, 3, 2)]
    rows = [{"status": "processing", "heartbeat": clock.now - silence} for silence in silences]
    insert_rows(rows)
    with shard.writing() as connection:
        forbid(connection, "indexscan", "bitmapscan")
        [longest] = LeaseRepository(connection, 0, clock.now).silent_since(clock.now, limit=1)
    assert longest.heartbeat == to_text(clock.now - timedelta(seconds=3))


# Cost


SOME = [Job(id=number, payload={}, fence=1) for number in (1, 2)]

hot = pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda unit: unit.claims.has_due(DEFAULT_QUEUE), id="has_due"),
        pytest.param(lambda unit: unit.claims.promote_due(), id="promote_due"),
        pytest.param(lambda unit: unit.claims.claim_next(DEFAULT_QUEUE, "w"), id="claim_next"),
        pytest.param(lambda unit: unit.claims.claim(DEFAULT_QUEUE, "w", at_most=9), id="claim"),
        pytest.param(lambda unit: unit.claims.next_due(), id="next_due"),
        pytest.param(lambda unit: unit.claims.waiting_since("default"), id="waiting_since"),
        pytest.param(lambda unit: unit.lines.has(["task:a@1"], ["default"]), id="has in line"),
        pytest.param(lambda unit: unit.lines.release(["task:a@1"]), id="release of a line"),
        pytest.param(lambda unit: unit.job_lists.count_held(), id="count_held"),
        pytest.param(lambda unit: unit.jobs.complete(1, 1), id="complete"),
        pytest.param(lambda unit: unit.job_lists.complete_all(SOME), id="complete_all"),
        pytest.param(lambda unit: unit.jobs.running(1, 1), id="running"),
        pytest.param(lambda unit: unit.leases.renew([Lease(0, 1, 1), Lease(0, 2, 1)]), id="renew"),
        pytest.param(lambda unit: unit.leases.renew_of_worker("worker-1"), id="renew_of_worker"),
        pytest.param(lambda unit: unit.leases.silent_since(unit.now, 10), id="silent_since"),
        pytest.param(lambda unit: unit.leases.held_by("some-process", 10), id="held_by"),
        pytest.param(lambda unit: unit.leases.all(), id="leases"),
    ],
)


@hot
def test_each_step_goes_by_an_index_and_sorts_nothing(
    plan: Plan, fill: Callable[[], None], step: Callable[[UnitOfWork], object]
) -> None:
    fill()
    assert plan(step)


@only_sqlite
@pytest.mark.chaos
@hot
def test_so_does_it_on_sqlite_with_a_million_jobs(
    plan: Plan, fill: Callable[[], None], shard: Database, step: Callable[[UnitOfWork], object]
) -> None:
    fill()
    columns = "payload, status, priority, heartbeat, created_at, completed_at, next_retry_at"
    for _ in range(9 if ROUNDS else 4):
        with shard.writing() as connection:
            connection.exec_driver_sql(
                f"INSERT INTO fila (uid, {columns}) SELECT hex(randomblob(16)), {columns} FROM fila"
            )
    assert plan(step)


@only_sqlite
@hot
def test_so_does_it_on_sqlite_where_no_job_is_yet(
    plan: Plan, step: Callable[[UnitOfWork], object]
) -> None:
    assert plan(step)
