"""Token buckets in the control database of either kind."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import select, update
from support.clock import FakeClock

from queue_max.limits.rates import NANOSECONDS, Rates, rates_of
from queue_max.repositories.compiled import is_sqlite
from queue_max.repositories.control import Control
from queue_max.storage.database import Database
from queue_max.storage.schema import buckets

MILLISECOND = NANOSECONDS // 1_000
TEN = rates_of("10/m")
AT_ONCE = rates_of("10/s burst 1")


def reserve(control: Control, rates: Rates = TEN, tokens: int = 1, scope: str = "all") -> int:
    """Take tokens; gives how many there were."""
    with control.noting() as unit:
        return len(unit.buckets.reserve(scope, rates, tokens).dues)


def level(control: Control, rates: Rates = TEN, scope: str = "all") -> list[int]:
    """Tell how many whole tokens there are of each rate."""
    with control.reading() as unit:
        found = unit.buckets.peek(scope, rates)
    return [round(bucket.tokens(rate)) for rate, bucket in found.items()]


def test_a_new_bucket_is_full_and_what_is_reserved_is_gone(control: Control) -> None:
    assert level(control) == [10]
    assert reserve(control, tokens=4) == 4
    assert level(control) == [6]
    assert reserve(control, tokens=20) == 6
    assert reserve(control, tokens=20) == 0


def test_it_fills_while_time_passes_up_to_its_burst(control: Control, clock: FakeClock) -> None:
    reserve(control, tokens=8)
    clock.advance(24)
    assert level(control) == [6]
    clock.advance(3_600)
    assert level(control) == [10]


def test_all_of_several_rates_have_to_have_a_token(control: Control, clock: FakeClock) -> None:
    rates = rates_of(["5/s", "8/m"])
    taken = [reserve(control, rates, tokens=20)]
    for _ in range(3):
        clock.advance(1)
        taken.append(reserve(control, rates, tokens=20))
    assert taken == [4, 4, 0, 0]


def test_what_is_given_back_is_there_again_but_never_more_than_the_burst(control: Control) -> None:
    reserve(control, tokens=4)
    with control.noting() as unit:
        unit.buckets.give_back("all", TEN, 3)
    assert level(control) == [9]
    with control.noting() as unit:
        unit.buckets.give_back("all", TEN, 30)
    assert level(control) == [10]


def test_a_drained_bucket_has_nothing_for_that_time(control: Control, clock: FakeClock) -> None:
    with control.noting() as unit:
        unit.buckets.drain("all", TEN, 120)
    clock.advance(119)
    assert reserve(control, tokens=10) == 0
    clock.advance(1)
    assert reserve(control, tokens=10) == 1


def test_a_bucket_that_is_refilled_is_full(control: Control) -> None:
    reserve(control, tokens=9)
    with control.noting() as unit:
        unit.buckets.refill("all")
    assert level(control) == [10]


def test_all_buckets_of_scopes_that_begin_so_are_refilled(control: Control) -> None:
    for scope in ("key:a_1", "key:a_2", "key:ab1"):
        reserve(control, tokens=9, scope=scope)
    with control.noting() as unit:
        unit.buckets.refill("key:a_*")
    found = [level(control, scope=scope) for scope in ("key:a_1", "key:a_2", "key:ab1")]
    assert found == [[10], [10], [1]]


def test_scopes_have_buckets_of_their_own(control: Control) -> None:
    reserve(control, tokens=9)
    assert level(control, scope="key:a") == [10]


def test_to_peek_changes_nothing(control: Control, database: Database) -> None:
    level(control)
    with database.reading() as connection:
        assert connection.execute(select(buckets)).all() == []


def test_who_gets_nothing_writes_nothing(control: Control, database: Database) -> None:
    reserve(control, AT_ONCE)
    with database.reading() as connection:
        before = connection.execute(select(buckets)).all()
    assert reserve(control, AT_ONCE) == 0
    with database.reading() as connection:
        assert connection.execute(select(buckets)).all() == before


def test_a_rate_that_is_changed_leaves_what_its_bucket_holds(control: Control) -> None:
    reserve(control, tokens=8)
    assert level(control, rates_of("100/m")) == [2]


@pytest.mark.parametrize("at", [0, 2**62])
def test_of_the_time_of_another_boot_nothing_is_said(
    control: Control, database: Database, clock: FakeClock, at: int
) -> None:
    """What it held it holds, however far the other clock was."""
    reserve(control, tokens=8)
    with database.writing() as connection:
        connection.execute(update(buckets).values(clock="another", at=at))
    assert level(control) == [2]
    assert reserve(control) == 1
    clock.advance(12)
    assert level(control) == [3]


def test_a_reservation_says_when_each_may_be_used_and_when_to_come_again(control: Control) -> None:
    rates = rates_of("100/s burst 11")  # usable, and had ahead, for 50 ms
    with control.noting() as unit:
        found = unit.buckets.reserve("all", rates, 50)
    assert list(found.dues) == [0] * 6 + [each * 10 * MILLISECOND for each in range(1, 6)]
    assert found.usable == 50 * MILLISECOND
    assert found.wait == 10 * MILLISECOND
    assert found.left == 0


def test_who_waited_for_its_turn_has_tokens_no_earlier_than_all_others(
    control: Control, database: Database, clock: FakeClock
) -> None:
    """Its clock was read before it waited, and the bucket was filled meanwhile."""
    rates = rates_of("10/s")
    with ExitStack() as stack:
        waited = stack.enter_context(control.noting())
        with database.reading() as connection:
            if is_sqlite(connection):
                pytest.skip("who writes is alone, and reads the clock then")
        clock.advance(0.05)
        assert reserve(control, rates, tokens=9) == 9
        found = waited.buckets.reserve("all", rates, 1)
    # The next token comes 100 ms after the clock of the other one, which was 50 ms later.
    assert list(found.dues) == [150 * MILLISECOND]
    assert found.wait == 150 * MILLISECOND


def test_two_at_once_never_get_the_same_token(control: Control) -> None:
    rates = rates_of("1000/d")
    barrier = threading.Barrier(2, timeout=30)

    def take() -> int:
        taken = 0
        for _ in range(20):
            barrier.wait()
            taken += reserve(control, rates, tokens=30)
        return taken

    with ThreadPoolExecutor(2) as pool:
        takers: list[Any] = [pool.submit(take) for _ in range(2)]
        assert sum(each.result(60) for each in takers) <= 1_000
        assert level(control, rates) == [0]
