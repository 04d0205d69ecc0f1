"""Token buckets against the bound they are to keep, by an exact count of all that is used."""

from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_max.limits.rates import NANOSECONDS, Rate, Rates
from queue_max.limits.token_bucket import TokenBucket, lag_of, reserve

SECOND = NANOSECONDS

some_rates = st.builds(
    Rate,
    number=st.integers(1, 500),
    seconds=st.sampled_from([1, 3, 60, 3_600]),
    burst=st.integers(1, 60),
)
steps = st.lists(
    st.tuples(
        st.integers(0, 3 * SECOND),  # time that passes
        st.integers(1, 20),  # tokens that are asked for
        st.lists(st.floats(0, 1), min_size=20, max_size=20),  # when each is used, within its time
    ),
    max_size=12,
)


def take_and_use(rates: Rates, steps: list[tuple[int, int, list[float]]]) -> list[int]:
    """Take tokens as those do who share the buckets; gives the times of their use."""
    lag = lag_of(rates)
    buckets = [(rate, TokenBucket.full(rate, 0, lag)) for rate in rates]
    used = []
    now = 0
    for passed, asked, moments in steps:
        now += passed
        for rate, bucket in buckets:
            bucket.fill(rate, now, lag)
        reservation = reserve(buckets, asked)
        for due, moment in zip(reservation.dues, moments, strict=False):
            used.append(now + due + int(moment * reservation.usable))
    return sorted(used)


def assert_within(rate: Rate, used: list[int]) -> None:
    """See that in no time T more is used than the rate times T, and the burst."""
    for first in range(len(used)):
        for last in range(first, len(used)):
            time = used[last] - used[first]
            over = last - first + 1 - rate.burst
            assert over * rate.seconds * NANOSECONDS <= rate.number * time


@given(some_rates, steps)
def test_no_more_is_used_than_the_rate_and_the_burst_whenever_tokens_are_used(
    rate: Rate, steps: list[tuple[int, int, list[float]]]
) -> None:
    assert_within(rate, take_and_use((rate,), steps))


@given(st.lists(some_rates, min_size=2, max_size=3, unique_by=lambda rate: rate.seconds), steps)
def test_each_of_several_rates_is_kept(
    rates: list[Rate], steps: list[tuple[int, int, list[float]]]
) -> None:
    used = take_and_use(tuple(rates), steps)
    for rate in rates:
        assert_within(rate, used)


@given(some_rates, st.lists(st.integers(0, SECOND), max_size=30))
def test_all_that_comes_is_had_by_who_asks_often(rate: Rate, pauses: list[int]) -> None:
    bucket = TokenBucket.full(rate, 0)
    taken = bucket.available(rate)
    bucket.take(rate, taken)
    for now in accumulate(pauses):
        bucket.fill(rate, now)
        number = bucket.available(rate)
        bucket.take(rate, number)
        taken += number
    assert taken <= rate.burst + Fraction(sum(pauses) * rate.number, rate.seconds * NANOSECONDS)
    if max(pauses, default=0) * rate.number <= (rate.burst - 1) * rate.seconds * NANOSECONDS:
        exact = rate.burst + Fraction(sum(pauses) * rate.number, rate.seconds * NANOSECONDS)
        assert taken == int(exact)


def test_a_clock_that_goes_back_adds_nothing_and_takes_nothing() -> None:
    rate = Rate(10, 1, 10)
    bucket = TokenBucket.full(rate, SECOND)
    bucket.take(rate, 10)
    bucket.fill(rate, 0)
    assert bucket.available(rate) == 0
    bucket.fill(rate, SECOND + SECOND // 10)
    assert bucket.available(rate) == 1


@pytest.mark.parametrize(("seconds", "due"), [(0, 0.1), (5, 5.0)])
def test_a_bucket_that_is_drained_has_its_next_token_after_that_time(
    seconds: float, due: float
) -> None:
    rate = Rate(10, 1, 10)
    bucket = TokenBucket(0, 0)
    bucket.drain(rate, seconds)
    assert bucket.due_in(rate) == int(due * SECOND)


def test_draining_adds_no_token_where_the_debt_is_larger() -> None:
    rate = Rate(10, 1, 10)
    bucket = TokenBucket(0, 0)
    bucket.take(rate, 20)
    bucket.drain(rate, 1)
    assert bucket.due_in(rate) == int(2.1 * SECOND)
