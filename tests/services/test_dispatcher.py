"""The Dispatcher: what it hands out, in which order, and that nothing it was given is lost."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.events import Events
from queue_max.domain.failures import WORKER_DIED, Failure
from queue_max.domain.job import DEFAULT_RETRY_DELAY, Job, JobStatus
from queue_max.domain.queues import QueueChoice
from queue_max.domain.tasks import Abilities, gate_of, gate_of_job
from queue_max.exceptions import QueueClosedError, ShardDamagedError, ShardError
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services import exchange as exchange_module
from queue_max.services.admission import Admission
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.dispatcher import FLUSH_AFTER, HELD_AT_MOST, Dispatcher
from queue_max.services.exchange import Ended, Exchange
from queue_max.services.inspection import InspectionService
from queue_max.services.leases import LeaseService
from queue_max.services.limits import LimitService
from queue_max.services.pace import Pace
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService
from queue_max.services.shard_watch import ShardWatch
from queue_max.services.unknown_tasks import UnknownTasks
from queue_max.services.urgency import Urgency
from queue_max.storage.sqlite import SqliteDatabase

Add = Callable[..., list[int]]
Find = Callable[..., Job | None]
Told = list[tuple[str, dict[str, Any]]]
Locked = Callable[[int], AbstractContextManager[None]]

two_shards = pytest.mark.parametrize("shard_count", [2])
three_shards = pytest.mark.parametrize("shard_count", [3])


class Knows:
    """A worker that knows some tasks, and has a function for all other jobs."""

    def __init__(self) -> None:
        self.known = {gate_of(None)}

    def can_run(self, job: Job) -> bool:
        return gate_of_job(job) in self.known

    def gates(self) -> set[str]:
        return self.known


@pytest.fixture
def knows() -> Knows:
    return Knows()


@pytest.fixture
def choice() -> QueueChoice:
    return QueueChoice()


@pytest.fixture
def dispatcher(
    store: Store,
    settlement: SettlementService,
    retry: RetryService,
    admission: Admission,
    leases: LeaseService,
    events: Events,
    watch: ShardWatch,
    knows: Knows,
    choice: QueueChoice,
    clock: FakeClock,
) -> Dispatcher:
    abilities = Abilities()
    made = Dispatcher(
        store.shard_ids,
        choice,
        Exchange(store, settlement, retry, leases, admission, abilities),
        abilities,
        UnknownTasks(events),
        retry,
        admission,
        leases,
        random.Random(0),
        watch,
        clock=lambda: clock.now.timestamp(),
    )
    made.join(knows)
    return made


@pytest.fixture
def _hungry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim ten jobs at a time."""
    monkeypatch.setattr(Pace, "appetite", lambda _pace, _workers, _now: 10)


@pytest.fixture
def take(dispatcher: Dispatcher) -> Callable[..., Job | None]:
    def take(worker_id: str = "worker-1") -> Job | None:
        return dispatcher.take(worker_id, look_every=1.0)

    return take


@pytest.fixture
def done(dispatcher: Dispatcher) -> Callable[[Job], list[bool]]:
    """Finish a job as done; gives a list that gets what is told of it."""

    def done(job: Job) -> list[bool]:
        told: list[bool] = []
        dispatcher.finish(_Done(job, told))
        return told

    return done


class _Ended(Ended):
    def __init__(self, job: Job, told: list[bool]) -> None:
        super().__init__(job)
        self._told = told

    def write(self, unit: UnitOfWork) -> bool:
        raise TypeError("nobody foresaw it")

    def tell(self, is_written: bool) -> None:
        self._told.append(is_written)


class _Done(_Ended):
    is_simply_done = True


Take = Callable[..., Job | None]
Done = Callable[[Job], list[bool]]

hungry = pytest.mark.usefixtures("_hungry")


def must(job: Job | None) -> Job:
    assert job is not None
    return job


# Handing out


