"""What is wrong with a queue is found, named, and told with what helps."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from queue_max.exceptions import QueueNotFoundError
from queue_max.queue import Queue
from queue_max.services import diagnosis as diagnosis_module
from queue_max.services.diagnosis import Diagnosis, Finding, Level
from queue_max.storage import driver, filesystem
from queue_max.storage.directory import Directory
from queue_max.storage.room import LEAST, Room
from queue_max.storage.sqlite import SqliteOptions

MakeQueue = Callable[..., Queue]

SHARDS = 3


@pytest.fixture
def folder(make_queue: MakeQueue, data_dir: Path) -> Path:
    """A closed queue with two jobs a shard."""
    with make_queue(shards=SHARDS) as queue:
        queue.enqueue_batch([{"payload": {"n": n}, "pagina_id": n} for n in range(2 * SHARDS)])
    return data_dir


@pytest.fixture
def diagnosis(folder: Path) -> Iterator[Diagnosis]:
    directory = Directory(folder, SqliteOptions())
    yield Diagnosis(directory, timedelta(minutes=5))
    directory.close()


def execute(path: Path, statement: str) -> None:
    connection = driver.choose().module.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def faults(found: Iterator[Finding]) -> list[tuple[str, Level]]:
    return [
        (each.subject, each.level)
        for each in found
        if each.level is not Level.OK and each.subject != "SQLite"
    ]


def test_of_a_sound_queue_all_is_well(diagnosis: Diagnosis) -> None:
    assert faults(diagnosis.health()) == []
    assert faults(diagnosis.examine()) == []
    subjects = [each.subject for each in diagnosis.examine()]
    assert subjects == [
        *("disk", "SQLite", "file system", "permissions"),
        *("control database", "shard 0", "shard 1", "shard 2"),
    ]


def test_looking_changes_nothing(diagnosis: Diagnosis, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*.db")}
    list(diagnosis.examine())
    assert {path.name: path.read_bytes() for path in folder.glob("*.db")} == before


def test_where_no_queue_lies_there_is_none_to_look_at(tmp_path: Path) -> None:
    directory = Directory(tmp_path, SqliteOptions())
    with pytest.raises(QueueNotFoundError):
        list(Diagnosis(directory, timedelta(minutes=5)).health())


@pytest.mark.parametrize("look", [Diagnosis.health, Diagnosis.examine])
def test_a_missing_shard_is_named_and_the_others_are_looked_at(
    look: Callable[[Diagnosis], Iterator[Finding]], diagnosis: Diagnosis, folder: Path
) -> None:
    (folder / "shard_1.db").unlink()
    assert faults(look(diagnosis)) == [("shard 1", Level.ERROR)]
    [missing] = [each for each in look(diagnosis) if each.level is Level.ERROR]
    assert "backup" in missing.remedy


@pytest.mark.parametrize("look", [Diagnosis.health, Diagnosis.examine])
def test_a_shard_of_another_queue_is_named(
    look: Callable[[Diagnosis], Iterator[Finding]], diagnosis: Diagnosis, folder: Path
) -> None:
    shutil.copy(folder / "shard_0.db", folder / "shard_2.db")
    assert faults(look(diagnosis)) == [("shard 2", Level.ERROR)]


@pytest.mark.parametrize("look", [Diagnosis.health, Diagnosis.examine])
def test_without_the_control_database_it_is_told_how_to_make_it_anew(
    look: Callable[[Diagnosis], Iterator[Finding]], diagnosis: Diagnosis, folder: Path
) -> None:
    (folder / "control.db").unlink()
    assert faults(look(diagnosis)) == [("control database", Level.ERROR)]
    assert list(look(diagnosis))[-1].remedy.startswith("`queue-max db upgrade`")


@pytest.mark.parametrize("look", [Diagnosis.health, Diagnosis.examine])
def test_a_damaged_control_database_is_named(
    look: Callable[[Diagnosis], Iterator[Finding]], diagnosis: Diagnosis, folder: Path
) -> None:
    (folder / "control.db").write_bytes(b"no database " * 1000)
    assert faults(look(diagnosis)) == [("control database", Level.ERROR)]


@pytest.mark.parametrize("look", [Diagnosis.health, Diagnosis.examine])
@pytest.mark.parametrize(
    ("revision", "remedy"), [("0001", "run `queue-max db upgrade`"), ("9999", "upgrade queue-max")]
)
def test_tables_that_are_too_old_or_too_new_are_named(
    look: Callable[[Diagnosis], Iterator[Finding]],
    diagnosis: Diagnosis,
    folder: Path,
    revision: str,
    remedy: str,
) -> None:
    execute(folder / "shard_0.db", f"UPDATE alembic_version SET version_num = '{revision}'")
    [found] = [each for each in look(diagnosis) if each.level is Level.ERROR]
    assert (found.subject, found.remedy) == ("shard 0", remedy)


def test_a_file_whose_pages_do_not_fit_together_is_named(
    diagnosis: Diagnosis, folder: Path
) -> None:
    path = folder / "shard_0.db"
    execute(path, "PRAGMA writable_schema = ON")
    content = bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    path.write_bytes(content)
    assert ("shard 0", Level.ERROR) in faults(diagnosis.examine())


def test_a_damaged_job_is_named(diagnosis: Diagnosis, folder: Path) -> None:
    execute(folder / "shard_1.db", "UPDATE fila SET payload = '{\"n\":9}' WHERE id = 2")
    [found] = [each for each in diagnosis.examine() if each.level is Level.ERROR]
    assert found.subject == "shard 1"
    assert found.what.startswith("1 jobs are damaged: 1-")


def test_jobs_of_silent_workers_are_told(diagnosis: Diagnosis, folder: Path) -> None:
    execute(
        folder / "shard_1.db",
        "UPDATE fila SET status = 'processing', heartbeat = '2026-01-31T08:00:00.000Z'",
    )
    [found] = [each for each in diagnosis.examine() if each.subject == "shard 1"]
    assert (found.level, found.what) == (
        Level.WARNING,
        "2 jobs run whose workers are silent",
    )


def test_a_log_that_cannot_be_cut_back_is_told(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis_module, "WAL_LIMIT", -1)
    assert faults(diagnosis.examine()) == [
        (f"shard {number}", Level.WARNING) for number in range(SHARDS)
    ]


@pytest.mark.parametrize(
    ("free", "level"), [(LEAST - 1, Level.ERROR), (LEAST, Level.WARNING), (2**40, Level.OK)]
)
def test_the_room_on_the_disk_is_told(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, free: int, level: Level
) -> None:
    monkeypatch.setattr(Room, "free", lambda _room: free)
    assert [each.level for each in diagnosis.health() if each.subject == "disk"] == [level]


def test_a_network_file_system_is_named(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "kind_of", lambda _folder: "nfs4")
    assert faults(diagnosis.examine()) == [("file system", Level.ERROR)]


def test_files_that_others_may_open_are_named(diagnosis: Diagnosis, folder: Path) -> None:
    (folder / "shard_2.db").chmod(0o644)
    [found] = [each for each in diagnosis.examine() if each.subject == "permissions"]
    assert (found.level, found.remedy) == (Level.WARNING, f"chmod go= {folder / 'shard_2.db'}")


@pytest.mark.parametrize(("has_bug", "level"), [(True, Level.WARNING), (False, Level.OK)])
def test_the_library_is_told(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, has_bug: bool, level: Level
) -> None:
    monkeypatch.setattr(driver, "has_wal_reset_bug", lambda _version: has_bug)
    assert [each.level for each in diagnosis.examine() if each.subject == "SQLite"] == [level]


def test_jobs_that_nobody_could_run_are_named(diagnosis: Diagnosis, folder: Path) -> None:
    held = "UPDATE fila SET status = 'scheduled', held_by = 'task:mail.send@2'"
    execute(folder / "shard_1.db", held)
    for found in (diagnosis.health(), diagnosis.examine()):
        (finding,) = [each for each in found if "mail.send" in each.what]
        assert (finding.subject, finding.level) == ("shard 1", Level.WARNING)
        assert finding.what == "2 jobs wait for a worker that knows the task mail.send, version 2"
        assert finding.remedy is not None
        assert "--app MODULE" in finding.remedy
