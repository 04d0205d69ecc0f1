"""Tokens that all processes share: never more of them are used than the rates allow."""

import heapq
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete
from support.clock import FakeClock

from queue_max.exceptions import ConfigurationError
from queue_max.limits.rates import NANOSECONDS, Rate, Rates, lags, rates_of
from queue_max.limits.scopes import ALL, Limit
from queue_max.repositories.control import Control
from queue_max.services import rate_limits as rate_limits_module
from queue_max.services.controls import FRESH_FOR, Controls
from queue_max.services.limits import LimitService
from queue_max.services.rate_limits import LARGEST_BLOCK, RateLimits, Shortage
from queue_max.storage.schema import buckets
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions
from queue_max.storage.ticks import Ticks

Taken = Callable[..., int]

MILLISECOND = NANOSECONDS // 1_000
PATIENCE = NANOSECONDS // 10
"""Nanoseconds for which a token that is in hand may be used, at most."""
KEPT_FOR = 0.1
"""The same in seconds."""


class World(SqliteDatabase):
    """A control database with a clock of its own, and processes of which each has another.

    To ask takes time: before the clock is read, and after.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, None, SqliteOptions(full_sync=False))
        self.begin(())

    def begin(self, rates: Rates) -> None:
        """Begin anew, at a time that is nobody's zero."""
        self.rates = rates
        self.time = 1_000 * NANOSECONDS
        self.takes = (0, 0)
        self.asks = 0
        """How often anybody asked it."""
        self.who_asks = 0
        self.block = 1
        """Tokens that a process reserves at first: many, as if it had used them up fast before."""
        self.used: list[int] = []
        with self.writing() as connection:
            connection.execute(delete(buckets))

    def ticks(self, connection: Connection) -> Ticks:
        before, after = self.takes
        self.asks += 1
        earliest = self.local_time()
        self.time += before
        now = self.time
        self.time += after
        return Ticks("the server's", now, earliest, self.local_time())

    def local_time(self) -> int:
        """Read the clock of the process that asks."""
        return self.time + self.who_asks * 1_234_567

    def process(self, number: int) -> "Process":
        """Begin another process; one that has the same number is no more."""
        return Process(self, number)

    def assert_kept(self) -> None:
        """See that in no time T more was used than the rate times T, and the burst."""
        for rate in self.rates:
            token = rate.seconds * NANOSECONDS
            lowest = math.inf
            for count, moment in enumerate(sorted(self.used)):
                above = count * token - rate.number * moment
                lowest = min(lowest, above)
                assert above - lowest <= (rate.burst - 1) * token


