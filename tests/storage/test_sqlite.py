"""Single SQLite files: pragmas, whose turn it is to write, faults, rights, and what they cost."""

import json
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from storage.conftest import in_file_itself

from queue_max import Queue
from queue_max.exceptions import (
    ConfigurationError,
    ShardBusyError,
    ShardDamagedError,
    ShardError,
    ShardMissingError,
)
from queue_max.storage.driver import Driver
from queue_max.storage.sqlite import CHECKPOINT_AFTER, SqliteDatabase, SqliteOptions

MakeDatabase = Callable[..., SqliteDatabase]
StartProcess = Callable[..., Any]

STRANGE_NAMES = [
    "100%",
    "50%25 off",
    "what?",
    "a#b",
    "two words",
    "it's",
    'say "hi"',
    "semi;colon&mode=ro",
    "[glob]*",
    "ação",
]

# Takes the write lock of the file argv[1], and keeps it until a line comes in.
HOLD_LOCK = """
import sys
from queue_max.storage import driver
connection = driver.choose().module.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO t VALUES (1)")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@pytest.fixture
def database(make_database: MakeDatabase) -> SqliteDatabase:
    """A file with a table `t`; its writers wait 50 ms for others."""
    return with_table(make_database(busy_timeout_ms=50))


def with_table(database: SqliteDatabase) -> SqliteDatabase:
    run(database, "CREATE TABLE t (n)")
    return database


def run(database: SqliteDatabase, *statements: str) -> None:
    with database.writing() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def count(database: SqliteDatabase) -> int:
    with database.reading() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one())


def tables(database: SqliteDatabase) -> list[str]:
    with database.reading() as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        return list(connection.exec_driver_sql(query).scalars())


def pragma(connection: Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


Opened = Callable[[SqliteDatabase], AbstractContextManager[Connection]]

both_ways = pytest.mark.parametrize(
    "opened", [SqliteDatabase.reading, SqliteDatabase.writing], ids=["reading", "writing"]
)


@both_ways
@pytest.mark.parametrize(("full_sync", "synchronous"), [(True, 2), (False, 1)])
def test_pragmas_hold_on_every_connection(
    make_database: MakeDatabase, opened: Opened, full_sync: bool, synchronous: int
) -> None:
    database = make_database(full_sync=full_sync, cache_size=321)

    with opened(database) as connection:
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == synchronous
        assert pragma(connection, "cache_size") == 321
        assert pragma(connection, "mmap_size") == 0
        assert pragma(connection, "temp_store") == 2  # memory
        assert pragma(connection, "journal_size_limit") == 64 * 1024 * 1024


def test_commits_are_flushed_to_the_disk_unless_told_otherwise() -> None:
    assert SqliteOptions().full_sync
    assert not SqliteOptions().mmap_size


@both_ways
def test_an_affected_library_makes_no_checkpoints_by_itself(
    make_database: MakeDatabase, affected: Driver, opened: Opened
) -> None:
    with opened(make_database()) as connection:
        assert pragma(connection, "wal_autocheckpoint") == 0


@both_ways
def test_a_sound_library_makes_checkpoints_by_itself(
    make_database: MakeDatabase, sound: Driver, opened: Opened
) -> None:
    with opened(make_database()) as connection:
        assert pragma(connection, "wal_autocheckpoint") == CHECKPOINT_AFTER


def test_on_an_affected_library_the_file_itself_is_left_alone_however_long_the_wal(
    make_database: MakeDatabase, affected: Driver
) -> None:
    database = with_table(make_database())
    database.checkpoint()
    before = database.path.stat().st_mtime_ns

    for _ in range(6):
        run(database, "INSERT INTO t VALUES (randomblob(1000000))")

    assert database.wal()[0] > 1000 * 4096
    assert database.path.stat().st_mtime_ns == before


def test_memory_mapping_is_refused_on_an_affected_library(affected: Driver) -> None:
    with pytest.raises(ConfigurationError, match=r"MMAP_SIZE=4096: should be 0 .*3\.40\.1"):
        SqliteOptions(mmap_size=4096)


def test_memory_mapping_may_be_asked_of_a_sound_library(
    make_database: MakeDatabase, sound: Driver
) -> None:
    with make_database(mmap_size=65536).reading() as connection:
        assert pragma(connection, "mmap_size") == 65536


def test_what_was_written_is_there(database: SqliteDatabase) -> None:
    run(database, "INSERT INTO t VALUES (1)")

    assert count(database) == 1


def test_a_writer_holds_the_lock_from_its_beginning(
    database: SqliteDatabase, make_database: MakeDatabase
) -> None:
    other = make_database(database.path)

    with (
        database.writing() as connection,
        pytest.raises(ShardBusyError),
        other.writing(wait=0),
    ):
        connection.exec_driver_sql("SELECT 1")


def test_a_reader_takes_no_lock_and_waits_for_none(
    database: SqliteDatabase, make_database: MakeDatabase
) -> None:
    other = make_database(database.path)

    with other.reading() as reader, database.writing(wait=0) as writer:
        assert reader.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0
        writer.exec_driver_sql("INSERT INTO t VALUES (1)")
        with database.reading() as another:
            assert another.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0


def test_a_reader_sees_one_state_from_its_first_look_to_its_last(
    database: SqliteDatabase,
) -> None:
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0
        run(database, "INSERT INTO t VALUES (1)")
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0

    assert count(database) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_undoes_everything(
    database: SqliteDatabase, error: type[BaseException]
) -> None:
    def work() -> None:
        with database.writing() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            connection.exec_driver_sql("CREATE TABLE made_half_way (n)")
            raise error

    with pytest.raises(error):
        work()

    assert count(database) == 0
    assert tables(database) == ["t"]


def test_a_statement_that_fails_undoes_everything_and_the_next_writer_succeeds(
    database: SqliteDatabase,
) -> None:
    with pytest.raises(ShardError, match="no such table"):
        run(database, "INSERT INTO t VALUES (1)", "INSERT INTO nowhere VALUES (1)")

    run(database, "INSERT INTO t VALUES (2)")

    assert count(database) == 1


def test_tables_are_made_within_the_transaction(
    database: SqliteDatabase, make_database: MakeDatabase
) -> None:
    other = make_database(database.path)

    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE u (n)")
        assert tables(other) == ["t"]

    assert tables(other) == ["t", "u"]


def test_a_writer_waits_for_another_process(
    make_database: MakeDatabase, start_process: StartProcess
) -> None:
    database = with_table(make_database())
    holder = start_process(HOLD_LOCK, database.path)
    assert holder.says() == "held"

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(run, database, "INSERT INTO t SELECT count(*) + 1 FROM t")
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        holder.tell("go on")
        waiting.result(30)

    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT n FROM t").scalars().all() == [1, 2]


def test_a_writer_that_waited_in_vain_is_told_that_the_shard_is_busy(
    database: SqliteDatabase, start_process: StartProcess
) -> None:
    holder = start_process(HOLD_LOCK, database.path)
    assert holder.says() == "held"

    with pytest.raises(ShardBusyError) as caught:
        run(database, "INSERT INTO t VALUES (2)")
    holder.tell("go on")
    holder.wait()

    assert caught.value.shard_id == 3
    assert "locked" not in str(caught.value)
    run(database, "INSERT INTO t VALUES (3)")
    assert count(database) == 2


def test_a_writer_waits_no_longer_than_it_says(
    make_database: MakeDatabase, start_process: StartProcess
) -> None:
    database = with_table(make_database(busy_timeout_ms=600_000))
    holder = start_process(HOLD_LOCK, database.path)
    assert holder.says() == "held"

    with pytest.raises(ShardBusyError), database.writing(wait=0.05):
        pass


def test_a_writer_is_told_when_a_thread_of_its_own_process_holds_the_shard(
    database: SqliteDatabase,
) -> None:
    with database.writing(), ThreadPoolExecutor() as pool:
        waiting = pool.submit(run, database, "INSERT INTO t VALUES (1)")
        with pytest.raises(ShardBusyError) as caught:
            waiting.result(30)

    assert "locked" not in str(caught.value)


def test_readers_for_whom_no_connection_is_left_are_told_that_the_shard_is_busy(
    database: SqliteDatabase,
) -> None:
    with (
        database.reading(),
        database.reading(),
        pytest.raises(ShardBusyError),
        database.reading(),
    ):
        pass


def test_many_threads_write_one_after_the_other(make_database: MakeDatabase) -> None:
    database = with_table(make_database())
    run(database, "INSERT INTO t VALUES (0)")
    start = threading.Barrier(20)

    def work(_number: int) -> None:
        start.wait()
        for _ in range(10):
            with database.writing() as connection:
                found = connection.exec_driver_sql("SELECT n FROM t").scalar_one()
                connection.exec_driver_sql(f"UPDATE t SET n = {found + 1}")

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(20)))

    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT n FROM t").scalar_one() == 200


INCREMENT = """
import sys
from pathlib import Path
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions
database = SqliteDatabase(Path(sys.argv[1]), 0, SqliteOptions(full_sync=False))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(50):
    with database.writing() as connection:
        found = connection.exec_driver_sql("SELECT n FROM t").scalar_one()
        connection.exec_driver_sql(f"UPDATE t SET n = {found + 1}")
