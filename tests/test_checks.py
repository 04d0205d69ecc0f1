import math
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest

from queue_max import checks
from queue_max.exceptions import ConfigurationError, InvalidJobError

HUGE = 10**5000
"""More digits than Python writes."""

from_0_to_9 = partial(checks.amount, at_least=0, at_most=9)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.whole("n", HUGE), "n=<int>: should be from "),
        (lambda: checks.whole("n", True), "n=True: should be a whole number, not bool"),
        (lambda: checks.identity("n", HUGE), "n=<int>: should be a whole number of at most "),
        (lambda: checks.limit("n", HUGE), "n=<int>: should be a whole number from 1 to "),
        (lambda: checks.limit("n", 2**63), f"n={2**63}: should be a whole number from 1 to "),
        (lambda: from_0_to_9("n", HUGE), "n=<int>: should be a number from 0 to 9"),
        (lambda: from_0_to_9("n", math.nan), "n=nan: should be a number from 0 to 9"),
        (lambda: from_0_to_9("n", "1"), "n='1': should be a number from 0 to 9"),
        (lambda: checks.seconds("n", -HUGE), "n=<int>: should be more than 0 seconds"),
        (lambda: checks.text("n", b"a"), "n=b'a': should be a str, not bytes"),
        (lambda: checks.text("n", None), "n=None: should be a str, not NoneType"),
        (lambda: checks.text("n", "a\0b"), r"n='a\x00b': should be a str without NUL"),
        (lambda: checks.function("n", None), "n=None: should be callable"),
        (lambda: checks.path("n", 5), "n=5: should be a path"),
        (lambda: checks.instance("n", 5, str, "a str"), "n=5: should be a str, not int"),
    ],
)
def test_what_is_refused_is_named_with_its_value_and_what_is_allowed(
    check: Callable[[], object], message: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check()
    assert str(raised.value).startswith(message)


def test_a_check_of_a_job_can_say_that_the_job_is_invalid() -> None:
    with pytest.raises(InvalidJobError, match="n='1'"):
        checks.whole("n", "1", error=InvalidJobError)
    with pytest.raises(InvalidJobError, match="n='1'"):
        checks.instance("n", "1", int, "a number", error=InvalidJobError)


@pytest.mark.parametrize("value", [1, sys.maxsize, math.inf])
def test_a_limit_is_a_count_or_none(value: float) -> None:
    assert checks.limit("n", value) == value


@pytest.mark.parametrize("value", [math.inf, pytest.param(HUGE, id="5001 digits")])
def test_no_time_is_longer_than_a_thread_can_wait(value: float) -> None:
    assert checks.seconds("n", value) == threading.TIMEOUT_MAX


@pytest.mark.parametrize("value", [0, -(2**70), 2**70])
def test_an_identity_need_not_be_anybodys(value: int) -> None:
    assert checks.identity("n", value) == value


@pytest.mark.parametrize("value", ["", "wörker", "x" * 1000])
def test_a_text_is_any_that_can_be_stored(value: str) -> None:
    assert checks.text("n", value) == value


def test_a_path_may_be_of_bytes_that_are_no_text() -> None:
    assert checks.path("n", "na\udcefve").name == "na\udcefve"