class Process:
    """One that starts jobs of a single scope."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        control = Control(world)
        controls = Controls(control, clock=lambda: 0.0)
        self.limits = RateLimits(control, controls, world.rates, clock=world.local_time)
        self.limits._stock(ALL).block = world.block
        controls.now()

    def take(self) -> bool:
        """Start a job, if it may."""
        self._world.who_asks = self._number
        began = self._world.time
        if self.limits.take([ALL]) is not None:
            return False
        # A token that cannot be kept is used when it is had: the time of the answer goes by then.
        is_kept = lags(self._world.rates)[0] > 0
        self._world.used.append(self._world.time if is_kept else began)
        return True

    def do(self, what: str, number: int) -> None:
        """Take so many tokens, waiting for each or not; or do something else with them."""
        self._world.who_asks = self._number
        match what:
            case "take" | "all":
                while number and self.take():
                    number -= 1
            case "wait":
                for _ in range(number):
                    self._world.time += min(self.wait(), 60 * NANOSECONDS)
                    self.take()
            case "give back":
                if self.limits.take([ALL]) is None:
                    self.limits.give_back([ALL])
            case "penalise":
                self.limits.penalise(ALL, 0.7)

    def wait(self) -> int:
        """Tell in how many nanoseconds it is worth to ask again."""
        self._world.who_asks = self._number
        return round(self.limits.wait(ALL) * NANOSECONDS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rates")
    world = World(Path(shutil.copy(migrated / "control.db", folder)))
    yield world
    world.close()


quickly = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

some_rates = st.builds(
    Rate,
    number=st.integers(1, 1_000),
    seconds=st.sampled_from([1, 3, 60]),
    burst=st.one_of(st.integers(1, 3), st.integers(4, 80)),
)
several_rates = st.lists(some_rates, min_size=1, max_size=3, unique_by=lambda rate: rate.seconds)
what_is_done = st.sampled_from(
    ["take", "take", "all", "all", "wait", "die", "give back", "penalise"]
)
steps = st.lists(
    st.tuples(
        st.integers(0, 7),  # who
        what_is_done,
        st.one_of(st.just(1), st.integers(2, 80)),  # how often
        st.sampled_from([0, 0, 0.2, 0.5, 0.9, 1, 1, 2, 40]),  # times it may be kept pass first
    ),
    min_size=10,
    max_size=40,
)
answers = st.one_of(
    st.just((0, 0)),
    st.tuples(st.integers(0, 20 * MILLISECOND), st.integers(0, 20 * MILLISECOND)),
)


# The promise


@quickly
@given(
    rates=several_rates,
    processes=st.integers(2, 8),
    block=st.sampled_from([1, 8, LARGEST_BLOCK]),
    steps=steps,
    takes=answers,
)
def test_no_more_is_used_by_all_processes_than_the_rates_allow_whatever_happens_to_them(
    world: World,
    rates: list[Rate],
    processes: int,
    block: int,
    steps: list[tuple[int, str, int, float]],
    takes: tuple[int, int],
) -> None:
    world.begin(rates_of(rates))
    world.block = block
    usable, _ahead = lags(rates)
    if usable:
        world.takes = takes
    crew = [world.process(number) for number in range(processes)]
    for who, what, number, passes in steps:
        world.time += round(passes * (usable or PATIENCE))
        if what == "die":
            crew[who % processes] = world.process(who % processes)
        for each in crew if what == "all" else [crew[who % processes]]:
            each.do(what, number)
    world.assert_kept()


def demand(world: World, processes: int, seconds: float) -> None:
    """Let each process take what it gets, and come again when it is told to."""
    crew = [world.process(number) for number in range(processes)]
    end = world.time + round(seconds * NANOSECONDS)
    line = [(world.time, number) for number in range(processes)]
    while line[0][0] < end:
        at, number = heapq.heappop(line)
        world.time = max(at, world.time)
        while world.time < end and crew[number].take():
            continue
        again_in = max(crew[number].wait(), MILLISECOND // 10)
        heapq.heappush(line, (world.time + again_in, number))


@pytest.mark.parametrize("takes", [(0, 10), (10, 0), (90, 0), (0, 90)])
def test_no_more_is_used_however_long_an_answer_takes(world: World, takes: tuple[int, int]) -> None:
    for rate in ("100/s burst 100", "20/s burst 5", "400/s burst 81"):
        world.begin(rates_of(rate))
        world.takes = (takes[0] * MILLISECOND, takes[1] * MILLISECOND)
        demand(world, 4, 3)
        world.assert_kept()


def test_how_long_the_answer_took_is_taken_off_the_time_for_which_a_token_may_be_used(
    world: World,
) -> None:
    world.begin(rates_of("1/s burst 100"))
    world.block, world.takes = LARGEST_BLOCK, (20 * MILLISECOND, 30 * MILLISECOND)
    process = world.process(0)
    began = world.time
    process.do("take", 1)
    world.time = began + PATIENCE  # it was read 20 ms later, but nobody can know that
    assert process.limits.in_hand(ALL) > 50
    world.time += 1
    assert process.limits.in_hand(ALL) == 0


@pytest.mark.parametrize("processes", [1, 6])
@pytest.mark.parametrize(
    "rates",
    [
        "100/s",
        "100/s burst 5",
        "20/s burst 2",
        "10/s burst 1",
        "600/m",
        "1000/s burst 1000",
        "50/s burst 5, 1200/m burst 40",
    ],
)
def test_constant_demand_gets_at_least_97_percent_of_what_comes(
    world: World, rates: str, processes: int
) -> None:
    world.begin(rates_of(rates))
    seconds = 4 if "100" in rates else 20
    demand(world, processes, seconds)
    world.assert_kept()
    slowest = min(rate.number / rate.seconds for rate in world.rates)
    assert len(world.used) >= 0.97 * slowest * seconds


def test_a_process_that_is_killed_costs_what_it_had_in_hand_and_no_more(world: World) -> None:
    world.begin(rates_of("100/s burst 100"))
    killed, other = world.process(0), world.process(1)
    for _ in range(20):
        assert killed.take()
    del killed
    while other.take():
        continue
    assert 60 <= len(world.used) <= 100
    world.time += NANOSECONDS
    while other.take():
        continue
    world.assert_kept()
    assert len(world.used) >= 150


def test_a_bucket_holds_so_much_less_as_comes_while_tokens_are_in_hand(world: World) -> None:
    world.begin(rates_of("100/s burst 100"))
    world.block = LARGEST_BLOCK
    hoarder, other = world.process(0), world.process(1)
    hoarder.do("take", 1)  # it has all others in hand
    world.time += PATIENCE
    hoarder.do("take", 200)
    other.do("take", 200)
    world.assert_kept()
    assert len(world.used) >= 100


# Blocks


def test_tokens_are_reserved_in_blocks_that_grow_while_they_are_used_up_fast(world: World) -> None:
    world.begin(rates_of("100000/s"))
    process = world.process(0)
    for _ in range(2_000):
        assert process.take()
    # 1, 2, 4, ... 512, and then 512 each, asked for while a quarter is left.
    assert world.asks <= math.log2(LARGEST_BLOCK) + 2 + 2_000 / (LARGEST_BLOCK * 3 / 4)


@pytest.mark.parametrize(("more", "in_hand"), [(0, 0), (2, 2), (math.inf, 3)])
def test_where_tokens_are_scarce_no_more_are_reserved_than_there_are_jobs_to_use_them(
    rates: RateLimits, limits: LimitService, more: float, in_hand: float
) -> None:
    limits.set("key:a", rate="10/m burst 12")
    for _ in range(4):  # asks for more each time, as they are used at once: 1, 1, 2
        assert rates.take(["key:a"]) is None
    assert rates.take(["key:a"], more) is None
    stock = rates._stock("key:a")
    assert stock.number == in_hand


def test_where_there_are_plenty_the_next_block_is_reserved_before_the_last_is_used_up(
    world: World,
) -> None:
    world.begin(rates_of("100000/s"))
    process = world.process(0)
    for _ in range(500):
        assert process.take()
    stock = process.limits._stock(ALL)
    lowest = 512
    for _ in range(2_000):
        assert process.take()
        lowest = min(lowest, stock.number)
    assert lowest > 0


def test_who_uses_few_tokens_reserves_few(world: World) -> None:
    world.begin(rates_of("1000/s"))
    process, other = world.process(0), world.process(1)
    for _ in range(200):
        assert process.take()
    for _ in range(8):
        world.time += NANOSECONDS
        assert process.take()
    # It has used one a second for a while, and holds no more than one: the others are there.
    world.time += NANOSECONDS
    process.take()
    taken = 0
    while other.take():
        taken += 1
    assert taken >= 890


def test_a_token_that_was_not_used_in_time_is_used_no_more(world: World) -> None:
    world.begin(rates_of("1000/s"))
    process = world.process(0)
    for _ in range(10):
        process.take()
    asked = world.asks
    world.time += PATIENCE + 1
    assert process.take()
    assert world.asks == asked + 1


# One process; time goes by whole milliseconds


@pytest.fixture
def limited(controls: Controls) -> Callable[[str, str], None]:
    """Limit the rate of a scope."""

    def limited(scope: str, rate: str) -> None:
        controls.declare([Limit(scope, rates_of(rate))])

    return limited


@pytest.fixture
def another(control: Control, clock: FakeClock, ticks: Callable[[], int]) -> RateLimits:
    """Those of another process."""
    controls = Controls(control, clock=lambda: clock.now.timestamp())
    return RateLimits(control, controls, (), clock=ticks)


@pytest.fixture
def locked_control(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """Let another program write to the control database meanwhile."""

    @contextmanager
    def locked() -> Iterator[None]:
        database = SqliteDatabase(tmp_path / "control.db", None, SqliteOptions(full_sync=False))
        with database.writing():
            yield
        database.close()

    return locked


@pytest.fixture
def taken(clock: FakeClock) -> Callable[..., int]:
    """Take all there are; gives the number. The last one of a full bucket comes a bit later."""

    def taken(rates: RateLimits, scope: str = ALL) -> int:
        number = 0
        for _ in range(2):
            while rates.take([scope]) is None:
                number += 1
            clock.advance(KEPT_FOR)
        return number

    return taken


def test_what_is_not_limited_is_had_without_asking(
    rates: RateLimits, control: Control, limited: Callable[[str, str], None]
) -> None:
    limited("key:a", "1/m")
    assert rates.rates(ALL) == ()
    control.close()
    assert rates.allowance(ALL) == rates.in_hand(ALL) == rates.level(ALL).tokens == math.inf
    assert rates.wait(ALL) == rates.level(ALL).next_token == 0
    rates.penalise(ALL, 60)
    rates.prepare(ALL)
    rates.give_back([ALL])


@pytest.mark.parametrize("rate_limit", [60])
def test_a_shortage_says_of_what_and_for_how_long(
    rates: RateLimits, taken: Taken, clock: FakeClock
) -> None:
    assert taken(rates) == 60
    assert rates.take([ALL]) == Shortage(ALL, pytest.approx(0.8))
    clock.advance(0.8)
    assert rates.take([ALL]) == Shortage(ALL, pytest.approx(0.1))  # it is in hand by now
    clock.advance(0.1)
    assert rates.take([ALL]) is None


def test_tokens_of_several_scopes_are_had_all_or_none(
    rates: RateLimits, limited: Callable[[str, str], None]
) -> None:
    limited("key:a", "10/m")
    limited("task:t", "10/m")
    limited("all", "1/m")
    scopes = ["key:a", "task:t", ALL]
    assert rates.take(scopes) is None
    for _ in range(5):
        shortage = rates.take(scopes)
        assert shortage is not None
        assert shortage.scope == ALL
    assert [int(rates.level(scope).tokens) for scope in scopes] == [9, 9, 0]
    assert (rates.granted, rates.denied) == (1, 5)


def test_each_key_of_a_starred_scope_has_tokens_of_its_own(
    rates: RateLimits, taken: Taken, limited: Callable[[str, str], None]
) -> None:
    limited("key:customer-*", "3/m")
    assert taken(rates, "key:customer-1") == 3
    assert taken(rates, "key:customer-2") == 3
    assert rates.rates("key:other") == ()


def test_with_a_burst_of_one_jobs_start_one_after_the_other_with_the_whole_time_between(
    rates: RateLimits, another: RateLimits, limits: LimitService, clock: FakeClock
) -> None:
    limits.set(ALL, rate="10/s burst 1")
    started = []
    for millisecond in range(1_000):
        for each in (rates, another):
            if each.take([ALL]) is None:
                started.append(millisecond)
        clock.advance(0.001)
    assert started == [100 * number for number in range(10)]


def test_a_token_that_is_given_back_is_there_for_others(
    rates: RateLimits, taken: Taken, another: RateLimits, limits: LimitService
) -> None:
    limits.set("key:a", rate="2/m")
    assert taken(rates, "key:a") == 2
    assert taken(another, "key:a") == 0
    rates.give_back(["key:a"])
    assert int(rates.level("key:a").tokens) == 1
    assert taken(rates, "key:a") == 1


def test_a_change_by_hand_is_seen_by_other_processes_within_a_tenth_of_a_second(
    rates: RateLimits, taken: Taken, another: RateLimits, limits: LimitService, clock: FakeClock
) -> None:
    assert another.rates(ALL) == ()
    limits.set(ALL, rate="3/m")
    assert rates.rates(ALL) == (Rate(3, 60, 3),)
    clock.advance(FRESH_FOR)
    assert another.rates(ALL) == (Rate(3, 60, 3),)
    assert taken(rates) + taken(another) == 3
    limits.set(ALL, rate="none")
    clock.advance(FRESH_FOR)
    assert another.rates(ALL) == ()


def test_a_lower_rate_lets_no_more_start_than_the_higher_one_had_left(
    rates: RateLimits, taken: Taken, limits: LimitService, clock: FakeClock
) -> None:
    limits.set(ALL, rate="60/m")
    for _ in range(55):
        assert rates.take([ALL]) is None
    limits.set(ALL, rate="6/m")
    assert taken(rates) <= 5 + 6


@pytest.mark.parametrize("penalty", [2, 30])
def test_who_penalises_a_scope_stops_it_in_all_processes_for_that_time(
    rates: RateLimits, another: RateLimits, limits: LimitService, clock: FakeClock, penalty: int
) -> None:
    limits.set("key:a", rate="100/s")
    clock.advance(FRESH_FOR)
    for _ in range(5):
        assert rates.take(["key:a"]) is None
        assert another.take(["key:a"]) is None
    rates.penalise("key:a", penalty)
    assert rates.wait("key:a") == pytest.approx(penalty)
    assert rates.take(["key:a"]) is not None
    clock.advance(KEPT_FOR + 0.001)
    began = clock.now
    while (shortage := another.take(["key:a"])) is not None:
        clock.advance(math.ceil(max(shortage.wait, 0.001) * 1_000) / 1_000)
    waited = (clock.now - began).total_seconds()
    assert waited == pytest.approx(penalty - KEPT_FOR, abs=0.005)
    assert another.take(["key:a"]) is not None  # and it begins with one, not with a full bucket


def test_a_scope_that_is_refilled_has_all_that_its_bucket_can_hold(
    rates: RateLimits, taken: Taken, limits: LimitService
) -> None:
    limits.set("key:a", rate="5/m")
    assert taken(rates, "key:a") == 5
    limits.refill("key:a")
    assert rates.level("key:a").tokens == 5
    assert taken(rates, "key:a") == 5


@pytest.mark.parametrize("scope", ["key:a", "key:*"])
@pytest.mark.parametrize("refilled", ["key:a", "key:*"])
def test_to_refill_lifts_a_penalty_in_all_processes(
    rates: RateLimits,
    another: RateLimits,
    limits: LimitService,
    clock: FakeClock,
    scope: str,
    refilled: str,
) -> None:
    limits.set(scope, rate="10/s")
    assert limits.penalise("key:a", 3_600) == pytest.approx(3_600, abs=0.1)
    assert limits.penalise("key:a", 60) == pytest.approx(3_600, abs=0.1)  # the longer one stays
    clock.advance(1)
    for each in (rates, another):
        assert each.take(["key:a"]) is not None
    clock.advance(1)
    limits.refill(refilled)
    clock.advance(FRESH_FOR)
    for each in (rates, another):
        assert each.take(["key:a"]) is None


def test_the_default_rate_of_all_can_be_refilled_too(
    rates: RateLimits, another: RateLimits, limits: LimitService, clock: FakeClock
) -> None:
    limits.set(ALL, rate="10/s")
    limits.forget(ALL)
    limits.set(ALL, rate="5/h")
    limits.penalise(ALL, 60)
    assert another.take([ALL]) is not None
    clock.advance(1)
    limits.refill(ALL)
    clock.advance(FRESH_FOR)
    assert another.take([ALL]) is None


@pytest.mark.parametrize(
    ("scope", "seconds", "words"),
    [
        ("key:a-*", 60, "stands for many"),
        ("key:b", 60, "no rate limits it"),
        ("key:a-1", 1e9, "seconds at most"),
    ],
)
def test_what_cannot_be_penalised_is_told(
    limits: LimitService, scope: str, seconds: float, words: str
) -> None:
    limits.set("key:a-*", rate="10/s")
    with pytest.raises(ConfigurationError, match=words):
        limits.penalise(scope, seconds)


@pytest.mark.parametrize("scope", [ALL, "queue:default", "key:a", "key:*"])
def test_another_rate_holds_soon_for_who_waits_by_the_old_one(
    rates: RateLimits,
    another: RateLimits,
    limits: LimitService,
    clock: FakeClock,
    scope: str,
) -> None:
    wanted = "key:a" if scope == "key:*" else scope
    limits.set(scope, rate="1/d")
    assert another.take([wanted]) is None
    for each in (rates, another):
        shortage = each.take([wanted])
        assert shortage is not None
        assert shortage.wait > 3_600
    clock.advance(1)
    limits.set(scope, rate="1000/s")
    clock.advance(FRESH_FOR)
    for each in (rates, another):
        assert each.wait(wanted) == 0
        assert each.allowance(wanted) >= 1
        assert each.take([wanted]) is None


# In hand


def test_who_prepares_has_tokens_in_hand_and_asks_nobody_within_a_transaction(
    rates: RateLimits, limits: LimitService, locked_control: Callable[..., object]
) -> None:
    limits.set("key:a", rate="10/s")
    assert rates.in_hand("key:a") in (0, 1)
    rates.prepare("key:a")
    with rates._control.writing():  # nobody else could write
        assert rates.in_hand("key:a") >= 1
        assert rates.allowance("key:a") >= 1
        assert rates.take(["key:a"]) is None


def test_who_prepares_again_asks_for_no_more_than_there_is_need_of(
    rates: RateLimits, taken: Taken, limits: LimitService
) -> None:
    limits.set("key:a", rate="10/m")
    for _ in range(20):
        rates.prepare("key:a")
    assert rates.in_hand("key:a") == 1
    assert taken(rates, "key:a") == 10


def test_an_empty_bucket_allows_nothing_until_it_is_worth_to_ask(
    rates: RateLimits, taken: Taken, limits: LimitService, clock: FakeClock
) -> None:
    limits.set("key:a", rate="2/m")
    assert rates.allowance("key:a") >= 1
    taken(rates, "key:a")
    assert rates.allowance("key:a") == rates.in_hand("key:a") == 0
    assert rates.level("key:a").next_token == pytest.approx(29.9)
    clock.advance(rates.wait("key:a"))
    assert rates.allowance("key:a") == 1


# Faults


@pytest.mark.parametrize("rate_limit", [60])
def test_nothing_starts_while_the_control_database_is_locked_and_another_try_follows_soon(
    rates: RateLimits,
    locked_control: Callable[[], AbstractContextManager[None]],
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rates.level(ALL)
    with caplog.at_level("INFO", logger="queue_max"), locked_control():
        assert rates.take([ALL]) == Shortage(ALL, pytest.approx(0.001))
        assert rates.take([ALL]) is not None  # at once: it does not ask
    [said] = [each for each in caplog.records if "no job of all starts now" in each.message]
    assert said.levelname == "INFO"  # it may well pass
    clock.advance(0.001)
    assert rates.take([ALL]) is None


def test_what_a_child_of_fork_has_in_hand_is_nothing(
    rates: RateLimits, taken: Taken, limits: LimitService
) -> None:
    limits.set("key:a", rate="10/m")
    rates.prepare("key:a")
    rates._forget()
    assert taken(rates, "key:a") == 9


def test_a_process_keeps_tokens_of_so_many_scopes_the_newest_ones(
    rates: RateLimits, limits: LimitService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits_module, "MOST_STOCKS", 2)
    limits.set("key:*", rate="100/s")
    for scope in ("key:a", "key:b", "key:a", "key:c"):
        rates.prepare(scope)
    assert set(rates._stocks) == {"key:b", "key:c"}


def test_a_penalty_is_a_time(limits: LimitService) -> None:
    with pytest.raises(ConfigurationError):
        limits.penalise(ALL, -1)
