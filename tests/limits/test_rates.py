import math

import pytest

from queue_max.exceptions import ConfigurationError
from queue_max.limits.rates import Given, Rate, lags, rates_of, text_of


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, 1, 10)),
        ("160", Rate(160, 60, 160)),
        ("10 / second", Rate(10, 1, 10)),
        ("160/min", Rate(160, 60, 160)),
        ("1_000/hours", Rate(1_000, 3_600, 1_000)),
        ("1000/d burst 50", Rate(1_000, 86_400, 50)),
        ("100/15m", Rate(100, 900, 100)),
    ],
)
def test_a_rate_is_read_from_a_text(text: str, rate: Rate) -> None:
    assert rates_of(text) == (rate,)


def test_a_number_is_a_rate_for_a_minute_as_that_of_the_queue() -> None:
    assert rates_of(160) == (Rate(160, 60, 160),)


@pytest.mark.parametrize("given", [None, math.inf, "none"])
def test_no_limit_has_no_rates(given: Given) -> None:
    assert rates_of(given) == ()
    assert text_of(()) == "none"


@pytest.mark.parametrize(
    "given", ["1000/d, 10/s", ["1000/d", "10/s"], [Rate(1000, 86_400, 1000), "10/s"]]
)
def test_several_rates_hold_at_once_the_shortest_time_first(given: Given) -> None:
    assert [rate.seconds for rate in rates_of(given)] == [1, 86_400]


@pytest.mark.parametrize("text", ["10/s", "160/m", "100/15m burst 3", "10/s, 1000/d burst 50"])
def test_what_is_written_is_read_again(text: str) -> None:
    assert text_of(rates_of(text)) == text


@pytest.mark.parametrize(
    "given",
    [
        "",
        "s/10",
        "10/fortnight",
        "0/s",
        "10/0s",
        "1.5/s",
        "10/s,",
        0,
        -1,
        1.5,
        object(),
        [],
        [3],
        "10/s, 20/s",
    ],
)
def test_what_is_no_rate_is_refused_with_its_value_and_what_is_one(given: Given) -> None:
    with pytest.raises(ConfigurationError, match=r"rate.*should be"):
        rates_of(given)


def test_a_token_may_be_used_for_a_tenth_of_a_second_at_most() -> None:
    assert lags(rates_of("160/m")) == (100_000_000, 100_000_000)


def test_a_small_bucket_leaves_less_time_and_one_of_a_single_token_none() -> None:
    assert lags(rates_of("100/s burst 11"))[0] == 50_000_000
    assert lags(rates_of("1/s"))[0] == 0
    assert lags(rates_of("1/s, 1000/d"))[0] == 0
