"""Databases on PostgreSQL: whose turn it is, faults, and the server's clock."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError
from support.jobs import a_new_job
from support.postgres import PostgresServer

from queue_max.exceptions import ShardBusyError, ShardError
from queue_max.storage.postgresql import PostgresDatabase
from queue_max.storage.schema import jobs

MakeDatabase = Callable[..., PostgresDatabase]

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def make_database(postgres: PostgresServer) -> Iterator[MakeDatabase]:
    """Open a migrated database, shard 3, once more each time."""
    opened: list[PostgresDatabase] = []
    with postgres.new_database() as origin:

        def make(**options: int) -> PostgresDatabase:
            opened.append(PostgresDatabase(origin.url, 3, **options))
            return opened[-1]

        yield make
        for database in opened:
            database.close()


@pytest.fixture
def database(make_database: MakeDatabase) -> PostgresDatabase:
    """One whose writers wait 50 ms for others; there is one job in it."""
    database = make_database(busy_timeout_ms=50)
    with database.writing() as connection:
        add_job(connection, uid="first")
    return database


def add_job(connection: Connection, **columns: object) -> None:
    values = {"payload": "{}", "uid": a_new_job().uid, "created_at": NOW}
    connection.execute(insert(jobs), values | columns)


def uids(database: PostgresDatabase) -> list[str]:
    with database.reading() as connection:
        return list(connection.execute(select(jobs.c.uid).order_by(jobs.c.id)).scalars())


def process_of(connection: Connection) -> int:
    """Tell which process of the server is at the other end."""
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def end(process: int, *, by: Connection) -> None:
    by.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": process})


def touch(connection: Connection) -> None:
    connection.execute(text("UPDATE fila SET priority = 1"))


def test_what_was_written_is_there(database: PostgresDatabase) -> None:
    with database.writing() as connection:
        add_job(connection, uid="second")

    assert uids(database) == ["first", "second"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_block_undoes_everything(
    database: PostgresDatabase, error: type[BaseException]
) -> None:
    def work() -> None:
        with database.writing() as connection:
            add_job(connection)
            raise error

    with pytest.raises(error):
        work()

    assert uids(database) == ["first"]


def test_what_a_reader_does_is_undone(database: PostgresDatabase) -> None:
    with database.reading() as connection:
        add_job(connection)

    assert uids(database) == ["first"]


def test_two_may_write_at_once(database: PostgresDatabase, make_database: MakeDatabase) -> None:
    with database.writing() as one, make_database().writing(wait=0) as other:
        add_job(one, uid="second")
        add_job(other, uid="third")

    assert uids(database) == ["first", "second", "third"]


def test_a_writer_that_waited_in_vain_for_a_row_is_told_that_the_shard_is_busy(
    database: PostgresDatabase, make_database: MakeDatabase
) -> None:
    with make_database().writing() as holder:
        touch(holder)
        with pytest.raises(ShardBusyError) as caught, database.writing() as connection:
            touch(connection)

    assert caught.value.shard_id == 3


def test_a_writer_waits_no_longer_than_it_says(
    make_database: MakeDatabase, database: PostgresDatabase
) -> None:
    patient = make_database(busy_timeout_ms=600_000)

    with database.writing() as holder:
        touch(holder)
        with pytest.raises(ShardBusyError), patient.writing(wait=0) as connection:
            touch(connection)


def test_the_patience_of_one_writer_is_not_that_of_the_next(make_database: MakeDatabase) -> None:
    database = make_database(busy_timeout_ms=12_345)

    with database.writing(wait=0.5) as connection:
        assert connection.execute(text("SHOW lock_timeout")).scalar() == "500ms"
    with database.reading() as connection:
        assert connection.execute(text("SHOW lock_timeout")).scalar() == "0"
    with database.writing() as connection:
        assert connection.execute(text("SHOW lock_timeout")).scalar() == "12345ms"


def test_all_threads_get_a_connection(make_database: MakeDatabase) -> None:
    database = make_database()

    def work(_number: int) -> None:
        with database.writing() as connection:
            add_job(connection)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(60)))

    assert len(uids(database)) == 60


def test_an_error_does_not_quote_the_row(database: PostgresDatabase) -> None:
    with pytest.raises(ShardError) as caught, database.writing() as connection:
        add_job(connection, payload="secret", status="no such status")

    assert isinstance(caught.value.__cause__, IntegrityError)
    assert "ck_fila_status" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_clock_is_the_servers_and_goes_on_within_a_transaction(
    database: PostgresDatabase,
) -> None:
    with database.writing() as connection:
        began = connection.execute(text("SELECT now()")).scalar_one()
        connection.execute(text("SELECT pg_sleep(0.01)"))

        moment = database.now(connection)

        after = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    assert began + timedelta(milliseconds=5) < moment <= after
    assert moment.tzinfo is UTC
    assert moment.microsecond % 1000 == 0


def test_moments_are_read_in_utc_whatever_the_zone_of_the_session(
    database: PostgresDatabase,
) -> None:
    with database.reading() as connection:
        connection.execute(text("SET LOCAL TIME ZONE 'Asia/Kolkata'"))

        assert database.now(connection).tzinfo is UTC
        assert connection.execute(select(jobs.c.created_at)).scalar_one() == NOW


def test_a_connection_that_the_server_ended_is_an_error_once_and_then_made_anew(
    database: PostgresDatabase, make_database: MakeDatabase
) -> None:
    def work() -> None:
        with make_database().reading() as other, database.writing() as connection:
            end(process_of(connection), by=other)
            add_job(connection)

    with pytest.raises(ShardError):
        work()

    assert uids(database) == ["first"]


def test_a_connection_that_was_lost_while_idle_is_not_noticed(
    database: PostgresDatabase, make_database: MakeDatabase
) -> None:
    with database.reading() as connection:
        process = process_of(connection)
    with make_database().reading() as other:
        end(process, by=other)

    assert uids(database) == ["first"]


def test_a_server_that_cannot_be_reached_is_an_error_of_the_shard_without_the_password(
    postgres: PostgresServer,
) -> None:
    url = postgres.url.set(database="no_such_database", password="hush")
    database = PostgresDatabase(url, 3)

    with pytest.raises(ShardError, match="shard 3: ") as caught:
        uids(database)

    database.close()
    assert "hush" not in str(caught.value)


def test_closing_twice_is_harmless(database: PostgresDatabase) -> None:
    database.close()
    database.close()
