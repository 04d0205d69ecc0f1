"""What is left on the disk, and what is kept back."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from queue_max import Queue, QueueFullError
from queue_max.exceptions import ShardMissingError
from queue_max.storage.room import LEAST, RESERVE, Room
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

MakeQueue = Callable[..., Queue]
SetFree = Callable[[int], None]

PLENTY = LEAST + 2 * RESERVE


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.fixture
def reserve(tmp_path: Path) -> Path:
    return tmp_path / "reserve"


@pytest.fixture
def set_free(monkeypatch: pytest.MonkeyPatch) -> SetFree:
    def set_free(amount: int) -> None:
        monkeypatch.setattr(Room, "free", lambda _room: amount)

    return set_free


def test_what_is_free_is_what_an_ordinary_user_may_take(room: Room, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert room.free() == pytest.approx(found.f_bavail * found.f_frsize, rel=0.1)


def test_new_jobs_leave_room_for_those_that_run(room: Room, set_free: SetFree) -> None:
    set_free(LEAST)
    room.require()
    set_free(LEAST - 1)
    with pytest.raises(QueueFullError, match=r"only 4\.0 MiB are left on the disk of .*Make room"):
        room.require()


def test_where_the_folder_is_gone_no_job_is_taken(room: Room, tmp_path: Path) -> None:
    tmp_path.rmdir()
    with pytest.raises(ShardMissingError, match="cannot be reached: No such file"):
        room.require()


def test_a_reserve_is_made_where_there_is_plenty_of_room(
    room: Room, reserve: Path, set_free: SetFree
) -> None:
    set_free(PLENTY - 1)
    room.keep_reserve()
    assert not reserve.exists()
    set_free(PLENTY)
    room.keep_reserve()
    assert reserve.stat().st_size == RESERVE
    assert stat.S_IMODE(reserve.stat().st_mode) == 0o600
    assert reserve.stat().st_blocks * 512 >= RESERVE  # it is no hole


def test_a_reserve_that_was_given_up_is_made_again_when_there_is_room(
    room: Room, reserve: Path, set_free: SetFree
) -> None:
    set_free(PLENTY)
    room.keep_reserve()
    room.give_up_reserve()
    room.give_up_reserve()
    assert not reserve.exists()
    set_free(LEAST)
    room.require()
    assert not reserve.exists()
    set_free(PLENTY)
    room.require()
    assert reserve.exists()


def test_a_database_that_meets_a_full_disk_says_so_and_gives_up_the_reserve(
    tmp_path: Path,
) -> None:
    path = tmp_path / "some.db"
    path.touch()
    given_up: list[bool] = []
    database = SqliteDatabase(path, 3, SqliteOptions(), lambda: given_up.append(True))
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
        connection.exec_driver_sql("PRAGMA max_page_count = 4")
    with (
        pytest.raises(QueueFullError, match="shard 3: there is no room"),
        database.writing() as connection,
    ):
        connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(100000))")
    assert given_up == [True]
    database.close()


def test_a_queue_without_room_takes_no_job_and_ends_those_it_has(
    make_queue: MakeQueue, set_free: SetFree, data_dir: Path
) -> None:
    queue = make_queue()
    assert (data_dir / "reserve").exists()
    queue.enqueue({})
    set_free(LEAST - 1)
    with pytest.raises(QueueFullError):
        queue.enqueue({})
    with pytest.raises(QueueFullError):
        queue.enqueue_batch([{"payload": {}}])
    job = queue.pop_job("w")
    assert job is not None
    assert queue.complete_job(job.id, job.shard_id)