def test_a_job_is_given_to_a_worker_under_a_lease(take: Take, add: Add, find: Find) -> None:
    [job_id] = add()
    job = must(take("anna"))
    assert (job.id, job.worker_id, job.attempts, job.fence) == (job_id, "anna", 1, 1)
    assert must(find(job_id)).status is JobStatus.PROCESSING
    assert take() is None


@hungry
def test_what_is_claimed_together_is_given_out_without_asking_again(
    take: Take, add: Add, statements: list[str]
) -> None:
    ids = add(5)
    first = must(take())
    statements.clear()
    assert [first.id, *(must(take()).id for _ in range(4))] == ids
    assert statements == []


@hungry
@two_shards
def test_the_buffer_gives_out_the_most_urgent_first(take: Take, add: Add) -> None:
    add(2, shard_id=0, priority=0)
    add(2, shard_id=0, priority=1)
    assert must(take()).priority == 1
    assert [must(take()).priority for _ in range(3)] == [1, 0, 0]


@hungry
def test_a_buffered_job_is_run_under_the_name_of_the_worker_that_takes_it(
    take: Take, add: Add
) -> None:
    add(2)
    assert [must(take(name)).worker_id for name in ("anna", "bert")] == ["anna", "bert"]


@hungry
def test_what_is_buffered_keeps_its_lease(take: Take, add: Add, leases: LeaseService) -> None:
    add(3)
    take()
    assert len(leases._held) == 3


@hungry
@pytest.mark.parametrize("kind", ["single attempt", "suspect"])
def test_a_job_that_must_not_be_charged_for_others_is_not_buffered(
    take: Take, add: Add, find: Find, store: Store, kind: str
) -> None:
    [first] = add()
    [careful] = add(max_attempts=1) if kind == "single attempt" else add()
    if kind == "suspect":
        with store.writing(0) as unit:
            unit.claims.claim("default", "w", at_most=2)
            for job_id in (first, careful):
                job = must(unit.jobs.running(job_id, None))
                died = Failure(WORKER_DIED, "") if job_id == careful else Failure("E", "")
                unit.jobs.reschedule(job, died, unit.now)
    assert must(take()).id == first
    assert must(find(careful)).status is JobStatus.PENDING
    assert must(take()).id == careful


@hungry
def test_what_nobody_begins_goes_back_and_its_attempt_counts_not(
    dispatcher: Dispatcher, take: Take, add: Add, find: Find, clock: FakeClock, leases: LeaseService
) -> None:
    ids = add(3)
    must(take())
    clock.advance(HELD_AT_MOST - 0.01)
    dispatcher._tend()
    assert must(find(ids[1])).status is JobStatus.PROCESSING
    clock.advance(0.02)
    dispatcher._tend()
    given_back = [must(find(each)) for each in ids[1:]]
    assert [(job.status, job.attempts) for job in given_back] == [(JobStatus.PENDING, 0)] * 2
    assert len(leases._held) == 1
    assert must(take()).id == ids[1]


@hungry
def test_at_the_end_all_goes_back_that_nobody_has_begun(
    dispatcher: Dispatcher, take: Take, add: Add, inspection: InspectionService
) -> None:
    add(4)
    must(take())
    dispatcher.give_all_back()
    counts = inspection.counts()
    assert (counts.pending, counts.processing) == (3, 1)


def test_a_damaged_job_is_buried_on_the_way(
    take: Take,
    add: Add,
    shards: list[SqliteDatabase],
    dead_letters: DeadLetterService,
    told: Told,
) -> None:
    damaged, sound = add(2)
    with shards[0].writing() as connection:
        connection.exec_driver_sql(f"UPDATE fila SET payload = '{{' WHERE id = {damaged}")
    assert must(take()).id == sound
    assert [letter.job_id for letter in dead_letters.list()] == [damaged]
    assert [event for event, _ in told] == ["job_failed", "job_dead_lettered"]


def test_a_moment_that_is_damaged_keeps_no_other_job_from_being_claimed(
    dispatcher: Dispatcher, take: Take, add: Add, shards: list[SqliteDatabase]
) -> None:
    [damaged] = add(delay=60)
    [sound] = add()
    with shards[0].writing() as connection:
        connection.exec_driver_sql(f"UPDATE fila SET next_retry_at = 'zzz' WHERE id = {damaged}")
    assert must(take()).id == sound
    assert take() is None
    [another] = add()
    dispatcher.hint(0)
    assert must(take()).id == another


