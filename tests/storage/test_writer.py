"""Threads that meet at one file: each has its turn, and they share a commit."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection

from queue_max.exceptions import LeaseLostError, ShardBusyError, ShardError
from queue_max.storage import driver, writer
from queue_max.storage.sqlite import SqliteDatabase

Act = Callable[[Connection], object]
Meet = Callable[..., list[Future[None]]]

INTERRUPTED_AMONG_OTHERS = """
import math, random, signal, sys, threading
from queue_max import Queue
from queue_max.storage import driver
queue = Queue(1, math.inf, data_dir=sys.argv[1], durability="normal")
other = driver.choose().module.connect(sys.argv[1] + "/shard_0.db", isolation_level=None, timeout=9)
stored, refused, is_over = [0], [], threading.Event()
def produce():
    while not is_over.is_set():
        try:
            queue.enqueue({"from": "beside"})
            stored[0] += 1
        except BaseException as error:
            refused.append(error)
threads = [threading.Thread(target=produce) for _ in range(2)]
for each in threads:
    each.start()
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
chance = random.Random(1)
for number in range(60):
    before = stored[0]
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.02))
        while True:
            queue.enqueue({"number": number})
    except BaseException:
        signal.setitimer(signal.ITIMER_REAL, 0)
    queue.enqueue({"after": number})
    while stored[0] == before:
        is_over.wait(0.001)
is_over.set()
for each in threads:
    each.join()
