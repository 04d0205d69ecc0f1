"""Checkpoints of one process for all, where SQLite's own are not safe."""

import logging
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from storage.conftest import in_file_itself

from queue_max import Queue
from queue_max.storage.checkpoints import Checkpointer
from queue_max.storage.driver import Driver
from queue_max.storage.sqlite import WAL_LIMIT, SqliteDatabase, SqliteOptions

MakeDatabase = Callable[..., SqliteDatabase]
MakeCheckpointer = Callable[..., Checkpointer]
StartProcess = Callable[..., Any]

MEGABYTE = 1_000_000
LARGE = 5 * MEGABYTE
"""More than the 1000 pages of 4 KiB after which SQLite by itself would checkpoint."""

# Is elected for the directory argv[1], says whether it checkpointed, and stays until a line comes.
CHECKPOINT = """
import sys
from pathlib import Path
from queue_max.storage import driver
from queue_max.storage.checkpoints import Checkpointer
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions
folder = Path(sys.argv[1])
database = SqliteDatabase(folder / "some.db", 0, SqliteOptions())
checkpointer = Checkpointer(folder, [database])
checkpointer.run()
print("elected" if checkpointer._lock else "left alone", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def grown(make_database: MakeDatabase, affected: Driver) -> SqliteDatabase:
    """A file with a large WAL."""
    return grow(make_database())


@pytest.fixture
def checkpointer_for(tmp_path: Path) -> Iterator[MakeCheckpointer]:
    made: list[Checkpointer] = []

    def make(*databases: SqliteDatabase) -> Checkpointer:
        made.append(Checkpointer(tmp_path, databases))
        return made[-1]

    yield make
    for checkpointer in made:
        checkpointer.close()


def grow(database: SqliteDatabase, size: int = LARGE) -> SqliteDatabase:
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (n)")
        connection.exec_driver_sql(f"INSERT INTO t VALUES (randomblob({size}))")
    return database


def rows_in_file(database: SqliteDatabase) -> int:
    """Count the rows that were moved from the WAL into the file."""
    return in_file_itself(database.path, "SELECT count(*) FROM t") or 0


def test_a_wal_that_has_grown_large_is_moved_into_the_file(
    grown: SqliteDatabase, checkpointer_for: MakeCheckpointer
) -> None:
    assert rows_in_file(grown) == 0

    checkpointer_for(grown).run()

    assert rows_in_file(grown) == 1


def test_a_small_wal_is_left_to_grow(
    make_database: MakeDatabase, affected: Driver, checkpointer_for: MakeCheckpointer
) -> None:
    database = grow(make_database(), MEGABYTE)

    checkpointer_for(database).run()

    assert rows_in_file(database) == 0


def test_a_wal_is_moved_again_and_again_and_does_not_grow(
    grown: SqliteDatabase, checkpointer_for: MakeCheckpointer
) -> None:
    checkpointer = checkpointer_for(grown)
    size, _ = grown.wal()

    for rows in range(1, 4):
        checkpointer.run()
        assert rows_in_file(grown) == rows
        grow(grown)

    assert grown.wal()[0] < 1.1 * size


def test_a_wal_that_nobody_wrote_to_is_left_alone(
    grown: SqliteDatabase, checkpointer_for: MakeCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = checkpointer_for(grown)
    checkpointer.run()

    monkeypatch.setattr(grown, "checkpoint", lambda: pytest.fail("checkpoints again"))
    checkpointer.run()


def test_a_wal_that_a_reader_kept_is_tried_again(
    grown: SqliteDatabase, checkpointer_for: MakeCheckpointer
) -> None:
    checkpointer = checkpointer_for(grown)
    with grown.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM t").all()
        grow(grown)
        checkpointer.run()

    checkpointer.run()

    assert rows_in_file(grown) == 2


def test_others_help_where_the_one_who_should_does_not(
    make_database: MakeDatabase, affected: Driver, checkpointer_for: MakeCheckpointer
) -> None:
    database = grow(make_database(), 2 * WAL_LIMIT)
    checkpointer_for().run()

    checkpointer_for(database).run()

    assert rows_in_file(database) == 1


def test_only_one_in_a_directory_makes_checkpoints(
    grown: SqliteDatabase, checkpointer_for: MakeCheckpointer
) -> None:
    first = checkpointer_for()
    first.run()

    checkpointer_for(grown).run()

    assert rows_in_file(grown) == 0


def test_another_takes_over_when_the_first_is_closed(
    grown: SqliteDatabase, checkpointer_for: MakeCheckpointer
) -> None:
    first, second = checkpointer_for(), checkpointer_for(grown)
    first.run()
    second.run()

    first.close()
    second.run()

    assert rows_in_file(grown) == 1


def test_closing_one_that_was_never_elected_or_is_closed_is_harmless(
    grown: SqliteDatabase, checkpointer_for: MakeCheckpointer
) -> None:
    checkpointer = checkpointer_for(grown)
    checkpointer.close()
    checkpointer.run()
    checkpointer.close()
    checkpointer.close()

    assert rows_in_file(grown) == 1


def test_of_two_processes_one_makes_checkpoints_and_the_other_takes_over_when_it_dies(
    grown: SqliteDatabase, start_process: StartProcess, tmp_path: Path
) -> None:
    first = start_process(CHECKPOINT, tmp_path)
    assert first.says() == "elected"

    grow(grown)
    second = start_process(CHECKPOINT, tmp_path)
    assert second.says() == "left alone"
    first.kill()
    first.wait()
    third = start_process(CHECKPOINT, tmp_path)

    assert third.says() == "elected"


def test_a_shard_that_a_reader_keeps_open_does_not_keep_the_others_waiting(
    grown: SqliteDatabase,
    make_database: MakeDatabase,
    checkpointer_for: MakeCheckpointer,
    tmp_path: Path,
) -> None:
    read = grow(make_database(tmp_path / "read.db"))
    with read.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM t").all()
        grow(read)

        checkpointer_for(read, grown).run()

        assert rows_in_file(read) < 2
        assert rows_in_file(grown) == 1


def test_a_shard_that_cannot_be_reached_is_logged_and_does_not_stop_the_others(
    grown: SqliteDatabase,
    checkpointer_for: MakeCheckpointer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = SqliteDatabase(tmp_path / "gone.db", 5, SqliteOptions())
    Path(f"{gone.path}-wal").write_bytes(bytes(LARGE))

    with caplog.at_level(logging.WARNING):
        checkpointer_for(gone, grown).run()

    assert "shard 5" in caplog.text
    assert rows_in_file(grown) == 1


def test_the_lock_can_be_read_by_its_owner_only(
    checkpointer_for: MakeCheckpointer, tmp_path: Path
) -> None:
    checkpointer_for().run()

    assert stat.S_IMODE((tmp_path / "maintenance.lock").stat().st_mode) == 0o600


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def jobs_in_file(data_dir: Path) -> object:
    return in_file_itself(data_dir / "shard_0.db", "SELECT count(*) FROM fila")


def test_a_queue_on_an_affected_library_keeps_its_wals_short(
    affected: Driver, make_queue: Callable[..., Queue], data_dir: Path
) -> None:
    queue = make_queue(shards=1)

    for _ in range(LARGE // MEGABYTE):
        queue.enqueue({"text": "x" * MEGABYTE})

    assert wait_for(lambda: jobs_in_file(data_dir) == LARGE // MEGABYTE)


def test_a_queue_that_is_closed_lets_another_take_over(
    affected: Driver, make_queue: Callable[..., Queue], data_dir: Path
) -> None:
    first, second = make_queue(shards=1), make_queue()
    assert wait_for((data_dir / "maintenance.lock").exists)
    first.close()

    for _ in range(LARGE // MEGABYTE):
        second.enqueue({"text": "x" * MEGABYTE})

    assert wait_for(lambda: jobs_in_file(data_dir) == LARGE // MEGABYTE)


def test_a_queue_on_a_sound_library_leaves_checkpoints_to_it(
    sound: Driver, make_queue: Callable[..., Queue], data_dir: Path
) -> None:
    queue = make_queue(shards=1)

    for _ in range(9 * LARGE // MEGABYTE):
        queue.enqueue({"text": "x" * MEGABYTE})

    assert (data_dir / "shard_0.db-wal").stat().st_size < 5 * LARGE
    assert not (data_dir / "maintenance.lock").exists()