@three_shards
@hungry
@pytest.mark.parametrize("choice", [QueueChoice(("mail", "default"))])
def test_the_first_queue_comes_first_in_all_shards(take: Take, add: Add) -> None:
    for shard_id in range(3):
        add(3, shard_id=shard_id, queue="default")
        add(2, shard_id=shard_id, queue="mail")
    assert [must(take()).queue for _ in range(15)] == ["mail"] * 6 + ["default"] * 9


@three_shards
@hungry
def test_the_shard_with_the_most_urgent_job_comes_first_where_that_is_asked_for(
    dispatcher: Dispatcher, take: Take, add: Add, store: Store
) -> None:
    dispatcher._urgency = Urgency(store)
    for shard_id, priority in enumerate((0, 2, 1)):
        add(2, shard_id=shard_id, priority=priority)
    assert [must(take()).priority for _ in range(6)] == [2, 2, 1, 1, 0, 0]


# Limits


@hungry
@pytest.mark.parametrize("rate_limit", [2])
def test_no_more_is_claimed_than_the_limiter_lets_start(
    take: Take, add: Add, inspection: InspectionService, clock: FakeClock
) -> None:
    add(5)
    taken = []
    for _ in range(3):
        taken.append(take())
        clock.advance(0.1)
    assert [job is not None for job in taken] == [True, True, False]
    assert inspection.counts().processing == 2


@pytest.mark.parametrize("failure_threshold", [1])
def test_while_the_circuit_is_open_nothing_is_claimed(
    take: Take, add: Add, breaker: Any, inspection: InspectionService
) -> None:
    add(2)
    breaker.record_failure()
    assert take() is None
    assert inspection.counts().processing == 0


# Settling


def test_what_has_ended_is_settled_with_the_next_claim(
    take: Take, add: Add, done: Done, find: Find, statements: list[str]
) -> None:
    first, second = add(2)
    told = done(must(take()))
    assert told == []
    statements.clear()
    assert must(take()).id == second
    assert told == [True]
    assert find(first) is None
    assert sum(sql.startswith("BEGIN IMMEDIATE") for sql in statements) == 1


@hungry
def test_what_has_ended_is_settled_soon_however_long_the_next_job_runs(
    dispatcher: Dispatcher, take: Take, add: Add, done: Done, clock: FakeClock
) -> None:
    add(2)
    told = done(must(take()))
    must(take())
    clock.advance(FLUSH_AFTER / 2)
    dispatcher._tend()
    assert told == []
    clock.advance(FLUSH_AFTER)
    dispatcher._tend()
    assert told == [True]


def test_an_outcome_of_its_own_is_written_in_the_same_transaction(
    dispatcher: Dispatcher, take: Take, add: Add, find: Find, retry: RetryService
) -> None:
    [job_id] = add(max_attempts=2)
    job, told = must(take()), []
    failure, verdict = Failure.of("it broke"), retry.judge(job, "it broke")

    class Failed(_Ended):
        def write(self, unit: UnitOfWork) -> bool:
            return retry.write(unit, job, failure, verdict)

    dispatcher.finish(Failed(job, told))
    dispatcher.flush()
    assert told == [True]
    assert (must(find(job_id)).status, must(find(job_id)).last_error) == (
        JobStatus.SCHEDULED,
        "it broke",
    )


@pytest.mark.parametrize("is_flushed", [True, False], ids=["by-the-tender", "by-a-worker"])
def test_a_job_that_is_to_be_tried_again_at_once_is_found_at_once(
    dispatcher: Dispatcher, take: Take, add: Add, is_flushed: bool
) -> None:
    [job_id] = add(max_attempts=2)
    job = must(take())
    assert take() is None  # there is no more

    class Failed(_Ended):
        def write(self, unit: UnitOfWork) -> bool:
            return unit.jobs.reschedule(job, Failure("E", ""), unit.now)

    dispatcher.finish(Failed(job, []))
    if is_flushed:
        dispatcher.flush()
    assert must(take()).id == job_id


