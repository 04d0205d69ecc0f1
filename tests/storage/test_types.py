"""How moments lie on disk."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, MetaData, Table, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from queue_max.domain.clock import cut
from queue_max.storage.database import Database
from queue_max.storage.types import UtcTime

moments = Table("moments", MetaData(), Column("at", UtcTime))

NOON = datetime(2026, 1, 2, 12, 0, 0, 123_000, tzinfo=UTC)
EAST = timezone(timedelta(hours=5, minutes=30))

any_moment = st.datetimes(
    min_value=datetime(2, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
    max_value=datetime(9998, 12, 31),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, EAST, timezone(timedelta(hours=-8))]),
)


def written_and_read(connection: Connection, moment: datetime | None) -> datetime | None:
    moments.create(connection)
    connection.execute(insert(moments), {"at": moment})
    found: datetime | None = connection.execute(select(moments.c.at)).scalar_one()
    return found


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (NOON, NOON),
        (NOON.astimezone(EAST), NOON),
        (NOON.replace(microsecond=123_999), NOON),
        (NOON.replace(microsecond=0), NOON.replace(microsecond=0)),
        (None, None),
    ],
)
def test_a_moment_comes_back_in_utc_and_whole_milliseconds(
    shard: Database, written: datetime | None, read: datetime | None
) -> None:
    with shard.writing() as connection:
        found = written_and_read(connection, written)

    assert found == read
    assert found is None or found.tzinfo is UTC


def test_a_moment_is_compared_by_time_in_statements(shard: Database) -> None:
    with shard.writing() as connection:
        written_and_read(connection, NOON)
        a_little_later = (NOON + timedelta(milliseconds=1)).astimezone(EAST)
        is_before = select(moments.c.at < a_little_later)
        is_same = select(moments.c.at == NOON.astimezone(EAST))

        assert connection.execute(is_before).scalar_one()
        assert connection.execute(is_same).scalar_one()


@given(any_moment)
def test_on_sqlite_every_moment_is_text_of_one_form(moment: datetime) -> None:
    text = UtcTime().process_bind_param(moment, sqlite.dialect())

    assert isinstance(text, str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)


@given(any_moment, any_moment)
def test_on_sqlite_the_order_of_text_is_the_order_of_time(one: datetime, other: datetime) -> None:
    texts = [str(UtcTime().process_bind_param(each, sqlite.dialect())) for each in (one, other)]

    assert (texts[0] < texts[1]) == (cut(one) < cut(other))
    assert (texts[0] == texts[1]) == (cut(one) == cut(other))


@given(any_moment)
def test_on_sqlite_what_is_written_is_read_but_for_parts_of_a_millisecond(
    moment: datetime,
) -> None:
    text = UtcTime().process_bind_param(moment, sqlite.dialect())
    read = UtcTime().process_result_value(text, sqlite.dialect())

    assert read is not None
    assert timedelta(0) <= moment - read < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02 12:00:00", NOON.replace(microsecond=0)),
        ("2026-01-02T12:00:00.123Z", NOON),
        ("2026-01-02T17:30:00.123+05:30", NOON),
    ],
)
def test_both_forms_of_0_1_1_are_read(text: str, moment: datetime) -> None:
    assert UtcTime().process_result_value(text, sqlite.dialect()) == moment


def test_the_type_on_disk_is_text_on_sqlite_and_timestamptz_on_postgresql() -> None:
    on_sqlite = str(CreateTable(moments).compile(dialect=sqlite.dialect()))
    on_postgresql = str(CreateTable(moments).compile(dialect=postgresql.dialect()))

    assert "at TEXT" in on_sqlite
    assert "at TIMESTAMP WITH TIME ZONE" in on_postgresql
