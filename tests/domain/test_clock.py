import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queue_max.domain.clock import cut, from_text, to_text, utc_now

law = settings(derandomize=True, deadline=None)
UTC_MOMENTS = st.datetimes(timezones=st.just(UTC))
MOMENTS = UTC_MOMENTS | st.datetimes(
    # A day from the ends of the calendar, so that each has its place in UTC.
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.timezones(),
)
NEAR = st.builds(
    lambda start, step: (start, start + timedelta(microseconds=step)),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(-5000, 5000),
)


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine stand where it is five hours earlier."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()


@law
@given(MOMENTS)
def test_a_moment_is_always_written_in_24_characters(moment: datetime) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", to_text(moment))


@law
@given(st.tuples(MOMENTS, MOMENTS) | NEAR)
def test_the_order_of_texts_is_the_order_of_moments(pair: tuple[datetime, datetime]) -> None:
    first, second = pair
    assert (to_text(first) < to_text(second)) is (cut(first) < cut(second))
    assert (to_text(first) == to_text(second)) is (cut(first) == cut(second))


@law
@given(MOMENTS)
def test_what_is_written_reads_back_cut_to_milliseconds(moment: datetime) -> None:
    assert from_text(to_text(moment)) == cut(moment)


@law
@given(MOMENTS)
def test_a_moment_loses_less_than_a_millisecond_and_never_gains(moment: datetime) -> None:
    assert timedelta(0) <= moment - cut(moment) < timedelta(milliseconds=1)
    assert cut(moment).microsecond % 1000 == 0
    assert cut(moment).tzinfo is UTC
    assert cut(cut(moment)) == cut(moment)


@pytest.mark.parametrize(
    ("microsecond", "text"),
    [(0, "000"), (999, "000"), (1000, "001"), (123_500, "123"), (999_999, "999")],
)
def test_a_moment_is_cut_and_not_rounded(microsecond: int, text: str) -> None:
    moment = datetime(2026, 12, 31, 23, 59, 59, microsecond, UTC)
    assert to_text(moment) == f"2026-12-31T23:59:59.{text}Z"


def test_a_moment_is_written_in_utc() -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert to_text(moment) == "2025-12-31T23:30:00.000Z"


@pytest.mark.usefixtures("far_from_utc")
@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24T03:03:15.123Z",
        "2026-11-24T03:03:15.123",
        "2026-11-24 03:03:15.123999",
        "2026-11-24T05:03:15.123+02:00",
    ],
)
def test_every_form_of_the_same_moment_reads_the_same(text: str) -> None:
    assert from_text(text) == datetime(2026, 11, 24, 3, 3, 15, 123_000, UTC)
    assert from_text(text).tzinfo is UTC


def test_the_form_that_sqlite_writes_is_read_as_utc() -> None:
    assert from_text("2026-11-24 03:03:15") == datetime(2026, 11, 24, 3, 3, 15, tzinfo=UTC)


def test_now_is_this_very_millisecond_in_utc() -> None:
    before = cut(datetime.now(UTC))
    now = utc_now()
    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