@pytest.mark.parametrize("is_flushed", [True, False], ids=["by-the-tender", "by-a-worker"])
def test_the_next_job_of_a_concurrency_key_is_found_when_the_one_before_has_ended(
    dispatcher: Dispatcher, take: Take, add: Add, done: Done, is_flushed: bool
) -> None:
    first, second = add(2, concurrency_key="customer-7")
    job = must(take())
    assert (job.id, take()) == (first, None)
    done(job)
    if is_flushed:
        dispatcher.flush()
    assert must(take()).id == second


def test_whose_lease_is_lost_is_told_so_and_changes_nothing(
    dispatcher: Dispatcher, take: Take, add: Add, done: Done, store: Store, find: Find
) -> None:
    [job_id] = add()
    job = must(take())
    with store.writing(0) as unit:
        unit.jobs.give_back(job)
        heir = must(unit.claims.claim_next("default", "heir"))
    told = done(job)
    dispatcher.flush()
    assert told == [False]
    assert must(find(job_id)).lease == heir.lease


def test_all_that_are_done_are_counted_and_their_attempts_forgotten(
    dispatcher: Dispatcher,
    take: Take,
    add: Add,
    done: Done,
    retry: RetryService,
    clock: FakeClock,
    inspection: InspectionService,
    store: Store,
) -> None:
    add(max_attempts=3)
    job = must(take())
    retry.settle_job(job, "again")
    clock.advance(10 * DEFAULT_RETRY_DELAY)
    dispatcher.hint(0)
    done(must(take()))
    dispatcher.flush()
    assert inspection.totals().processed == 1
    with store.reading(0) as unit:
        assert unit.attempts.of(str(job.uid)) == []


@hungry
def test_when_an_exchange_fails_each_outcome_is_settled_alone(
    dispatcher: Dispatcher, take: Take, add: Add, done: Done, inspection: InspectionService
) -> None:
    add(3)
    jobs = [must(take()) for _ in range(3)]
    told = [done(jobs[0])]
    bad: list[bool] = []

    dispatcher.finish(_Ended(jobs[1], bad))
    told.append(done(jobs[2]))
    dispatcher.flush()
    assert told == [[True], [True]]
    assert bad == [False]
    assert inspection.totals().processed == 2


