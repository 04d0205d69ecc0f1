"""The data directory: what it stores about itself, and what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, update
from support import predecessor
from support.predecessor import JOBS, Release

from queue_max import Queue
from queue_max.exceptions import (
    ConfigurationError,
    QueueNotFoundError,
    SchemaError,
    ShardDamagedError,
    ShardError,
    ShardMissingError,
)
from queue_max.storage import driver, migrations
from queue_max.storage.directory import Directory
from queue_max.storage.migrations import CONTROL, SHARD
from queue_max.storage.schema import directory as directory_table
from queue_max.storage.schema import shard_map, shard_metadata

OpenDirectory = Callable[..., Directory]
MakeQueue = Callable[..., Queue]


def snapshot(path: Path) -> dict[str, bytes]:
    """Read all files; none may be open."""
    files = (each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


def names(path: Path, pattern: str = "*.db") -> list[str]:
    return sorted(each.name for each in path.glob(pattern))


def execute(path: Path, *statements: str) -> None:
    connection = driver.choose().module.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def identity(directory: Directory) -> str:
    with directory.existing(CONTROL)[0].reading() as connection:
        return str(connection.execute(select(directory_table.c.id)).scalar_one())


def set_aside(directory: Directory, *, auto_migrate: bool = True) -> dict[int | None, ShardError]:
    """Open a directory; gives the shards that it goes on without, and why."""
    opened = directory.open(None, auto_migrate=auto_migrate)
    return {each.shard_id: each.fault for each in opened if each.fault is not None}


@pytest.fixture
def three_shards(open_directory: OpenDirectory, data_dir: Path) -> Path:
    """A directory of three shards that is closed."""
    directory = open_directory()
    directory.open(3)
    directory.close()
    return data_dir


@pytest.fixture
def old(data_dir: Path) -> Path:
    """A directory of three shards as 0.1.1 left it."""
    return predecessor.make_directory(data_dir)


# How many shards.


def test_a_new_directory_has_six_shards_unless_told_otherwise(
    open_directory: OpenDirectory, data_dir: Path
) -> None:
    opened = open_directory().open(None)

    assert [database.shard_id for database in opened] == [0, 1, 2, 3, 4, 5]
    assert names(data_dir) == ["control.db", *(f"shard_{n}.db" for n in range(6))]


@pytest.mark.parametrize("shards", [1, 3, 12])
def test_a_new_directory_has_as_many_shards_as_asked_for_in_order(
    shards: int, open_directory: OpenDirectory
) -> None:
    opened = open_directory().open(shards)

    assert [database.shard_id for database in opened] == list(range(shards))


@pytest.mark.parametrize("shards", [None, 3])
def test_the_stored_number_holds(
    shards: int | None, three_shards: Path, open_directory: OpenDirectory
) -> None:
    assert len(open_directory().open(shards)) == 3
    assert names(three_shards, "shard_*.db") == ["shard_0.db", "shard_1.db", "shard_2.db"]


@pytest.mark.parametrize("shards", [1, 6])
@pytest.mark.parametrize("auto_migrate", [True, False])
def test_another_number_is_refused_and_nothing_is_changed(
    shards: int, auto_migrate: bool, three_shards: Path, open_directory: OpenDirectory
) -> None:
    before = snapshot(three_shards)
    directory = open_directory()

    with pytest.raises(ConfigurationError, match="holds 3 shards") as caught:
        directory.open(shards, auto_migrate=auto_migrate)

    assert f"shards={shards}" in str(caught.value)
    directory.close()
    assert snapshot(three_shards) == before


def test_another_number_as_an_argument_of_the_queue_is_refused(
    three_shards: Path, make_queue: MakeQueue
) -> None:
    with pytest.raises(ConfigurationError, match="holds 3 shards"):
        make_queue(shards=6)


def test_another_number_in_the_environment_is_refused(
    three_shards: Path, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUM_SHARDS", "4")

    with pytest.raises(ConfigurationError, match="holds 3 shards"):
        make_queue()


def test_an_argument_that_fits_beats_an_environment_that_does_not(
    three_shards: Path, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUM_SHARDS", "4")

    assert make_queue(shards=3).num_shards == 3


def test_without_a_number_the_queue_takes_what_is_stored(
    three_shards: Path, make_queue: MakeQueue
) -> None:
    assert make_queue().num_shards == 3


def test_a_directory_of_a_predecessor_has_as_many_shards_as_files(
    old: Path, open_directory: OpenDirectory
) -> None:
    assert len(open_directory().open(None)) == 3
    assert names(old, "shard_*.db") == ["shard_0.db", "shard_1.db", "shard_2.db"]


def test_another_number_than_the_files_of_a_predecessor_is_refused_and_they_are_not_changed(
    old: Path, open_directory: OpenDirectory
) -> None:
    before = snapshot(old)
    directory = open_directory()

    with pytest.raises(ConfigurationError, match="holds 3 shards"):
        directory.open(6)

    directory.close()
    after = snapshot(old)
    assert {name: after[name] for name in before} == before
    assert len(open_directory().open(None)) == 3


@pytest.mark.parametrize("missing", [0, 1])
def test_a_gap_in_the_files_of_a_predecessor_is_refused(
    missing: int, old: Path, open_directory: OpenDirectory
) -> None:
    (old / f"shard_{missing}.db").unlink()
    before = snapshot(old)
    directory = open_directory()

    with pytest.raises(ConfigurationError, match=r"without gaps.*backup"):
        directory.open(None)

    directory.close()
    after = snapshot(old)
    assert {name: after[name] for name in before} == before
    assert not (old / f"shard_{missing}.db").exists()


def test_a_gap_that_was_filled_is_accepted(old: Path, open_directory: OpenDirectory) -> None:
    away = old.parent / "away.db"
    (old / "shard_1.db").rename(away)
    with pytest.raises(ConfigurationError):
        open_directory().open(None)
    away.rename(old / "shard_1.db")

    assert len(open_directory().open(None)) == 3


def test_ten_and_more_shards_keep_their_order(
    data_dir: Path, open_directory: OpenDirectory
) -> None:
    predecessor.make_directory(data_dir, 12)

    opened = open_directory().open(None)

    assert [database.shard_id for database in opened] == list(range(12))


# What is missing, damaged or a stranger's.


@pytest.mark.parametrize("auto_migrate", [True, False])
@pytest.mark.parametrize("missing", [0, 2])
def test_a_shard_that_is_gone_is_missed_and_not_made_anew(
    missing: int, auto_migrate: bool, three_shards: Path, open_directory: OpenDirectory
) -> None:
    (three_shards / f"shard_{missing}.db").unlink()

    [(shard_id, fault)] = set_aside(open_directory(), auto_migrate=auto_migrate).items()

    assert shard_id == missing
    assert isinstance(fault, ShardMissingError)
    assert not (three_shards / f"shard_{missing}.db").exists()


def test_a_shard_that_is_gone_is_missed_by_the_queue_too(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    make_queue(shards=3).close()
    (data_dir / "shard_1.db").unlink()

    queue = make_queue()

    with pytest.raises(ShardMissingError, match="shard 1"):
        queue.enqueue({}, pagina_id=1)
    assert queue.enqueue({}, pagina_id=2)["shard_id"] == 2


def test_where_no_shard_can_serve_none_is_opened(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    for number in range(3):
        (three_shards / f"shard_{number}.db").unlink()
    with pytest.raises(ShardMissingError, match="shard 0"):
        open_directory().open(None)


def test_a_shard_that_is_set_aside_refuses_all_work_and_says_why(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    (three_shards / "shard_1.db").write_bytes(b"garbage" * 1000)
    damaged = open_directory().open(None)[1]
    for _ in range(2):
        with pytest.raises(ShardDamagedError, match=r"shard 1.*is damaged"), damaged.reading():
            pass
        with pytest.raises(ShardDamagedError, match=r"shard 1.*is damaged"), damaged.writing():
            pass


def test_a_shard_that_was_brought_back_is_accepted(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    away = three_shards.parent / "away.db"
    (three_shards / "shard_2.db").rename(away)
    assert list(set_aside(open_directory())) == [2]
    away.rename(three_shards / "shard_2.db")

    assert set_aside(open_directory()) == {}


def test_a_shard_that_was_brought_back_from_a_copy_lets_readers_and_writers_work_as_before(
    three_shards: Path, tmp_path: Path, open_directory: OpenDirectory
) -> None:
    directory = open_directory()
    directory.open(None)[1].copy_to(tmp_path / "copy.db")
    directory.close()
    (tmp_path / "copy.db").replace(three_shards / "shard_1.db")

    with open_directory().open(None)[1].reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_shard_that_was_emptied_is_not_taken_for_a_new_one(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    make_queue(shards=1).close()
    (data_dir / "shard_0.db").write_bytes(b"")

    with pytest.raises(ShardError):
        make_queue()


def test_a_damaged_shard_is_set_aside_as_such_and_said(
    three_shards: Path, open_directory: OpenDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (three_shards / "shard_1.db").write_bytes(b"garbage" * 1000)

    [(shard_id, fault)] = set_aside(open_directory()).items()

    assert shard_id == 1
    assert isinstance(fault, ShardDamagedError)
    assert [record.getMessage() for record in caplog.records] == [f"going on without it: {fault}"]


def test_a_shard_that_names_itself_twice_is_set_aside_as_damaged(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    twice = "INSERT INTO shard_metadata (shard_id, created_at) VALUES (7, '')"
    execute(three_shards / "shard_1.db", twice)

    [(shard_id, fault)] = set_aside(open_directory()).items()

    assert shard_id == 1
    assert isinstance(fault, ShardDamagedError)


def test_a_damaged_control_database_is_refused_as_such(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    (three_shards / "control.db").write_bytes(b"garbage" * 1000)

    with pytest.raises(ShardDamagedError, match="control database"):
        open_directory().open(None)


def test_a_damaged_shard_does_not_keep_the_others_from_being_upgraded(
    old: Path, open_directory: OpenDirectory
) -> None:
    (old / "shard_1.db").write_bytes(b"garbage" * 1000)
    directory = open_directory()

    found = {database.shard_id: error for database, error in directory.upgrade()}

    assert (found[0], found[2]) == (None, None)
    assert isinstance(found[1], ShardDamagedError)
    revisions = [
        migrations.revision(database, SHARD)
        for database in directory.existing(SHARD)
        if database.shard_id != 1
    ]
    assert revisions == [SHARD.head, SHARD.head]


def test_a_missing_shard_does_not_keep_the_others_from_being_upgraded(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    (three_shards / "shard_0.db").unlink()

    found = [error for _database, error in open_directory().upgrade()]

    assert isinstance(found[0], ShardMissingError)
    assert found[1:] == [None, None]


@pytest.mark.parametrize("auto_migrate", [True, False])
def test_a_shard_of_another_queue_is_refused(
    auto_migrate: bool, three_shards: Path, tmp_path: Path, open_directory: OpenDirectory
) -> None:
    other = open_directory(tmp_path / "other")
    other.open(3)
    other.close()
    shutil.copy(tmp_path / "other" / "shard_1.db", three_shards / "shard_1.db")

    [(shard_id, fault)] = set_aside(open_directory(), auto_migrate=auto_migrate).items()

    assert shard_id == 1
    assert "belongs to another queue" in str(fault)


def test_a_shard_in_the_place_of_another_of_the_same_queue_is_refused(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    shutil.copy(three_shards / "shard_0.db", three_shards / "shard_1.db")

    assert list(set_aside(open_directory())) == [1]


def test_a_file_of_a_stranger_is_refused_and_not_touched(
    data_dir: Path, open_directory: OpenDirectory
) -> None:
    data_dir.mkdir()
    stranger = data_dir / "shard_0.db"
    execute(stranger, "PRAGMA journal_mode = wal", "CREATE TABLE fila (titulo TEXT)")
    stranger.chmod(0o644)
    before = stranger.read_bytes()
    directory = open_directory()

    with pytest.raises(SchemaError, match="not touched"):
        directory.open(None)

    directory.close()
    assert stranger.read_bytes() == before
    assert stranger.stat().st_mode & 0o777 == 0o644


def test_a_directory_that_cannot_be_made_is_an_error_of_ours(
    tmp_path: Path, open_directory: OpenDirectory
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ShardError, match="Not a directory"):
        open_directory(tmp_path / "file" / "data").open(None)


# The map and its mirrors.


def test_each_shard_mirrors_identity_number_and_place(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    directory = open_directory()
    mirror = select(
        shard_metadata.c.shard_id, shard_metadata.c.directory_id, shard_metadata.c.num_shards
    )

    for database in directory.open(None):
        with database.reading() as connection:
            found = connection.execute(mirror).one()
        assert tuple(found) == (database.shard_id, identity(directory), 3)


def test_two_directories_have_two_identities(tmp_path: Path, open_directory: OpenDirectory) -> None:
    one, other = open_directory(tmp_path / "one"), open_directory(tmp_path / "other")
    one.open(1)
    other.open(1)

    assert identity(one) != identity(other)


@pytest.mark.parametrize("shards", [None, 3])
def test_a_lost_control_database_is_made_anew_from_the_shards(
    shards: int | None, make_queue: MakeQueue, data_dir: Path, open_directory: OpenDirectory
) -> None:
    queue = make_queue(shards=3)
    queue.enqueue_batch({"payload": {"n": n}, "pagina_id": n} for n in range(3))
    queue.close()
    directory = open_directory()
    before = identity(directory)
    directory.close()
    for path in data_dir.glob("control.db*"):
        path.unlink()

    again = make_queue(shards=shards)

    assert again.get_pending_count() == 3
    assert identity(open_directory()) == before


@pytest.mark.parametrize("missing", [0, 2])
def test_a_shard_that_is_gone_is_missed_even_when_the_control_database_is_lost(
    missing: int, three_shards: Path, open_directory: OpenDirectory
) -> None:
    (three_shards / "control.db").unlink()
    (three_shards / f"shard_{missing}.db").unlink()

    assert list(set_aside(open_directory())) == [missing]
    assert not (three_shards / f"shard_{missing}.db").exists()


def test_another_number_is_refused_even_when_the_control_database_is_lost(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    (three_shards / "control.db").unlink()

    with pytest.raises(ConfigurationError, match="holds 3 shards"):
        open_directory().open(2)


# Starts that were cut short: the map is written first, then the files, one after the other.


def forget_files(open_directory: OpenDirectory, *, from_shard: int) -> None:
    """Leave a directory of three shards as a starter does that dies before making that file."""
    directory = open_directory()
    directory.open(3)
    with directory.existing(CONTROL)[0].writing() as connection:
        not_made = shard_map.c.shard_id >= from_shard
        connection.execute(update(shard_map).where(not_made).values(is_new=1))
    directory.close()
    for number in range(from_shard, 3):
        (directory.path / f"shard_{number}.db").unlink()


def test_a_start_that_was_cut_short_before_the_files_is_completed(
    data_dir: Path, open_directory: OpenDirectory
) -> None:
    forget_files(open_directory, from_shard=0)
    assert names(data_dir) == ["control.db"]

    opened = open_directory().open(None)

    assert len(opened) == 3
    assert names(data_dir, "shard_*.db") == ["shard_0.db", "shard_1.db", "shard_2.db"]


def test_a_start_that_was_cut_short_between_the_files_is_completed(
    data_dir: Path, open_directory: OpenDirectory
) -> None:
    forget_files(open_directory, from_shard=1)
    (data_dir / "shard_1.db").touch()  # made, but without tables yet

    assert len(open_directory().open(None)) == 3


def test_a_start_that_was_cut_short_keeps_its_number(open_directory: OpenDirectory) -> None:
    forget_files(open_directory, from_shard=0)

    with pytest.raises(ConfigurationError, match="holds 3 shards"):
        open_directory().open(4)


def test_once_made_a_shard_is_not_new_any_more(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    with open_directory().existing(CONTROL)[0].reading() as connection:
        assert connection.execute(select(shard_map.c.is_new)).scalars().all() == [0, 0, 0]


def test_a_start_that_was_cut_short_is_refused_where_nothing_may_be_made(
    data_dir: Path, open_directory: OpenDirectory
) -> None:
    forget_files(open_directory, from_shard=0)
    before = snapshot(data_dir)
    directory = open_directory()

    with pytest.raises(ShardError):
        directory.open(None, auto_migrate=False)

    directory.close()
    assert snapshot(data_dir) == before


def test_a_shard_that_the_map_takes_for_new_is_not_used_until_that_is_settled(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    execute(three_shards / "control.db", "UPDATE shard_map SET is_new = 1")

    # Used now and then deleted, it would be made anew, since it was never known to be made.
    with pytest.raises(SchemaError, match="queue-max db upgrade"):
        open_directory().open(None, auto_migrate=False)

    directory = open_directory()
    directory.open(None)
    directory.close()
    (three_shards / "shard_0.db").unlink()
    assert list(set_aside(open_directory())) == [0]


@pytest.mark.parametrize("step", [migrations.adopt, migrations.upgrade])
def test_an_upgrade_that_was_cut_short_is_completed(
    step: Callable[..., None],
    old: Path,
    tmp_path: Path,
    make_queue: MakeQueue,
    open_directory: OpenDirectory,
) -> None:
    shutil.copy(old / "shard_0.db", tmp_path / "kept.db")
    make_queue().close()
    shutil.copy(tmp_path / "kept.db", old / "shard_0.db")
    directory = open_directory()
    step(directory.existing(SHARD)[0], SHARD, directory.backups)
    directory.close()

    queue = make_queue()

    assert queue.get_stats()["pending"] == 3 * 4


@pytest.mark.parametrize("step", [migrations.adopt, migrations.upgrade])
def test_a_directory_whose_shards_alembic_alone_has_touched_can_be_opened(
    step: Callable[..., None], old: Path, make_queue: MakeQueue, open_directory: OpenDirectory
) -> None:
    directory = open_directory()
    for shard in directory.existing(SHARD):
        step(shard, SHARD, directory.backups)
    directory.close()

    queue = make_queue()

    assert queue.num_shards == 3
    assert queue.get_stats()["pending"] == 3 * 4


def test_a_shard_without_a_row_about_itself_gets_one(data_dir: Path, make_queue: MakeQueue) -> None:
    predecessor.make_directory(data_dir, 1)
    execute(data_dir / "shard_0.db", "DELETE FROM shard_metadata")

    queue = make_queue()

    job = queue.pop_job("w")
    assert job is not None
    queue.complete_job(job.id, job.shard_id)
    assert queue.get_stats()["completed"] == 1


def test_a_shard_file_of_a_predecessor_that_is_empty_is_filled_with_tables(
    data_dir: Path, make_queue: MakeQueue
) -> None:
    predecessor.make_directory(data_dir, 2)
    (data_dir / "shard_1.db").write_bytes(b"")

    queue = make_queue()

    queue.enqueue({"n": 1}, pagina_id=1)
    assert queue.get_stats()["pending"] == 4 + 1


# Directories of predecessors, through the queue.


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("release", Release)
def test_all_jobs_of_a_predecessor_are_there(
    release: Release, killed: bool, data_dir: Path, make_queue: MakeQueue
) -> None:
    predecessor.make_directory(data_dir, 3, release, killed=killed)

    queue = make_queue()

    found = [job.payload for job in queue.list_jobs(limit=None)]
    expected = [{"name": name, "shard": shard} for name in JOBS for shard in range(3)]
    assert sorted(found, key=str) == sorted(expected, key=str)
    stats = queue.get_stats()
    assert (stats["pending"], stats["scheduled"]) == (3 * 4, 3)
    assert (stats["processing"], stats["failed"], stats["completed"]) == (3, 3, 3)
    for shard in range(3):
        (letter,) = queue.shard_manager.get_dead_letter_queue(shard)
        assert (letter["original_job_id"], letter["error"]) == (6, "boom")


@pytest.mark.parametrize("release", Release)
def test_jobs_of_a_predecessor_go_on(
    release: Release, data_dir: Path, make_queue: MakeQueue
) -> None:
    predecessor.make_directory(data_dir, 3, release)
    queue = make_queue()
    assert queue.recover_orphans() == 3
    assert queue.retry_failed_jobs() == 3

    ran = []
    while job := queue.pop_job("w"):
        queue.complete_job(job.id, job.shard_id, job.fence)
        ran.append(job.payload["name"])

    assert sorted(ran) == sorted(3 * [name for name in JOBS if name != "not yet due"])
    assert queue.get_stats()["scheduled"] == 3


def test_a_new_job_is_not_taken_for_one_that_a_predecessor_had(
    old: Path, make_queue: MakeQueue
) -> None:
    assert make_queue().enqueue({"n": 1}, pagina_id=0)["id"] == predecessor.LAST_ID + 1


def test_each_file_of_a_predecessor_is_copied_once(old: Path, make_queue: MakeQueue) -> None:
    make_queue().close()
    copies = snapshot(old / "backups")

    queue = make_queue()
    queue.enqueue({"n": 1})
    queue.close()

    assert sorted(copies) == [f"shard_{n}.before-1.0.db" for n in range(3)]
    assert snapshot(old / "backups") == copies


@pytest.mark.parametrize("killed", [False, True])
def test_only_the_owner_can_read_the_files_of_a_predecessor_after_an_upgrade(
    killed: bool, data_dir: Path, make_queue: MakeQueue
) -> None:
    predecessor.make_directory(data_dir, 1, killed=killed)
    for path in data_dir.iterdir():
        path.chmod(0o644)

    make_queue().enqueue({"n": 1})

    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in data_dir.glob("*.db*")}
    assert set(modes) >= {"control.db", "shard_0.db", "shard_0.db-wal", "shard_0.db-shm"}
    assert modes == dict.fromkeys(modes, "0o600")


# Where nothing may be migrated.


def test_without_migrating_a_new_directory_is_refused_and_not_made(
    open_directory: OpenDirectory, data_dir: Path
) -> None:
    with pytest.raises(SchemaError, match=f"run `queue-max db upgrade --data-dir {data_dir}`"):
        open_directory().open(None, auto_migrate=False)

    assert not data_dir.exists()


def test_without_migrating_a_directory_of_a_predecessor_is_refused_and_not_changed(
    old: Path, make_queue: MakeQueue
) -> None:
    before = snapshot(old)

    with pytest.raises(SchemaError, match="queue-max db upgrade"):
        make_queue(auto_migrate=False)

    assert snapshot(old) == before


@pytest.mark.parametrize("history", ["shard", "control"])
def test_without_migrating_an_old_revision_is_refused_and_not_changed(
    history: str, three_shards: Path, open_directory: OpenDirectory
) -> None:
    name, table = {
        "shard": ("shard_2.db", SHARD.version_table),
        "control": ("control.db", CONTROL.version_table),
    }[history]
    execute(three_shards / name, f"UPDATE {table} SET version_num = '0000'")
    before = snapshot(three_shards)
    directory = open_directory()

    with pytest.raises(SchemaError, match=r"revision 0000.*queue-max db upgrade"):
        directory.open(None, auto_migrate=False)

    directory.close()
    assert snapshot(three_shards) == before


@pytest.mark.parametrize("auto_migrate", [True, False])
@pytest.mark.parametrize("history", ["shard", "control"])
def test_a_database_that_is_newer_than_the_code_is_refused_and_not_changed(
    history: str, auto_migrate: bool, three_shards: Path, open_directory: OpenDirectory
) -> None:
    name, table = {
        "shard": ("shard_2.db", SHARD.version_table),
        "control": ("control.db", CONTROL.version_table),
    }[history]
    execute(three_shards / name, f"UPDATE {table} SET version_num = '9999'")
    before = snapshot(three_shards)
    directory = open_directory()

    with pytest.raises(SchemaError, match=r"revision 9999.*upgrade queue-max"):
        directory.open(None, auto_migrate=auto_migrate)

    directory.close()
    assert snapshot(three_shards) == before


def test_without_migrating_a_current_directory_is_opened(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    assert len(open_directory().open(None, auto_migrate=False)) == 3


def test_opening_a_current_directory_writes_nothing(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    before = snapshot(three_shards)
    directory = open_directory()

    directory.open(None)

    directory.close()
    assert snapshot(three_shards) == before


def test_opening_a_current_directory_waits_for_no_writer(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    busy = open_directory()
    shard, control = busy.open(None)[0], busy.existing(CONTROL)[0]

    with shard.writing(), control.writing():
        assert len(open_directory().open(None)) == 3


# What is there, in whatever state.


def test_a_directory_exists_when_it_holds_a_queue_of_any_version(
    three_shards: Path, tmp_path: Path, open_directory: OpenDirectory
) -> None:
    predecessor.make_directory(tmp_path / "old", 1)
    (tmp_path / "empty").mkdir()

    assert open_directory().exists()
    assert open_directory(tmp_path / "old").exists()
    assert not open_directory(tmp_path / "empty").exists()
    assert not open_directory(tmp_path / "nowhere").exists()


def test_where_no_queue_lies_nothing_is_found_and_nothing_made(
    tmp_path: Path, open_directory: OpenDirectory
) -> None:
    with pytest.raises(QueueNotFoundError):
        open_directory(tmp_path / "nowhere").existing(SHARD)

    assert not (tmp_path / "nowhere").exists()


def test_the_shards_of_a_predecessor_are_found_as_they_are(
    old: Path, open_directory: OpenDirectory
) -> None:
    before = snapshot(old)
    directory = open_directory()

    found = directory.existing(SHARD)

    assert [database.shard_id for database in found] == [0, 1, 2]
    assert [migrations.revision(database, SHARD) for database in found] == [None] * 3
    assert directory.existing(CONTROL) == []
    directory.close()
    assert snapshot(old) == before


def test_a_missing_shard_is_among_those_that_are_found(
    three_shards: Path, open_directory: OpenDirectory
) -> None:
    (three_shards / "shard_1.db").unlink()

    found = open_directory().existing(SHARD)

    assert [database.shard_id for database in found] == [0, 1, 2]


def test_a_relative_path_is_fixed_when_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_directory: OpenDirectory
) -> None:
    directory = open_directory(Path("data"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    directory.open(1)

    assert (tmp_path / "data" / "shard_0.db").exists()