database.close()
"""


def test_many_processes_write_one_after_the_other(
    make_database: MakeDatabase, start_process: StartProcess
) -> None:
    database = with_table(make_database())
    run(database, "INSERT INTO t VALUES (0)")
    writers = [start_process(INCREMENT, database.path) for _ in range(4)]
    for writer in writers:
        assert writer.says() == "ready"
    for writer in writers:
        writer.tell("go")

    outputs = [writer.output() for writer in writers]

    assert outputs == [[], [], [], []]
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT n FROM t").scalar_one() == 200


@both_ways
def test_a_file_that_is_missing_is_not_made(tmp_path: Path, opened: Opened) -> None:
    database = SqliteDatabase(tmp_path / "gone.db", 3, SqliteOptions())

    with pytest.raises(ShardMissingError) as caught, opened(database) as connection:
        connection.exec_driver_sql("SELECT 1")

    assert "shard 3: " in str(caught.value)
    assert "gone.db is missing" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@both_ways
def test_a_file_that_vanishes_between_two_openings_is_missed(
    database: SqliteDatabase, make_database: MakeDatabase, opened: Opened
) -> None:
    again = make_database(database.path)
    database.close()
    database.path.unlink()

    with pytest.raises(ShardMissingError), opened(again) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM t")

    assert not database.path.exists()


@both_ways
def test_a_file_that_vanishes_while_it_is_open_is_missed(
    database: SqliteDatabase, opened: Opened
) -> None:
    count(database)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database.path}{suffix}").unlink()

    with pytest.raises(ShardMissingError), opened(database) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM t")

    assert not database.path.exists()


@both_ways
def test_a_file_that_is_replaced_while_it_is_open_is_missed(
    database: SqliteDatabase, opened: Opened, tmp_path: Path
) -> None:
    database.copy_to(tmp_path / "copy.db")
    count(database)
    (tmp_path / "copy.db").replace(database.path)

    with pytest.raises(ShardMissingError), opened(database) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM t")


def test_a_job_is_not_acknowledged_when_its_shard_has_vanished_under_an_open_queue(
    queue: Queue, data_dir: Path
) -> None:
    queue.enqueue({"n": 1})
    (data_dir / "shard_0.db").unlink()

    with pytest.raises(ShardMissingError):
        queue.enqueue({"n": 2})

    assert not (data_dir / "shard_0.db").exists()


@pytest.mark.parametrize(
    "content",
    [b"this is no database" * 100, b"SQLite format 3\0" + bytes(5000)],
    ids=["text", "header only"],
)
@both_ways
def test_a_file_that_is_no_database_is_damaged(
    tmp_path: Path, opened: Opened, content: bytes
) -> None:
    path = tmp_path / "some.db"
    path.write_bytes(content)
    database = SqliteDatabase(path, 3, SqliteOptions())

    with pytest.raises(ShardDamagedError) as caught, opened(database) as connection:
        connection.exec_driver_sql("SELECT * FROM sqlite_master")

    database.close()
    assert "shard 3: " in str(caught.value)
    assert "some.db is damaged" in str(caught.value)
    assert path.read_bytes() == content


def test_a_file_with_a_broken_page_is_damaged_where_that_page_is_needed(
    database: SqliteDatabase, make_database: MakeDatabase
) -> None:
    run(database, "CREATE TABLE u (n)", "INSERT INTO u VALUES (1)", "INSERT INTO t VALUES (1)")
    database.close()
    with open(database.path, "r+b") as file:
        file.seek(4096)  # the second page holds all of t
        file.write(b"\xff" * 4096)
    again = make_database(database.path)

    with pytest.raises(ShardDamagedError):
        count(again)

    with again.reading() as connection:
        assert connection.exec_driver_sql("SELECT n FROM u").scalar_one() == 1


def test_an_error_does_not_quote_what_was_being_stored(database: SqliteDatabase) -> None:
    with pytest.raises(ShardError) as caught, database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO t (nowhere) VALUES (?)", ("secret",))

    assert "secret" not in str(caught.value)
    assert "secret" not in str(caught.value.__cause__)


def test_the_control_database_is_called_so_in_errors(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "control.db", None, SqliteOptions())

    with pytest.raises(ShardMissingError, match="control database: ") as caught:
        count(database)

    assert caught.value.shard_id is None


@pytest.mark.parametrize("umask", [0o000, 0o022], indirect=True)
def test_only_the_owner_can_read_what_a_queue_makes(
    umask: int, make_queue: Callable[..., Queue], data_dir: Path
) -> None:
    queue = make_queue(shards=2)
    queue.enqueue({"n": 1}, pagina_id=0)

    assert mode(data_dir) == 0o700
    files = {path.name: mode(path) for path in data_dir.iterdir()}
    assert {"control.db", "shard_0.db", "shard_0.db-wal", "shard_0.db-shm"} < set(files)
    assert set(files.values()) == {0o600}


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_queue_may_lie_in_a_folder_of_any_name(
    name: str, tmp_path: Path, make_queue: Callable[..., Queue]
) -> None:
    queue = make_queue(data_dir=tmp_path / name, shards=2)
    queue.enqueue_batch([{"payload": {"n": n}, "pagina_id": n} for n in range(2)])
    queue.close()

    again = make_queue(data_dir=tmp_path / name)

    assert again.get_pending_count() == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]
    databases = {path.name for path in (tmp_path / name).glob("*.db")}
    assert databases == {"control.db", "shard_0.db", "shard_1.db"}


def test_a_checkpoint_moves_the_wal_into_the_file(database: SqliteDatabase) -> None:
    run(database, "INSERT INTO t VALUES (1)")
    assert in_file_itself(database.path, "SELECT count(*) FROM t") is None

    assert database.checkpoint()

    assert in_file_itself(database.path, "SELECT count(*) FROM t") == 1
    assert count(database) == 1


def test_after_a_checkpoint_the_wal_is_begun_anew(database: SqliteDatabase) -> None:
    run(database, "INSERT INTO t VALUES (randomblob(1000000))")
    before, _ = database.wal()

    for _ in range(3):
        database.checkpoint()
        run(database, "INSERT INTO t VALUES (randomblob(900000))")

    assert database.wal()[0] == before


def test_a_checkpoint_says_when_a_reader_is_in_the_way(database: SqliteDatabase) -> None:
    with database.reading() as connection:
        connection.exec_driver_sql("SELECT * FROM t").all()
        run(database, "INSERT INTO t VALUES (1)")

        assert not database.checkpoint()

    assert count(database) == 1


def test_no_commit_can_meet_a_checkpoint(
    database: SqliteDatabase, start_process: StartProcess
) -> None:
    run(database, "INSERT INTO t VALUES (1)")
    other = start_process(HOLD_LOCK, database.path)
    assert other.says() == "held"

    with pytest.raises(ShardBusyError):
        database.checkpoint()

    assert in_file_itself(database.path, "SELECT count(*) FROM t") is None


# Fills the WAL, then checkpoints it into a file that may not grow.
FULL_DISK = """
import resource, sys
from pathlib import Path
from queue_max.exceptions import ShardError
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions
path = Path(sys.argv[1])
path.touch()
database = SqliteDatabase(path, 3, SqliteOptions())
database.use_wal()
with database.writing() as connection:
    connection.exec_driver_sql("CREATE TABLE t (n)")