def test_a_commit_that_failed_and_was_done_counts_as_done(
    dispatcher: Dispatcher,
    take: Take,
    add: Add,
    done: Done,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add()
    told = done(must(take()))
    writing, calls = store.writing, []

    def failing_once(shard_id: int, wait: float | None = None) -> Any:
        calls.append(shard_id)
        return _Failing(writing(shard_id, wait)) if len(calls) == 1 else writing(shard_id, wait)

    monkeypatch.setattr(store, "writing", failing_once)
    dispatcher.flush()
    assert told == [True]


class _Failing:
    """A transaction that is committed, and says that it was not."""

    def __init__(self, inner: AbstractContextManager[UnitOfWork]) -> None:
        self._inner = inner

    def __enter__(self) -> UnitOfWork:
        return self._inner.__enter__()

    def __exit__(self, *facts: Any) -> None:
        self._inner.__exit__(*facts)
        raise ShardError(0, "disk I/O error")


def test_what_cannot_be_settled_now_is_settled_later(
    dispatcher: Dispatcher, take: Take, add: Add, done: Done, locked: Locked, clock: FakeClock
) -> None:
    add()
    told = done(must(take()))
    with locked(0):
        dispatcher.flush()
        assert told == []
    clock.advance(60)
    dispatcher.flush()
    assert told == [True]


def test_when_the_store_is_closed_the_outcomes_stay(
    dispatcher: Dispatcher, take: Take, add: Add, done: Done, store: Store
) -> None:
    add()
    told = done(must(take()))
    store.close()
    with pytest.raises(QueueClosedError):
        dispatcher.flush()
    assert told == []


# Several shards


@two_shards
def test_a_locked_shard_does_not_hold_up_the_others(
    take: Take, add: Add, locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "LOCK_WAIT", 0.001)
    add(2, shard_id=0)
    ids = add(2, shard_id=1)
    with locked(0):
        assert [must(take()).id for _ in range(2)] == ids
        assert take() is None


@three_shards
def test_a_shard_that_has_no_more_is_no_reason_to_ask_all_others(
    dispatcher: Dispatcher, take: Take, add: Add, statements: list[str]
) -> None:
    assert take() is None
    add(shard_id=1)
    dispatcher.hint(1)
    statements.clear()
    must(take())
    assert take() is None
    assert not [sql for sql in statements if "EXISTS" in sql]


@two_shards
def test_a_shard_that_has_no_more_is_asked_again_when_its_next_job_is_due(
    dispatcher: Dispatcher, take: Take, add: Add, clock: FakeClock
) -> None:
    assert take() is None
    add(shard_id=1)
    [later] = add(shard_id=1, delay=0.5)
    dispatcher.hint(1)
    must(take())
    assert take() is None
    clock.advance(0.6)
    assert must(take()).id == later


@two_shards
def test_who_sleeps_is_woken_where_those_awake_do_not_keep_up(
    dispatcher: Dispatcher, take: Take
) -> None:
    assert take() is None
    sleeper = threading.Thread(target=dispatcher.wait, args=(60.0, threading.Event()))
    sleeper.start()
    while not dispatcher._changed._waiters:  # type: ignore[attr-defined]
        time.sleep(0.001)
    dispatcher._shards[1].may_have_jobs = dispatcher._names  # and whoever was told of it is busy
    dispatcher._tend()
    sleeper.join(20)
    assert not sleeper.is_alive()


@pytest.mark.parametrize("is_slow", [True, False], ids=["slow", "quick"])
def test_a_hint_wakes_nobody_where_one_awake_will_soon_come_by(
    dispatcher: Dispatcher,
    take: Take,
    knows: Knows,
    monkeypatch: pytest.MonkeyPatch,
    is_slow: bool,
) -> None:
    assert take() is None
    dispatcher.join(knows)  # this thread is one worker, the sleeper is the other
    monkeypatch.setattr(Pace, "is_slow", lambda _pace, _now: is_slow)
    sleeper = threading.Thread(target=dispatcher.wait, args=(60.0, threading.Event()))
    sleeper.start()
    while not dispatcher._changed._waiters:  # type: ignore[attr-defined]
        time.sleep(0.001)
    dispatcher._has_work.clear()
    dispatcher.hint(0)
    assert bool(dispatcher._changed._waiters) is not is_slow  # type: ignore[attr-defined]
    assert dispatcher._has_work.is_set() is not is_slow  # so that whoever tends looks
    dispatcher._tend()
    sleeper.join(20)
    assert not sleeper.is_alive()


@hungry
@two_shards
def test_what_has_ended_waits_for_what_is_to_be_claimed(
    dispatcher: Dispatcher, take: Take, add: Add, done: Done
) -> None:
    add(shard_id=0)
    told = done(must(take()))
    add(shard_id=1)
    dispatcher.hint(1)
    must(take())
    assert told == []
    assert take() is None
    assert told == [True]


@three_shards
def test_a_damaged_shard_is_told_once_and_the_others_go_on(
    take: Take, add: Add, damage: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    add(3, shard_id=2)
    damage(0)
    assert [must(take()).shard_id for _ in range(3)] == [2, 2, 2]
    assert take() is None
    assert len([each for each in caplog.records if "going on without it" in each.msg]) == 1


@two_shards
def test_a_shard_that_cannot_be_read_is_published_once(
    dispatcher: Dispatcher, take: Take, damage: Callable[[int], None], told: Told, clock: FakeClock
) -> None:
    damage(1)
    for _ in range(5):
        assert take() is None
        dispatcher.hint()
        clock.advance(60)
    assert [(event, facts["shard_id"]) for event, facts in told] == [("shard_unavailable", 1)]


@two_shards
def test_a_shard_that_can_be_written_to_again_is_published(
    dispatcher: Dispatcher,
    take: Take,
    add: Add,
    shards: list[SqliteDatabase],
    told: Told,
    clock: FakeClock,
) -> None:
    add(shard_id=0)
    with shards[0].writing() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE UPDATE ON fila BEGIN SELECT RAISE(FAIL, 'no room'); END"
        )
    assert take() is None
    clock.advance(60)
    assert take() is None  # it can be read, all the while
    with shards[0].writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER refuse")
    clock.advance(60)
    must(take())
    assert [event for event, _ in told] == ["shard_unavailable", "shard_available"]
    assert "no room" in told[0][1]["error"]


def test_a_callback_for_a_shard_that_refuses_keeps_nobody_from_it(
    dispatcher: Dispatcher, take: Take, add: Add, shards: list[SqliteDatabase], events: Events
) -> None:
    add()
    with shards[0].writing() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE UPDATE ON fila BEGIN SELECT RAISE(FAIL, 'no room'); END"
        )
    taken: list[bool] = []
    events.on("shard_unavailable", lambda **_: taken.append(dispatcher._shards[0].is_taken))
    assert take() is None
    assert (taken, dispatcher._exchanges) == ([False], 0)


