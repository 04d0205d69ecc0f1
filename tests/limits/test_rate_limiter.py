import inspect
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import itemgetter
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_max.exceptions import ConfigurationError, RateLimitError
from queue_max.limits import rate_limiter
from queue_max.limits.rate_limiter import RateLimiter, RateLimitUnit


class Time:
    """A clock that only a sleep moves; `slept` holds the length of each."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Crowd(Time):
    """A clock that stands still while callers sleep, as if each had a thread of its own."""

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def time_() -> Time:
    return Time()


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


def per_second(rate_limit: float, time_: Time, burst_capacity: int | None = None) -> RateLimiter:
    return RateLimiter.per_second(
        rate_limit, burst_capacity=burst_capacity, clock=time_.clock, sleep=time_.sleep
    )


def drain(limiter: RateLimiter) -> int:
    taken = 0
    while limiter.try_acquire():
        taken += 1
    return taken


class TestSettings:
    def test_the_default_is_160_tokens_a_minute_and_as_many_in_a_burst(self) -> None:
        limiter = RateLimiter()
        assert limiter.rate_limit == 160
        assert limiter.unit is RateLimitUnit.PER_MINUTE
        assert limiter.burst_capacity == 160
        assert limiter.interval == 0.375

    @pytest.mark.parametrize(
        ("make", "unit", "interval"),
        [
            (RateLimiter.per_second, "per_second", 0.1),
            (RateLimiter.per_minute, "per_minute", 6.0),
            (RateLimiter.per_hour, "per_hour", 360.0),
        ],
    )
    def test_each_unit_has_a_constructor_that_takes_all_options(
        self, make: Callable[..., RateLimiter], unit: str, interval: float
    ) -> None:
        limiter = make(10, burst_capacity=3)
        assert (limiter.unit, limiter.interval, limiter.burst_capacity) == (unit, interval, 3)

    def test_a_unit_may_be_given_by_its_name(self) -> None:
        assert RateLimiter(1, "per_hour").unit is RateLimitUnit.PER_HOUR  # type: ignore[arg-type]

    def test_an_unknown_unit_is_refused_with_those_allowed(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'per_day': .* per_minute, per_second"):
            RateLimiter(1, "per_day")  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, math.nan, -math.inf, "160", None, 2**63])
    def test_a_rate_that_is_no_count_is_refused_by_name_and_value(self, value: float) -> None:
        with pytest.raises(ConfigurationError, match=rf"rate_limit={value!r}: should be .* or inf"):
            RateLimiter(value)

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, math.nan, math.inf, "3"])
    def test_a_burst_that_is_no_count_is_refused_by_name_and_value(self, value: int) -> None:
        with pytest.raises(ConfigurationError, match=rf"burst_capacity={value!r}: should be"):
            RateLimiter(burst_capacity=value)

    def test_jitter_is_accepted_and_leaves_the_wait_exact(self, time_: Time) -> None:
        limiter = RateLimiter(
            60, RateLimitUnit.PER_MINUTE, 1, True, clock=time_.clock, sleep=time_.sleep
        )
        limiter.acquire()
        limiter.acquire()
        assert time_.slept == [1.0]

    def test_time_is_real_unless_another_is_given(self) -> None:
        parameters = inspect.signature(RateLimiter).parameters
        assert parameters["clock"].default is time.monotonic
        assert parameters["sleep"].default is time.sleep


class TestBucket:
    def test_a_full_bucket_grants_its_burst_at_once_and_then_no_more(self, time_: Time) -> None:
        assert drain(per_second(10, time_, burst_capacity=4)) == 4

    def test_a_token_comes_each_interval(self, time_: Time) -> None:
        limiter = per_second(10, time_)
        drain(limiter)
        time_.now += 0.099
        assert not limiter.try_acquire()
        time_.now += 0.001
        assert limiter.try_acquire()
        assert not limiter.try_acquire()

    def test_tokens_that_the_bucket_cannot_hold_are_lost(self, time_: Time) -> None:
        limiter = per_second(10, time_, burst_capacity=4)
        time_.now += 3600
        assert drain(limiter) == 4

    def test_parts_of_a_token_add_up_exactly(self, time_: Time) -> None:
        limiter = RateLimiter.per_minute(7, clock=time_.clock)
        drain(limiter)
        for _ in range(60_000):
            time_.now = round(time_.now + 0.001, 3)
            limiter.get_remaining_tokens()
        assert limiter.get_remaining_tokens() == 7.0

    def test_remaining_tokens_include_parts_and_are_never_negative(self, crowd: Crowd) -> None:
        limiter = per_second(10, crowd, burst_capacity=2)
        drain(limiter)
        crowd.now += 0.15
        assert limiter.get_remaining_tokens() == pytest.approx(1.5)
        for _ in range(5):
            limiter.acquire()
        assert limiter.get_remaining_tokens() == 0.0

    def test_retry_after_is_zero_while_there_is_a_token(self, time_: Time) -> None:
        assert per_second(10, time_, burst_capacity=1).get_retry_after() == 0.0

    def test_retry_after_counts_down_to_the_next_token(self, time_: Time) -> None:
        limiter = per_second(10, time_)
        drain(limiter)
        assert limiter.get_retry_after() == 0.1
        time_.now += 0.075
        assert limiter.get_retry_after() == pytest.approx(0.025)

    def test_a_token_is_there_once_retry_after_is_over(self, time_: Time) -> None:
        limiter = per_second(7, time_)
        drain(limiter)
        time_.now += limiter.get_retry_after()
        assert limiter.try_acquire()

    def test_reset_fills_the_bucket(self, time_: Time) -> None:
        limiter = per_second(10, time_, burst_capacity=4)
        drain(limiter)
        limiter.reset()
        assert drain(limiter) == 4

    def test_reset_does_not_count_the_time_before_it_again(self, time_: Time) -> None:
        limiter = per_second(10, time_, burst_capacity=4)
        drain(limiter)
        time_.now += 10
        limiter.reset()
        drain(limiter)
        assert limiter.get_remaining_tokens() == 0.0


class TestWaiting:
    def test_a_token_that_is_there_is_had_without_waiting(self, time_: Time) -> None:
        assert per_second(10, time_).acquire(timeout=0) is True
        assert time_.slept == []

    def test_one_sleep_lasts_exactly_until_the_token_is_due(self, time_: Time) -> None:
        limiter = RateLimiter.per_minute(160, clock=time_.clock, sleep=time_.sleep)
        drain(limiter)
        time_.now += 0.125
        assert limiter.acquire() is True
        assert time_.slept == [0.25]

    def test_the_timeout_may_be_exactly_the_wait(self, time_: Time) -> None:
        limiter = per_second(3, time_, burst_capacity=1)
        limiter.acquire()
        limiter.acquire(timeout=limiter.interval)
        assert time_.slept == [pytest.approx(1 / 3)]

    @pytest.mark.parametrize("timeout", [math.inf, pytest.param(10**400, id="401 digits")])
    def test_a_wait_of_any_length_is_borne_without_a_timeout(
        self, time_: Time, timeout: float
    ) -> None:
        limiter = RateLimiter.per_hour(1, clock=time_.clock, sleep=time_.sleep)
        limiter.acquire()
        limiter.acquire(timeout=timeout)
        assert time_.slept == [3600.0]

    def test_the_default_timeout_is_thirty_seconds(self, crowd: Crowd) -> None:
        limiter = per_second(1, crowd, burst_capacity=1)
        limiter.acquire()
        for _ in range(30):
            limiter.acquire()
        with pytest.raises(RateLimitError):
            limiter.acquire()

    def test_a_token_too_late_is_refused_at_once_and_says_when_it_comes(self, time_: Time) -> None:
        limiter = per_second(2, time_, burst_capacity=1)
        limiter.acquire()
        message = "2 per second is the limit: .* due in 0.500 s, and only 0.499 s may be waited"
        with pytest.raises(RateLimitError, match=message) as refusal:
            limiter.acquire(timeout=0.499)
        assert refusal.value.retry_after == 0.5
        assert time_.slept == []

    def test_a_refusal_takes_no_token(self, time_: Time) -> None:
        limiter = per_second(1, time_, burst_capacity=1)
        limiter.acquire()
        for _ in range(10):
            with pytest.raises(RateLimitError):
                limiter.acquire(timeout=0.5)
            assert not limiter.try_acquire()
        assert limiter.get_retry_after() == 1.0

    def test_waiting_callers_are_served_one_by_one_in_the_order_they_came(
        self, crowd: Crowd
    ) -> None:
        limiter = per_second(10, crowd, burst_capacity=1)
        for _ in range(4):
            limiter.acquire()
        assert crowd.slept == [0.1, 0.2, 0.3]

    def test_a_caller_who_comes_later_stands_behind_those_who_wait(self, crowd: Crowd) -> None:
        limiter = per_second(10, crowd, burst_capacity=1)
        for _ in range(3):
            limiter.acquire()
        crowd.now += 0.1
        assert not limiter.try_acquire()
        assert limiter.get_retry_after() == 0.2
        with pytest.raises(RateLimitError):
            limiter.acquire(timeout=0.15)

    def test_no_lock_is_held_while_a_caller_sleeps(self) -> None:
        refused: list[bool] = []

        def sleep(_: float) -> None:
            other = threading.Thread(target=lambda: refused.append(not limiter.try_acquire()))
            other.start()
            other.join(timeout=5)

        limiter = RateLimiter.per_second(1, burst_capacity=1, clock=lambda: 0.0, sleep=sleep)
        limiter.acquire()
        limiter.acquire()
        assert refused == [True]

    @pytest.mark.parametrize("timeout", [-0.001, -math.inf, math.nan])
    def test_a_timeout_that_is_no_duration_is_refused(self, timeout: float) -> None:
        with pytest.raises(
            ConfigurationError, match=rf"timeout={timeout!r}: should be 0 seconds or more"
        ):
            RateLimiter().acquire(timeout=timeout)


class TestGivingBack:
    def test_a_token_given_back_can_be_taken_again(self, time_: Time) -> None:
        limiter = per_second(10, time_, burst_capacity=2)
        drain(limiter)
        limiter.give_back()
        assert drain(limiter) == 1

    def test_a_token_that_was_waited_for_can_be_given_back(self, time_: Time) -> None:
        limiter = per_second(7, time_, burst_capacity=1)
        for _ in range(5):
            limiter.acquire()
        limiter.give_back()
        assert limiter.try_acquire()

    def test_a_full_bucket_takes_none_back(self, time_: Time) -> None:
        limiter = per_second(10, time_, burst_capacity=2)
        limiter.give_back()
        assert drain(limiter) == 2

    def test_none_is_taken_back_while_others_wait(self, crowd: Crowd) -> None:
        limiter = per_second(1, crowd, burst_capacity=1)
        limiter.acquire()
        limiter.acquire()
        limiter.give_back()
        assert limiter.get_retry_after() == 2.0


class TestUpdating:
    def test_tokens_come_at_the_new_rate_from_now_on(self, time_: Time) -> None:
        limiter = per_second(10, time_)
        drain(limiter)
        time_.now += 0.2
        limiter.update_rate_limit(100)
        assert limiter.get_remaining_tokens() == pytest.approx(2)
        time_.now += 0.1
        assert limiter.get_remaining_tokens() == pytest.approx(12)
        assert (limiter.rate_limit, limiter.interval) == (100, 0.01)

    def test_the_burst_follows_the_rate_and_caps_what_is_kept(self, time_: Time) -> None:
        limiter = per_second(10, time_)
        limiter.update_rate_limit(3)
        assert limiter.burst_capacity == 3
        assert drain(limiter) == 3

    def test_a_burst_that_was_given_stays(self, time_: Time) -> None:
        limiter = per_second(10, time_, burst_capacity=5)
        limiter.update_rate_limit(3)
        assert limiter.burst_capacity == 5
        assert drain(limiter) == 5

    def test_a_higher_rate_does_not_fill_the_bucket(self, time_: Time) -> None:
        limiter = per_second(10, time_)
        drain(limiter)
        limiter.update_rate_limit(1000)
        assert not limiter.try_acquire()

    def test_a_debt_is_kept(self, crowd: Crowd) -> None:
        limiter = per_second(1, crowd, burst_capacity=1)
        limiter.acquire()
        limiter.acquire()
        limiter.update_rate_limit(2)
        assert limiter.get_retry_after() == 1.0

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, math.nan])
    def test_a_rate_that_is_no_count_changes_nothing(self, time_: Time, value: float) -> None:
        limiter = per_second(10, time_)
        with pytest.raises(ConfigurationError, match="rate_limit"):
            limiter.update_rate_limit(value)
        assert limiter.rate_limit == 10


class TestWithoutLimit:
    @pytest.mark.parametrize("burst_capacity", [None, 2])
    def test_each_token_is_had_at_once(self, time_: Time, burst_capacity: int | None) -> None:
        limiter = per_second(math.inf, time_, burst_capacity)
        for _ in range(1000):
            limiter.acquire(timeout=0)
            assert limiter.try_acquire()
        limiter.give_back()
        limiter.reset()
        assert time_.slept == []
        assert limiter.get_remaining_tokens() == math.inf
        assert limiter.burst_capacity == math.inf
        assert limiter.get_retry_after() == 0.0
        assert limiter.interval == 0.0

    def test_its_stats_are_numbers_too(self, time_: Time) -> None:
        stats = per_second(math.inf, time_).get_stats()
        assert (stats["tokens_remaining"], stats["interval"]) == (math.inf, 0.0)

    def test_a_limit_can_be_lifted(self, time_: Time) -> None:
        limiter = per_second(1, time_)
        drain(limiter)
        limiter.update_rate_limit(math.inf)
        assert all(limiter.try_acquire() for _ in range(100))

    def test_a_limit_can_be_set_and_starts_with_a_full_bucket(self, time_: Time) -> None:
        limiter = per_second(math.inf, time_, burst_capacity=3)
        time_.now += 5
        limiter.update_rate_limit(1)
        assert drain(limiter) == 3


class TestStats:
    def test_they_tell_the_settings_the_level_and_what_was_granted_denied_and_waited(
        self, crowd: Crowd
    ) -> None:
        limiter = RateLimiter(70, burst_capacity=2, clock=crowd.clock, sleep=crowd.sleep)
        limiter.acquire()
        limiter.try_acquire()
        limiter.try_acquire()
        limiter.acquire()
        with pytest.raises(RateLimitError):
            limiter.acquire(timeout=0)
        crowd.now += 2
        assert limiter.get_stats() == {
            "tokens_remaining": 1.33,
            "rate_limit": 70,
            "burst_capacity": 2,
            "interval": 0.8571,
            "unit": "per_minute",
            "total_granted": 3,
            "total_denied": 2,
            "total_wait_seconds": pytest.approx(60 / 70),
        }

    def test_the_unit_is_a_plain_string(self) -> None:
        assert type(RateLimiter().get_stats()["unit"]) is str


@pytest.fixture
def courteous_threads() -> Iterator[None]:
    """Let new threads make way for one another at each line of the module under test."""

    def make_way(frame: FrameType, *_: object) -> Any:
        if frame.f_code.co_filename != rate_limiter.__file__:
            return None
        time.sleep(1e-6)
        return make_way

    usual = threading.gettrace()
    threading.settrace(make_way)
    yield
    threading.settrace(usual)


@pytest.mark.usefixtures("courteous_threads")
def test_threads_never_share_a_token() -> None:
    for _ in range(5):
        limiter = RateLimiter.per_second(10, clock=lambda: 0.0)
        grants: list[int] = []
        start = threading.Barrier(8)

        def take(
            limiter: RateLimiter = limiter,
            grants: list[int] = grants,
            start: threading.Barrier = start,
        ) -> None:
            start.wait(timeout=10)
            grants.append(drain(limiter))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert sum(grants) == 10


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 3000)),
        st.tuples(st.just("acquire"), st.integers(0, 5000)),
        st.tuples(st.just("try"), st.just(0)),
        st.tuples(st.just("give back"), st.just(0)),
    ),
    max_size=60,
)


@given(steps=STEPS, rate=st.integers(1, 20), burst=st.integers(1, 5))
def test_in_no_stretch_of_time_are_more_granted_than_rate_times_time_and_the_burst(
    steps: list[tuple[str, int]], rate: int, burst: int
) -> None:
    crowd = Crowd()
    limiter = per_second(rate, crowd, burst)
    changes: list[tuple[float, int]] = []  # when a token was granted (1) or given back (-1)
    for step, milliseconds in steps:
        match step:
            case "pass":
                crowd.now += milliseconds / 1000
            case "acquire":
                crowd.slept.clear()
                with suppress(RateLimitError):
                    limiter.acquire(timeout=milliseconds / 1000)
                    changes.append((crowd.now + sum(crowd.slept), 1))
            case "try" if limiter.try_acquire():
                changes.append((crowd.now, 1))
            case "give back" if sum(change for when, change in changes if when <= crowd.now):
                limiter.give_back()
                changes.append((crowd.now, -1))

    changes.sort(key=itemgetter(0))
    for first, (begin, _) in enumerate(changes):
        used = 0
        for end, change in changes[first:]:
            used += change
            assert used <= rate * (end - begin) + burst + 1e-6
