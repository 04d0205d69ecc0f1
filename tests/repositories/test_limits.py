"""Limits, pauses, breakers, permits and workers, in the control database of either kind."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from support.clock import FakeClock

from queue_max.domain.job import Lease
from queue_max.exceptions import ShardDamagedError
from queue_max.limits.breaker import Breaker, Terms
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import rates_of
from queue_max.limits.scopes import Limit, Limits
from queue_max.repositories.control import Control
from queue_max.repositories.limits import NO_LIMIT, Change
from queue_max.repositories.workers import Crew
from queue_max.storage.database import Database
from queue_max.storage.schema import breakers, limits


def stored(control: Control) -> Limits:
    with control.reading() as unit:
        return Limits(unit.limits.list())


def by_hand(control: Control, scope: str, rate: str | None = None, **change: Any) -> None:
    rates = None if rate is None else rates_of(rate)
    with control.writing() as unit:
        unit.limits.set(scope, Change(rates, **change))


def declare(control: Control, *declared: Limit) -> None:
    with control.writing() as unit:
        for limit in declared:
            unit.limits.declare(limit)


def forget(control: Control, scope: str) -> bool:
    with control.writing() as unit:
        return unit.limits.forget(scope)


# Limits


def test_a_limit_is_read_as_it_was_set(control: Control) -> None:
    by_hand(control, "key:a", "10/s, 100/15m burst 7", concurrency=3)
    rates = rates_of(["10/s", "100/15m burst 7"])
    assert stored(control).all == (Limit("key:a", rates, 3, is_set=True),)


def test_limits_are_listed_by_scope(control: Control) -> None:
    for scope in ("task:b", "all", "key:z"):
        by_hand(control, scope, "1/s")
    assert [limit.scope for limit in stored(control).all] == ["all", "key:z", "task:b"]


def test_what_is_set_by_hand_goes_before_what_is_declared_each_by_itself(control: Control) -> None:
    declare(control, Limit("task:t", rates_of("10/s"), 4))
    assert stored(control).of("task:t") == Limit("task:t", rates_of("10/s"), 4)
    by_hand(control, "task:t", "1/s")
    assert stored(control).of("task:t") == Limit("task:t", rates_of("1/s"), 4, is_set=True)
    by_hand(control, "task:t", concurrency=2)
    assert stored(control).of("task:t") == Limit("task:t", rates_of("1/s"), 2, is_set=True)
    with control.reading() as unit:
        assert unit.limits.declared("task:t") == Limit("task:t", rates_of("10/s"), 4)
        assert unit.limits.declared("task:other") is None


def test_what_is_declared_anew_changes_nothing_of_what_is_set(control: Control) -> None:
    by_hand(control, "task:t", "1/s")
    declare(control, Limit("task:t", rates_of("50/s")))
    assert stored(control).rates("task:t") == rates_of("1/s")


def test_who_forgets_what_was_set_lets_what_is_declared_hold(control: Control) -> None:
    declare(control, Limit("task:t", rates_of("10/s")))
    by_hand(control, "task:t", "1/s", concurrency=1)
    assert forget(control, "task:t") is True
    assert stored(control).of("task:t") == Limit("task:t", rates_of("10/s"))
    assert forget(control, "task:t") is False


def test_of_a_scope_that_says_nothing_any_more_nothing_is_kept(
    control: Control, database: Database
) -> None:
    by_hand(control, "all", "1/s")
    assert forget(control, "all") is True
    declare(control, Limit("task:t", rates_of("10/s")))
    declare(control, Limit("task:t"))
    with database.reading() as connection:
        assert connection.execute(select(limits)).all() == []


def test_no_limit_can_be_set_against_one_that_is_declared(control: Control) -> None:
    declare(control, Limit("task:t", rates_of("10/s"), 4))
    by_hand(control, "task:t", "none", concurrency=NO_LIMIT)
    assert stored(control).of("task:t") == Limit("task:t", (), None, is_set=True)


def test_a_starred_scope_holds_for_each_that_begins_so_unless_another_is_nearer(
    control: Control,
) -> None:
    by_hand(control, "key:*", "1/s")
    by_hand(control, "key:customer-*", "2/s")
    by_hand(control, "key:customer-7", "3/s")
    found = stored(control)
    rates = [found.rates(f"key:{key}") for key in ("x", "customer-1", "customer-7")]
    assert rates == [rates_of(rate) for rate in ("1/s", "2/s", "3/s")]
    assert found.rates("task:x") == ()


# Pauses


def test_a_scope_is_paused_until_it_is_resumed(control: Control) -> None:
    with control.writing() as unit:
        assert unit.limits.pause("queue:mail", "the provider is down") is True
        assert unit.limits.pause("shard:0", None) is True
    with control.writing() as unit:
        assert unit.limits.pause("queue:mail", "still down") is False
    with control.reading() as unit:
        assert unit.limits.paused() == {"queue:mail": "still down", "shard:0": None}
    with control.writing() as unit:
        assert unit.limits.resume("queue:mail") is True
        assert unit.limits.resume("queue:mail") is False
        assert unit.limits.paused() == {"shard:0": None}


def test_two_that_pause_and_limit_a_scope_at_once_do_so_once(control: Control) -> None:
    barrier = threading.Barrier(2, timeout=30)

    def pause(number: int) -> bool:
        barrier.wait()
        with control.writing() as unit:
            unit.limits.set("all", Change(rates_of(f"{number + 1}/s")))
            return unit.limits.pause("queue:mail", None)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(pause, range(2))) == [False, True]


# Breakers


def tripped(control: Control) -> Breaker:
    with control.noting() as unit:
        breaker = unit.breakers.hold("stripe")
        breaker = breaker.failed(Terms(1, 60.0), unit.ticks.now, "it is down")
        return unit.breakers.store(breaker, has_changed=True)


def read(control: Control) -> Breaker:
    with control.reading() as unit:
        return unit.breakers.list()["stripe"]


def test_a_breaker_that_nobody_knows_of_is_closed(control: Control) -> None:
    with control.noting() as unit:
        assert unit.breakers.hold("stripe") == Breaker("stripe")
        assert unit.breakers.list() == {}


def test_a_breaker_is_read_as_it_was_stored(control: Control, clock: FakeClock) -> None:
    breaker = tripped(control)
    assert breaker.changed_at == clock.now
    assert read(control) == breaker
    with control.noting() as unit:
        probed = breaker.probed("0-1-1", breaker.probe_at or 0, 2**62)
        assert probed is not None
        unit.breakers.store(probed, has_changed=False)
        assert unit.breakers.hold("stripe") == probed
    assert read(control) == probed


def test_only_a_change_of_state_is_noted_with_its_time(control: Control, clock: FakeClock) -> None:
    breaker = tripped(control)
    began = clock.now
    clock.advance(10)
    with control.noting() as unit:
        assert unit.breakers.store(breaker, has_changed=False).changed_at == began
        assert unit.breakers.store(breaker, has_changed=True).changed_at == clock.now


def test_one_that_is_opened_for_good_is_so_after_another_boot(
    control: Control, database: Database
) -> None:
    breaker = tripped(control)
    with control.noting() as unit:
        unit.breakers.store(breaker.opened(0, None), has_changed=False)
    with database.writing() as connection:
        connection.execute(update(breakers).values(clock="another"))
    assert read(control).probe_at is None


def test_after_another_boot_a_probe_may_pass(control: Control, database: Database) -> None:
    tripped(control)
    with database.writing() as connection:
        connection.execute(update(breakers).values(clock="another", probe_at=2**62))
    found = read(control)
    assert (found.state, found.opens_in(0)) == (CircuitState.OPEN, 0)


def test_a_breaker_in_no_known_state_is_named(control: Control, database: Database) -> None:
    tripped(control)
    with database.writing() as connection:
        connection.execute(update(breakers).values(state="ajar"))
    with pytest.raises(ShardDamagedError, match="breaker 'stripe'"):
        read(control)


# Permits


def a_run(number: int, fence: int = 1, shard_id: int = 0) -> Lease:
    return Lease(shard_id, number, fence)


def take(control: Control, lease: Lease, **scopes: int) -> str | None:
    with control.noting() as unit:
        return unit.permits.take(lease, scopes)


def holders(control: Control, scope: str) -> list[Lease]:
    with control.reading() as unit:
        return list(unit.permits.holders(scope))


def test_as_many_have_permits_as_there_may_be(control: Control) -> None:
    assert [take(control, a_run(number), a=2) for number in range(4)] == [None, None, "a", "a"]
    assert holders(control, "a") == [a_run(0), a_run(1)]


def test_permits_of_several_scopes_are_had_all_or_none(control: Control) -> None:
    assert take(control, a_run(1), b=1) is None
    assert take(control, a_run(2), a=1, b=1, c=1) == "b"
    assert holders(control, "a") == holders(control, "c") == []


def test_another_run_of_the_same_job_takes_the_place_of_the_one_before(control: Control) -> None:
    assert take(control, a_run(1, 1), a=1, b=1) is None
    assert take(control, a_run(1, 2), a=1) is None
    assert (holders(control, "a"), holders(control, "b")) == ([a_run(1, 2)], [])


def test_the_same_job_number_in_another_shard_is_another_job(control: Control) -> None:
    assert take(control, a_run(1), a=1) is None
    assert take(control, a_run(1, shard_id=1), a=1) == "a"


def test_who_gives_up_a_run_gives_up_no_later_one(control: Control) -> None:
    take(control, a_run(1, 2), a=1, b=1)
    with control.noting() as unit:
        assert unit.permits.give_up([a_run(1, 1)]) == 0
        assert unit.permits.give_up([]) == 0
        assert unit.permits.give_up([a_run(1, 2), a_run(5)]) == 2
    assert holders(control, "a") == []


def test_thousands_of_runs_can_be_given_up_at_once(control: Control) -> None:
    take(control, a_run(1_999), a=1)
    with control.noting() as unit:
        assert unit.permits.give_up([a_run(number) for number in range(3_000)]) == 1


def test_two_at_once_have_no_more_permits_than_there_may_be(control: Control) -> None:
    barrier = threading.Barrier(3, timeout=30)

    def take_some(worker: int) -> list[str | None]:
        found = []
        for number in range(8):
            barrier.wait()
            scopes = {"a": 5, "b": 7} if worker else {"b": 7, "a": 5}
            with control.noting() as unit:
                found.append(unit.permits.take(a_run(100 * worker + number), scopes))
        return found

    with ThreadPoolExecutor(3) as pool:
        ends = [end for found in pool.map(take_some, range(3)) for end in found]
    assert ends.count(None) == 5
    assert len(holders(control, "a")) == len(holders(control, "b")) == 5


# Workers


def test_a_crew_is_seen_until_it_is_silent_or_leaves(control: Control, clock: FakeClock) -> None:
    one = Crew("one", ["default", "mail"], ["task:t"], 4)
    other = Crew("other", ["default"], [], 1)
    with control.noting() as unit:
        unit.workers.see(other)
        unit.workers.see(one)
    clock.advance(30)
    with control.noting() as unit:
        unit.workers.see(Crew("one", ["mail"], ["task:t"], 8))
        seen = unit.workers.seen(clock.now - timedelta(seconds=40))
        assert [(crew.identity, crew.queues, crew.places) for crew in seen] == [
            ("one", ["mail"], 8),
            ("other", ["default"], 1),
        ]
        seen = unit.workers.seen(clock.now - timedelta(seconds=10))
        assert [crew.identity for crew in seen] == ["one"]
        unit.workers.forget_silent(clock.now - timedelta(seconds=10))
        assert len(unit.workers.seen(clock.now - timedelta(days=9))) == 1
        unit.workers.forget("one")
        assert unit.workers.seen(clock.now - timedelta(days=9)) == []