@two_shards
def test_when_no_shard_can_serve_that_is_an_error(
    dispatcher: Dispatcher, take: Take, damage: Callable[[int], None]
) -> None:
    damage(0)
    damage(1)
    with pytest.raises(ShardDamagedError):
        take()
    dispatcher.hint()
    with pytest.raises(ShardDamagedError):  # while they rest, too
        take()


@three_shards
def test_all_shards_get_their_turn(take: Take, add: Add, done: Done, clock: FakeClock) -> None:
    for shard_id in range(3):
        add(40, shard_id=shard_id)
    served = []
    for _ in range(60):
        job = must(take())
        served.append(job.shard_id)
        done(job)
        clock.advance(0.02)
    assert set(served) == {0, 1, 2}


# Looking and waiting


def test_an_empty_queue_is_looked_at_without_a_lock_and_not_too_often(
    take: Take, clock: FakeClock, statements: list[str]
) -> None:
    for _ in range(5):
        assert take() is None
    assert sum("EXISTS" in sql for sql in statements) == 1
    assert not any("IMMEDIATE" in sql for sql in statements)
    clock.advance(1.1)
    assert take() is None
    assert sum("EXISTS" in sql for sql in statements) == 2


def test_a_hint_is_followed_at_once(dispatcher: Dispatcher, take: Take, add: Add) -> None:
    assert take() is None
    [job_id] = add()
    assert take() is None  # nobody has said so
    dispatcher.hint(0)
    assert must(take()).id == job_id


def test_a_hint_that_names_no_shard_has_all_looked_at(
    dispatcher: Dispatcher, take: Take, add: Add
) -> None:
    assert take() is None
    add()
    dispatcher.hint()
    must(take())


def test_a_job_is_found_when_it_falls_due(take: Take, add: Add, clock: FakeClock) -> None:
    add(delay=0.3)
    assert take() is None
    clock.advance(0.31)
    must(take())


@three_shards
def test_only_the_shard_where_a_job_falls_due_is_looked_at(
    take: Take, add: Add, clock: FakeClock, statements: list[str]
) -> None:
    add(delay=0.3)
    assert take() is None
    assert sum("EXISTS" in sql for sql in statements) == 3
    clock.advance(0.31)
    must(take())
    assert sum("EXISTS" in sql for sql in statements) == 4


def test_who_waits_is_woken_by_a_hint_and_by_being_told_to_stop(dispatcher: Dispatcher) -> None:
    stopping = threading.Event()
    for end in (lambda: dispatcher.hint(0), dispatcher.wake):
        waiting = threading.Thread(target=dispatcher.wait, args=(60.0, stopping))
        dispatcher._shards[0].may_have_jobs = frozenset()
        for shard in dispatcher._shards:
            shard.look_at = float("inf")
        waiting.start()
        while not dispatcher._changed._waiters:  # type: ignore[attr-defined]
            pass
        end()
        waiting.join(30)
        assert not waiting.is_alive()


