"""Concurrency keys: as many jobs of a key as may run are at their turn, the others in line."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from support.clock import FakeClock
from support.jobs import a_new_job

from queue_max.domain.failures import Failure
from queue_max.domain.gates import of_key, of_rate
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.domain.reference import JobRef
from queue_max.exceptions import ShardBusyError
from queue_max.repositories.compiled import is_sqlite
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.storage.database import Database
from queue_max.storage.schema import jobs

Add = Callable[..., int]
Claim = Callable[..., Job | None]
Plan = Callable[[Callable[[UnitOfWork], object]], list[str]]

PENDING, SCHEDULED = JobStatus.PENDING, JobStatus.SCHEDULED
A_FAILURE = Failure("ValueError", "it failed")


@pytest.fixture
def places() -> dict[str, int]:
    """How many jobs of a key run at once; 1 where nothing is said."""
    return {}


@pytest.fixture
def store(shard: Database, clock: FakeClock, places: dict[str, int]) -> Iterator[Store]:
    return Store([shard], clock, lambda key: places.get(key, 1))


@pytest.fixture
def turns(shard: Database) -> Callable[..., dict[int, str]]:
    """Tell of each job of a key what it does: its status, or what holds it."""

    def turns(key: str = "k") -> dict[int, str]:
        query = select(jobs.c.id, jobs.c.status, jobs.c.held_by).where(
            jobs.c.concurrency_key == key
        )
        with shard.reading() as connection:
            rows = connection.execute(query.order_by(jobs.c.id)).all()
        return {
            row.id: row.status if row.status != "scheduled" else row.held_by or "scheduled"
            for row in rows
        }

    return turns


IN_LINE = of_key("k")


def claimed(job: Job | None) -> Job:
    assert job is not None
    return job


def test_the_first_job_of_a_key_is_at_its_turn_and_the_others_stand_in_line(
    add: Add, turns: Callable[..., dict[int, str]]
) -> None:
    ids = [add(concurrency_key="k") for _ in range(3)]
    assert turns() == dict(zip(ids, ["pending", IN_LINE, IN_LINE], strict=True))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_so_many_come_to_their_turn_as_may_run_whether_added_alone_or_together(
    store: Store, turns: Callable[..., dict[int, str]], places: dict[str, int], number: int
) -> None:
    places["k"] = number
    with store.writing(0) as unit:
        unit.jobs.add([a_new_job(concurrency_key="k") for _ in range(7)])
    assert list(turns().values()) == ["pending"] * number + [IN_LINE] * (7 - number)


def test_jobs_of_other_keys_and_of_none_are_not_held(
    add: Add, turns: Callable[..., dict[int, str]], claim: Claim
) -> None:
    for key in ("k", "l", "k", None, None):
        add(concurrency_key=key)
    assert turns("l") == {2: "pending"} or list(turns("l").values()) == ["pending"]
    assert sum(claim() is not None for _ in range(5)) == 4


def test_they_run_by_priority_and_then_in_the_order_in_which_they_came(
    store: Store, add: Add, claim: Claim
) -> None:
    first = add(concurrency_key="k")
    low, normal, urgent, also_urgent = (
        add(concurrency_key="k", priority=priority) for priority in (0, 1, 2, 2)
    )
    order = []
    while (job := claim()) is not None:
        order.append(job.id)
        with store.writing(0) as unit:
            assert unit.jobs.complete(job.id, job.fence)
    assert order == [urgent, also_urgent, normal, first, low]


def sort_out(store: Store, at_most: int = 50) -> list[int]:
    """Claim all, and set aside what may not run, as workers do; gives the ids of the others."""
    may_run = []
    with store.writing(0) as unit:
        unit.claims.promote_due()
        for job in unit.claims.claim(DEFAULT_QUEUE, "worker-1", at_most=at_most):
            if unit.concurrency_keys.may_run(job):
                may_run.append(job.id)
            else:
                assert unit.jobs.give_back(job, held_by=of_key(str(job.concurrency_key)))
    return may_run


@pytest.mark.parametrize("at_most", [1, 3, 50])
def test_of_more_jobs_than_can_stand_in_line_at_once_each_waits_for_those_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    monkeypatch.setattr("queue_max.repositories.concurrency_keys.MOVED_AT_ONCE", 2)
    with store.writing(0) as unit:
        ids = list(unit.jobs.add([a_new_job(concurrency_key="k") for _ in range(12)]))
    order: list[int] = []
    for _ in range(50):
        running = sort_out(store, at_most)
        order += running
        for job_id in running:
            with store.writing(0) as unit:
                complete(unit, claimed(unit.jobs.find(JobRef(0, job_id=job_id))))
    assert order == ids


def test_a_job_that_is_not_yet_due_takes_no_place_and_finds_whether_it_may_run_then(
    add: Add, store: Store, clock: FakeClock, turns: Callable[..., dict[int, str]]
) -> None:
    delayed = add(concurrency_key="k", delay=60)
    second = add(concurrency_key="k")
    assert turns() == {delayed: "scheduled", second: "pending"}
    assert sort_out(store) == [second]
    clock.advance(60)
    assert sort_out(store) == []
    assert turns() == {delayed: IN_LINE, second: "processing"}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_of_jobs_that_fall_due_together_as_many_may_run_as_there_are_places_for(
    insert_rows: Callable[[list[dict[str, Any]]], None],
    store: Store,
    places: dict[str, int],
    number: int,
    turns: Callable[..., dict[int, str]],
) -> None:
    places["k"] = number
    insert_rows([{"status": "pending", "concurrency_key": "k"} for _ in range(5)])
    running = sort_out(store)
    while len(running) < number and (more := sort_out(store)):
        running += more
    assert len(running) == number
    assert list(turns().values()).count("processing") == number


def test_a_job_without_a_key_may_always_run(start: Callable[..., Job], store: Store) -> None:
    job = start()
    with store.writing(0) as unit:
        assert unit.concurrency_keys.may_run(job)


# Who ends one lets the next one come to its turn


def complete(unit: UnitOfWork, job: Job) -> None:
    assert unit.jobs.complete(job.id, job.fence)


def complete_all(unit: UnitOfWork, job: Job) -> None:
    assert unit.job_lists.complete_all([job]) == [True]


def complete_and_keep(unit: UnitOfWork, job: Job) -> None:
    assert unit.jobs.complete(job.id, job.fence, "1")


def fail(unit: UnitOfWork, job: Job) -> None:
    assert unit.jobs.fail(job, A_FAILURE)


def cancel_running(unit: UnitOfWork, job: Job) -> None:
    assert unit.jobs.cancel_running(job, A_FAILURE)


def cancel(unit: UnitOfWork, job: Job) -> None:
    assert unit.jobs.cancel(JobRef(0, job_id=job.id), "called off")


@pytest.mark.parametrize(
    "end", [complete, complete_all, complete_and_keep, fail, cancel_running, cancel]
)
def test_whoever_ends_a_job_lets_the_next_one_of_its_key_come_to_its_turn(
    add: Add,
    claim: Claim,
    store: Store,
    turns: Callable[..., dict[int, str]],
    end: Callable[[UnitOfWork, Job], None],
) -> None:
    keep = 60.0 if end is complete_and_keep else None
    ids = [add(concurrency_key="k", keep_result=keep) for _ in range(3)]
    told: list[int] = []
    store.on_release = told.append
    job = claimed(claim())
    assert told == []
    with store.writing(0) as unit:
        end(unit, job)
    after = turns()
    assert [after[each] for each in ids[1:]] == ["pending", IN_LINE]
    assert told == [0]
    assert claimed(claim()).id == ids[1]
    assert claim() is None


def test_who_cancels_the_job_at_its_turn_before_it_runs_lets_the_next_one_come(
    add: Add, store: Store, turns: Callable[..., dict[int, str]]
) -> None:
    ids = [add(concurrency_key="k") for _ in range(3)]
    with store.writing(0) as unit:
        assert unit.jobs.cancel(JobRef(0, job_id=ids[0]), "called off")
    assert turns() == dict(zip(ids, ["cancelled", "pending", IN_LINE], strict=True))


def test_who_cancels_a_job_in_line_changes_nothing_for_the_others(
    add: Add, store: Store, turns: Callable[..., dict[int, str]]
) -> None:
    ids = [add(concurrency_key="k") for _ in range(3)]
    with store.writing(0) as unit:
        assert unit.jobs.cancel(JobRef(0, job_id=ids[1]), "called off")
    assert turns() == dict(zip(ids, ["pending", "cancelled", IN_LINE], strict=True))


def test_a_job_that_waits_for_its_next_attempt_keeps_its_place(
    add: Add,
    claim: Claim,
    store: Store,
    clock: FakeClock,
    turns: Callable[..., dict[int, str]],
) -> None:
    ids = [add(concurrency_key="k") for _ in range(2)]
    job = claimed(claim())
    with store.writing(0) as unit:
        assert unit.jobs.reschedule(job, A_FAILURE, clock.now + timedelta(seconds=60))
    assert turns() == dict(zip(ids, ["scheduled", IN_LINE], strict=True))
    assert claim() is None
    clock.advance(60)
    with store.writing(0) as unit:
        unit.claims.promote_due()
    again = claimed(claim())
    assert again.id == ids[0]
    with store.writing(0) as unit:
        assert unit.concurrency_keys.may_run(again)


def test_a_job_that_another_gate_holds_keeps_its_place(
    add: Add, claim: Claim, store: Store, turns: Callable[..., dict[int, str]]
) -> None:
    """Gates before and after that of the key in the order of their names."""
    for gate in ("breaker:stripe", of_rate("task:t")):
        ids = [add(concurrency_key=gate) for _ in range(2)]
        job = claimed(claim())
        with store.writing(0) as unit:
            assert unit.jobs.give_back(job, held_by=gate)
        assert turns(gate) == dict(zip(ids, [gate, of_key(gate)], strict=True))


def test_a_job_that_is_given_back_stays_at_its_turn(
    add: Add, claim: Claim, store: Store, turns: Callable[..., dict[int, str]]
) -> None:
    ids = [add(concurrency_key="k") for _ in range(2)]
    job = claimed(claim())
    with store.writing(0) as unit:
        assert unit.jobs.give_back(job)
    assert turns() == dict(zip(ids, ["pending", IN_LINE], strict=True))


def test_a_failed_job_that_is_requeued_stands_in_line_while_another_one_runs(
    add: Add, claim: Claim, store: Store, turns: Callable[..., dict[int, str]]
) -> None:
    ids = [add(concurrency_key="k") for _ in range(2)]
    first = claimed(claim())
    with store.writing(0) as unit:
        assert unit.jobs.fail(first, A_FAILURE)
    assert claimed(claim()).id == ids[1]
    with store.writing(0) as unit:
        assert unit.jobs.requeue(JobRef(0, job_id=ids[0])) == ids[0]
    assert turns() == dict(zip(ids, [IN_LINE, "processing"], strict=True))


def test_a_transaction_that_is_undone_moves_nobody(
    add: Add, claim: Claim, store: Store, turns: Callable[..., dict[int, str]]
) -> None:
    for _ in range(2):
        add(concurrency_key="k")
    told: list[int] = []
    store.on_release = told.append
    job, before = claimed(claim()), turns()

    def leave() -> None:
        with store.writing(0) as unit:
            complete(unit, job)
            unit.concurrency_keys.balance()
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert (turns(), told) == (before, [])


# The limit changes


def balance(store: Store, *keys: str) -> None:
    with store.writing(0) as unit:
        for key in keys:
            unit.concurrency_keys.note(key)


def test_when_more_may_run_more_come_to_their_turn(
    add: Add, store: Store, turns: Callable[..., dict[int, str]], places: dict[str, int]
) -> None:
    for _ in range(5):
        add(concurrency_key="k")
    places["k"] = 3
    balance(store, "k")
    assert list(turns().values()) == ["pending"] * 3 + [IN_LINE] * 2


def test_when_fewer_may_run_the_last_ones_stand_in_line_again_and_none_that_runs_is_touched(
    add: Add,
    claim: Claim,
    store: Store,
    turns: Callable[..., dict[int, str]],
    places: dict[str, int],
) -> None:
    places["k"] = 5
    for priority in (1, 1, 1, 0, 2):
        add(concurrency_key="k", priority=priority)
    assert claimed(claim()).priority == 2
    places["k"] = 2
    balance(store, "k")
    assert list(turns().values()) == ["pending", *[IN_LINE] * 3, "processing"]


def test_all_in_line_come_to_their_turn_in_the_end_whatever_the_limit(
    add: Add, claim: Claim, store: Store, places: dict[str, int]
) -> None:
    ids = [add(concurrency_key="k") for _ in range(12)]
    order = []
    for number in (3, 1, 2, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1):
        places["k"] = number
        balance(store, "k")
        if job := claim():
            order.append(job.id)
            with store.writing(0) as unit:
                complete(unit, job)
    assert order == ids


def test_the_keys_that_have_a_line_can_be_named(add: Add, store: Store) -> None:
    for key in ("b", "b", "a", "a", "alone", None):
        add(concurrency_key=key)
    with store.reading(0) as unit:
        assert sorted(unit.concurrency_keys.lines()) == ["a", "b"]


# Two transactions at once


def at_once(*steps: Callable[[], object]) -> list[Any]:
    with ThreadPoolExecutor(len(steps)) as pool:
        return [each.result(30) for each in [pool.submit(step) for step in steps]]


def test_two_that_add_at_once_bring_one_job_to_its_turn(
    store: Store, turns: Callable[..., dict[int, str]]
) -> None:
    barrier = threading.Barrier(2, timeout=30)

    def add() -> None:
        for _ in range(10):
            barrier.wait()
            with store.writing(0) as unit:
                unit.jobs.add([a_new_job(concurrency_key="k") for _ in range(2)])

    at_once(add, add)
    assert list(turns().values()).count("pending") == 1


def test_two_that_end_jobs_at_once_let_no_more_run_than_may(
    store: Store, places: dict[str, int], turns: Callable[..., dict[int, str]]
) -> None:
    places["k"] = 2
    with store.writing(0) as unit:
        unit.jobs.add([a_new_job(concurrency_key="k") for _ in range(40)])
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        while True:
            with store.writing(0) as unit:
                job = unit.claims.claim_next(DEFAULT_QUEUE, "worker-1")
                may_run = job is not None and unit.concurrency_keys.may_run(job)
                if job is not None and not may_run:
                    unit.jobs.give_back(job, held_by=of_key("k"))
            if job is None:
                return
            if not may_run:
                continue
            with lock:
                running += 1
                most = max(most, running)
            with lock:
                running -= 1
            with store.writing(0) as unit:
                complete(unit, job)

    at_once(work, work, work)
    assert most <= 2
    assert turns() == {}


def test_keys_are_locked_in_the_order_of_all_so_that_no_two_wait_for_each_other(
    shard: Database, clock: FakeClock
) -> None:
    asked: list[str] = []

    def places(key: str) -> int:
        asked.append(key)
        return 1

    keys = [f"key-{number:02}" for number in range(12)]
    with Store([shard], clock, places).writing(0) as unit:
        unit.jobs.add([a_new_job(concurrency_key=key) for key in keys[::-1]])
    assert asked == keys


def test_of_two_that_wait_for_each_other_all_the_same_one_finds_the_shard_busy(
    add: Add, store: Store
) -> None:
    found = []
    for key in ("a", "b"):
        add(concurrency_key=key)
        with store.writing(0) as unit:
            found.append(claimed(unit.claims.claim_next(DEFAULT_QUEUE, "worker-1")))
    has_first = threading.Barrier(2, timeout=30)

    def run(first: Job, second: Job) -> str:
        try:
            with store.writing(0) as unit:
                unit.concurrency_keys.may_run(first)
                with suppress(threading.BrokenBarrierError):  # on SQLite, who writes is alone
                    has_first.wait(0.5)
                unit.concurrency_keys.may_run(second)
        except ShardBusyError:
            return "busy"
        return "done"

    ends = at_once(lambda: run(*found), lambda: run(*found[::-1]))
    assert ends in (["done", "done"], ["busy", "done"], ["done", "busy"])


# Plans


@pytest.fixture
def _long_line(insert_rows: Callable[[list[dict[str, Any]]], None], add: Add, claim: Claim) -> None:
    """10,000 jobs stand in line for one that runs."""
    add(concurrency_key="k")
    claim()
    row = {"status": "scheduled", "concurrency_key": "k", "held_by": IN_LINE}
    insert_rows([row] * 10_000)


@pytest.mark.usefixtures("_long_line")
def test_a_long_line_costs_who_adds_to_it_and_who_ends_its_first_no_walk(
    plan: Plan, shard: Database, places: dict[str, int]
) -> None:
    places["k"] = 2

    def step(unit: UnitOfWork) -> None:
        unit.jobs.add([a_new_job(concurrency_key="k")])
        unit.concurrency_keys.balance()
        unit.concurrency_keys._release("k", 1)

    lines = plan(step)
    with shard.reading() as connection:
        if is_sqlite(connection):
            assert any("ix_fila_concurrency_key" in line for line in lines)
            assert any("ix_fila_held" in line for line in lines)


@pytest.mark.usefixtures("_long_line")
def test_a_long_line_costs_who_claims_no_walk(plan: Plan) -> None:
    def step(unit: UnitOfWork) -> None:
        unit.claims.promote_due()
        unit.claims.claim(DEFAULT_QUEUE, "worker-1", at_most=10)
        unit.lines.gates()
        unit.lines.claim(IN_LINE, [DEFAULT_QUEUE], "worker-1", at_most=3)

    assert plan(step)