database.checkpoint()
with database.writing() as connection:
    connection.exec_driver_sql("INSERT INTO t VALUES (randomblob(100000))")
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
try:
    database.checkpoint()
except ShardError as error:
    print("refused by shard", error.shard_id)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(database.checkpoint())
"""


def test_a_checkpoint_that_fails_says_so_in_our_words_and_can_be_repeated(
    tmp_path: Path, start_process: StartProcess
) -> None:
    process = start_process(FULL_DISK, tmp_path / "some.db")

    assert process.output() == ["refused by shard 3", "True"]


def test_a_file_that_was_never_opened_has_no_wal(make_database: MakeDatabase) -> None:
    assert make_database().wal() == (0, 0)


def test_a_copy_has_what_is_still_in_the_wal(
    database: SqliteDatabase, make_database: MakeDatabase, tmp_path: Path
) -> None:
    run(database, "INSERT INTO t VALUES (1)")

    database.copy_to(tmp_path / "it's a 'copy'?.db")

    assert count(make_database(tmp_path / "it's a 'copy'?.db")) == 1


def test_a_copy_never_overwrites(database: SqliteDatabase, tmp_path: Path) -> None:
    (tmp_path / "kept.db").write_bytes(b"do not lose me")

    with pytest.raises(ShardError):
        database.copy_to(tmp_path / "kept.db")

    assert (tmp_path / "kept.db").read_bytes() == b"do not lose me"


def test_vacuum_gives_space_back(database: SqliteDatabase) -> None:
    run(database, "INSERT INTO t VALUES (randomblob(1000000))", "DELETE FROM t")

    database.vacuum()

    with database.reading() as connection:
        assert pragma(connection, "freelist_count") == 0
        assert int(str(pragma(connection, "page_count"))) < 10


def test_vacuum_is_told_when_the_shard_is_busy(
    database: SqliteDatabase, start_process: StartProcess
) -> None:
    holder = start_process(HOLD_LOCK, database.path)
    assert holder.says() == "held"

    with pytest.raises(ShardBusyError) as caught:
        database.vacuum()

    assert "locked" not in str(caught.value)


def test_closing_twice_is_harmless_and_leaves_the_one_file(database: SqliteDatabase) -> None:
    database.close()
    database.close()

    assert [path.name for path in database.path.parent.iterdir()] == ["some.db"]


def test_closing_lets_a_transaction_finish_first(
    database: SqliteDatabase, make_database: MakeDatabase
) -> None:
    with ThreadPoolExecutor() as pool:
        with database.writing() as connection:
            closing = pool.submit(database.close)
            with pytest.raises(TimeoutError):
                closing.result(0.05)
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        closing.result(30)

    assert count(make_database(database.path)) == 1


def test_a_file_that_others_read_while_it_is_closed_is_left_once_they_are_done(
    database: SqliteDatabase,
) -> None:
    with database.reading() as connection:
        database.close()
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 0

    # The last one who leaves a file removes its log.
    assert [path.name for path in database.path.parent.iterdir()] == ["some.db"]


# Six shards filled beyond a page cache each, and twenty threads at work on them.
WORK = """
import json, math, os, sys, threading
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], shards=6, rate_limit=math.inf, durability="normal")
text = "x" * 2_000
for first in range(0, 6_000, 50):
    queue.enqueue_batch(
        {"payload": {"text": text}, "pagina_id": n} for n in range(first, first + 50)
    )
start = threading.Barrier(20)
failures = []
def work(name):
    start.wait()
    try:
        for _ in range(15):
            job = queue.pop_job(name)
            queue.heartbeat(job.shard_id, name)
            queue.enqueue(job.payload)
            queue.get_stats()
            queue.list_jobs("pending", limit=5)
            queue.complete_job(job.id, job.shard_id, job.fence)
    except BaseException as error:
        failures.append(repr(error))
threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "failures": failures,
    "files": len(os.listdir("/proc/self/fd")),
    "peak": int(status["VmHWM"].split()[0]) * 1024,
}))
queue.close()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_process_with_six_shards_and_twenty_threads_stays_small(
    data_dir: Path, start_process: StartProcess
) -> None:
    (said,) = start_process(WORK, data_dir).output()

    used = json.loads(said)
    assert used["failures"] == []
    assert used["files"] < 100
    assert used["peak"] < 100_000_000