# Named queues


@pytest.mark.parametrize("choice", [QueueChoice.of("mail,news")])
def test_jobs_are_taken_of_the_chosen_queues_only_the_first_one_first(
    dispatcher: Dispatcher, take: Take, add: Add
) -> None:
    for queue in ("default", "news", "mail", "news", "mail"):
        add(queue=queue)
    dispatcher.hint(0)
    assert [must(take()).queue for _ in range(4)] == ["mail", "mail", "news", "news"]
    assert take() is None


@two_shards
@hungry
@pytest.mark.parametrize("choice", [QueueChoice.of("mail,news")])
def test_a_queue_that_is_empty_here_may_have_jobs_there(
    dispatcher: Dispatcher, take: Take, add: Add
) -> None:
    add(queue="news")
    add(shard_id=1, queue="mail")
    add(shard_id=1, queue="news")
    taken = [must(take()) for _ in range(3)]
    assert sorted((job.shard_id, job.queue) for job in taken) == [
        (0, "news"),
        (1, "mail"),
        (1, "news"),
    ]
    assert take() is None


@pytest.mark.parametrize("choice", [QueueChoice.of("mail=1,news=1")])
def test_by_weight_no_queue_waits_for_the_other_to_be_empty(take: Take, add: Add) -> None:
    add(20, queue="mail")
    add(20, queue="news")
    taken = [must(take()).queue for _ in range(20)]
    assert 0 < taken.count("mail") < 20