assert all("interrupted" in str(error) or "shared" in str(error) for error in refused), refused
other.execute("BEGIN IMMEDIATE")
assert other.execute("SELECT count(*) FROM fila").fetchone()[0] >= stored[0] + 60
other.close()
queue.close()
print("as before")
"""


@pytest.fixture
def database(make_database: Callable[..., SqliteDatabase]) -> SqliteDatabase:
    database = make_database()
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n INTEGER UNIQUE)")
    return database


@pytest.fixture
def sql(database: SqliteDatabase) -> list[str]:
    """The statements of those who write, from now on."""
    said: list[str] = []
    writer.driver_of(database._writer._connection).set_trace_callback(said.append)
    return said


@pytest.fixture
def meet(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meet]:
    """Have threads act on the database: the first goes on when all others wait for their turn."""
    monkeypatch.setattr(writer, "LONGEST", 60.0)

    def act(what: Act, others: int) -> None:
        with database.writing() as connection:
            deadline = time.monotonic() + 20
            while len(database._writer._waiting) < others and time.monotonic() < deadline:
                time.sleep(0.001)
            what(connection)

    with ThreadPoolExecutor(8) as pool:

        def meet(first: Act, *others: Act) -> list[Future[None]]:
            futures = [pool.submit(act, first, len(others))]
            while not database._writer._transaction:
                time.sleep(0.001)
            futures += [pool.submit(act, other, 0) for other in others]
            for future in futures:
                future.exception(30)
            return futures

        yield meet


def insert(number: int) -> Act:
    return lambda connection: connection.exec_driver_sql(f"INSERT INTO t VALUES ({number})")


def numbers(database: SqliteDatabase) -> list[int]:
    with closing(driver.choose().module.connect(database.path)) as other:
        return sorted(n for (n,) in other.execute("SELECT n FROM t"))


def errors(futures: list[Future[None]]) -> list[type[BaseException] | None]:
    return [type(error) if (error := each.exception()) else None for each in futures]


def test_threads_that_meet_share_a_commit(
    database: SqliteDatabase, sql: list[str], meet: Meet
) -> None:
    meet(*(insert(number) for number in range(5)))
    assert numbers(database) == [0, 1, 2, 3, 4]
    assert (sql.count("BEGIN IMMEDIATE"), sql.count("COMMIT")) == (1, 1)


def test_one_alone_has_a_plain_transaction(database: SqliteDatabase, sql: list[str]) -> None:
    with database.writing() as connection:
        insert(1)(connection)
    assert sql == ["BEGIN IMMEDIATE", "INSERT INTO t VALUES (1)", "COMMIT"]


def lose(_: Connection) -> None:
    raise LeaseLostError(1, 0, 1)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("own", [lose, insert(0)], ids=["of ours", "a constraint"])
def test_an_error_of_one_undoes_what_that_one_did_and_no_more(
    database: SqliteDatabase, meet: Meet, at: int, own: Act
) -> None:
    with database.writing() as connection:
        insert(0)(connection)

    def fail(connection: Connection) -> None:
        insert(77)(connection)
        own(connection)

    acts = [fail if each == at else insert(each + 1) for each in range(4)]
    found = errors(meet(*acts))
    assert [each for each in range(4) if found[each] is not None] == [at]
    assert numbers(database) == [0, *(each + 1 for each in range(4) if each != at)]


def test_where_sqlite_has_undone_it_all_who_shared_it_are_told(
    database: SqliteDatabase, meet: Meet
) -> None:
    def undo(connection: Connection) -> None:
        writer.driver_of(connection).execute("ROLLBACK")  # as SQLite does on a full disk, say
        raise LeaseLostError(1, 0, 1)

    assert errors(meet(insert(1), undo)) == [ShardError, LeaseLostError]
    assert numbers(database) == []
    assert errors(meet(insert(2), insert(3))) == [None, None]
    assert numbers(database) == [2, 3]


def test_nothing_is_committed_of_a_transaction_that_was_undone_unnoticed(
    database: SqliteDatabase, meet: Meet
) -> None:
    def undo(connection: Connection) -> None:
        writer.driver_of(connection).execute("ROLLBACK")

    assert errors(meet(insert(1), undo)) == [ShardError, ShardError]
    assert numbers(database) == []


def test_after_an_error_of_the_disk_nobody_relies_on_the_transaction(
    database: SqliteDatabase, meet: Meet
) -> None:
    def fail(_: Connection) -> None:
        error = driver.choose().module.OperationalError("disk I/O error")
        error.sqlite_errorcode = 10
        raise error

    assert errors(meet(insert(1), fail)) == [ShardError, ShardError]
    assert numbers(database) == []


def test_who_gives_up_waiting_leaves_no_transaction_open(
    database: SqliteDatabase, meet: Meet
) -> None:
    database._writer._waiting.append(None)  # one that will not come
    with database.writing() as connection:
        insert(1)(connection)
    assert numbers(database) == [1]


def test_a_transaction_is_not_kept_open_for_ever_newer_threads(
    database: SqliteDatabase, meet: Meet, sql: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_MEMBERS", 2)
    meet(*(insert(number) for number in range(6)))
    assert sql.count("COMMIT") == 3


def test_other_processes_do_not_wait_longer_than_a_moment(
    database: SqliteDatabase, meet: Meet, sql: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LONGEST", 0.0)
    meet(*(insert(number) for number in range(3)))
    assert sql.count("COMMIT") == 3


def test_however_long_the_lock_was_waited_for_threads_share_what_follows(
    database: SqliteDatabase, meet: Meet, sql: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, begin = [0.0], writer._begin_immediate

    def begin_late(connection: Connection, deadline: float) -> None:
        begin(connection, deadline)
        now[0] += 1.0

    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(writer, "_begin_immediate", begin_late)
    monkeypatch.setattr(writer, "LONGEST", 0.5)
    meet(insert(1), insert(2))
    assert sql.count("COMMIT") == 1


def test_vacuum_meets_no_open_transaction(database: SqliteDatabase, meet: Meet) -> None:
    with ThreadPoolExecutor(1) as pool, database.writing() as connection:
        vacuum = pool.submit(database.vacuum)
        while not database._writer._waiting:
            time.sleep(0.001)
        insert(1)(connection)
    vacuum.result(30)
    assert numbers(database) == [1]


def test_who_waits_in_vain_harms_nobody(database: SqliteDatabase) -> None:
    with ThreadPoolExecutor(1) as pool, database.writing() as connection:
        insert(1)(connection)

        def give_up() -> None:
            with database.writing(0.01):
                raise AssertionError

        with pytest.raises(ShardBusyError):
            pool.submit(give_up).result(30)
    assert numbers(database) == [1]
    assert database._writer._waiting == []


def test_a_producer_that_is_interrupted_keeps_no_other_from_going_on(
    data_dir: Any, start_process: Any
) -> None:
    done = start_process(INTERRUPTED_AMONG_OTHERS, data_dir).output(timeout=240)
    assert done[-1] == "as before"