# Gates that hold some jobs of a queue


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards with which exchanges were made; fails where they follow each other for ever."""
    made: list[int] = []
    make = Exchange.make

    def noted(exchange: Exchange, shard_id: int, *rest: Any) -> Any:
        made.append(shard_id)
        if len(made) > 100:
            pytest.fail("one follows the other, without end")
        return make(exchange, shard_id, *rest)

    monkeypatch.setattr(Exchange, "make", noted)
    return made


@pytest.fixture
def finish(dispatcher: Dispatcher, settlement: SettlementService) -> Callable[[Job], None]:
    """Settle a job as done, and let all know."""

    def finish(job: Job) -> None:
        dispatcher.finish(_Done(job, []))
        dispatcher.flush()
        settlement.tell(job.lease, job.breaker)

    return finish


def taken(take: Take, most: int = 100) -> list[int]:
    """Take all there are; gives their ids."""
    found: list[int] = []
    while len(found) < most and (job := take()) is not None:
        found.append(job.id)
    return found


@hungry
def test_who_runs_as_many_as_may_asks_for_no_more_of_them_until_one_has_ended(
    limits: LimitService,
    knows: Knows,
    add: Add,
    take: Take,
    finish: Callable[[Job], None],
    exchanges: list[int],
) -> None:
    knows.known.add(gate_of("t"))
    limits.set("task:t", concurrency=1)
    ids = add(5, task="t")
    job = take()
    assert job is not None
    assert taken(take) == []
    made = len(exchanges)
    assert taken(take) == []
    assert len(exchanges) == made
    finish(job)
    following = take()
    assert following is not None
    assert [job.id, following.id] == ids[:2]


@hungry
@pytest.mark.parametrize("held", [30, 260])
def test_what_a_gate_holds_is_set_aside_and_others_are_taken_in_the_same_exchange(
    limits: LimitService,
    knows: Knows,
    add: Add,
    find: Find,
    take: Take,
    exchanges: list[int],
    store: Store,
    held: int,
) -> None:
    knows.known.add(gate_of("t"))
    limits.set("task:t", rate="1/h")
    first = add(held, task="t")
    other = add(priority=0)
    assert taken(take) == [first[0], *other]
    with store.reading(0) as unit:
        assert unit.lines.gates() == ["rate:task:t"]
        assert unit.job_lists.counts().held == held - 1
    # Two hundred are set aside in one transaction, and no more.
    aside_at_once = exchange_module.ASIDE_AT_ONCE
    assert len(exchanges) <= 2 + 2 * (held // aside_at_once + 1)
    set_aside = find(first[-1])
    assert set_aside is not None
    assert (set_aside.attempts, set_aside.status) == (0, JobStatus.SCHEDULED)


@hungry
def test_a_line_is_drained_in_the_order_of_priority_and_then_of_age(
    limits: LimitService, knows: Knows, add: Add, take: Take, clock: FakeClock
) -> None:
    knows.known.add(gate_of("t"))
    limits.set("task:t", rate="10/s burst 1")
    ids = [add(task="t", priority=priority)[0] for priority in (0, 1, 2, 0, 2)]
    order = []
    for _ in range(30):
        order += taken(take, 1)
        clock.advance(0.05)
    assert order == [ids[2], ids[4], ids[1], ids[0], ids[3]]


@hungry
def test_no_job_of_a_paused_task_starts_and_all_do_once_it_is_resumed(
    limits: LimitService,
    knows: Knows,
    add: Add,
    take: Take,
    dispatcher: Dispatcher,
    clock: FakeClock,
    exchanges: list[int],
) -> None:
    knows.known.add(gate_of("t"))
    limits.pause("task:t")
    paused, other = add(3, task="t"), add(2)
    assert taken(take) == other
    assert exchanges
    limits.resume("task:t")
    clock.advance(1)
    assert taken(take) == paused


def test_a_job_in_the_buffer_does_not_start_once_its_task_is_paused(
    limits: LimitService,
    knows: Knows,
    add: Add,
    take: Take,
    find: Find,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pace, "appetite", lambda _pace, _workers, _now: 10)
    knows.known.add(gate_of("t"))
    [first, second] = add(2, task="t")
    assert taken(take, 1) == [first]
    limits.pause("task:t")
    assert take() is None
    held = find(second)
    assert held is not None
    assert (held.status, held.attempts) == (JobStatus.SCHEDULED, 0)


@hungry
@pytest.mark.parametrize("choice", [QueueChoice(("mail", "default"))])
def test_no_job_of_a_paused_queue_is_claimed(
    limits: LimitService, add: Add, take: Take, find: Find, clock: FakeClock
) -> None:
    limits.pause("queue:mail")
    [mail], [other] = add(queue="mail"), add()
    assert taken(take) == [other]
    found = find(mail)
    assert found is not None
    assert found.status is JobStatus.PENDING
    limits.resume("queue:mail")
    clock.advance(1)
    assert taken(take) == [mail]


@hungry
@two_shards
def test_no_job_of_a_paused_shard_starts(
    limits: LimitService, add: Add, take: Take, clock: FakeClock, dispatcher: Dispatcher
) -> None:
    limits.pause("shard:0")
    [held], [other] = add(shard_id=0, payload='{"n":2}'), add(shard_id=1)
    job = take()
    assert job is not None
    assert (job.shard_id, job.id) == (1, other)
    assert take() is None
    limits.resume("shard:0")
    clock.advance(1)
    dispatcher.hint(0)
    job = take()
    assert job is not None
    assert (job.shard_id, job.id) == (0, held)


@hungry
@pytest.mark.parametrize("at_once", [1, 2])
def test_of_jobs_of_a_concurrency_key_that_fall_due_together_the_first_ones_run_first(
    add: Add,
    take: Take,
    clock: FakeClock,
    finish: Callable[[Job], None],
    store: Store,
    dispatcher: Dispatcher,
    limits: LimitService,
    at_once: int,
) -> None:
    limits.set("key:k", concurrency=at_once)
    store.on_release = dispatcher.hint
    ids = add(5, concurrency_key="k", delay=10)
    clock.advance(10)
    order: list[int] = []
    running: list[Job] = []
    while len(order) < len(ids):
        while (job := take()) is not None:
            order.append(job.id)
            running.append(job)
        assert len(running) == min(at_once, len(ids) - len(order) + len(running))
        finish(running.pop(0))
    assert order == ids
