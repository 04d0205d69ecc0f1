"""Alembic's own command line in a checkout: it walks over all databases of DATA_DIR."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import predecessor

from queue_max import Queue
from queue_max.storage import driver, migrations
from queue_max.storage.directory import Directory
from queue_max.storage.migrations import CONTROL, SHARD, History

OpenDirectory = Callable[..., Directory]
MakeQueue = Callable[..., Queue]

CHECKOUT = Path(__file__).parents[2]


def alembic(data_dir: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=CHECKOUT,
        env=os.environ | {"DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )


def succeeded(data_dir: Path, *arguments: str) -> str:
    result = alembic(data_dir, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def revisions(directory: Directory, history: History) -> list[str | None]:
    return [migrations.revision(each, history) for each in directory.existing(history)]


def snapshot(path: Path) -> dict[str, bytes]:
    files = (each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


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
    return predecessor.make_directory(data_dir, 3)


ALL_SHARDS = ["shard 0:", "shard 1:", "shard 2:"]


@pytest.mark.parametrize("command", [["upgrade", "head"], ["check"]], ids=" ".join)
def test_a_command_walks_over_all_shards_and_changes_no_current_one(
    command: list[str], three_shards: Path
) -> None:
    before = snapshot(three_shards)

    output = succeeded(three_shards, *command)

    assert re.findall("shard .*:", output) == ALL_SHARDS
    assert snapshot(three_shards) == before


@pytest.mark.parametrize("command", [["upgrade", "head"], ["check"]], ids=" ".join)
def test_a_command_for_the_control_database_leaves_the_shards_out(
    command: list[str], three_shards: Path
) -> None:
    before = snapshot(three_shards)

    output = succeeded(three_shards, "-n", "control", *command)

    assert "control database:" in output
    assert "shard " not in output
    assert snapshot(three_shards) == before


@pytest.mark.parametrize(
    ("section", "history", "databases"),
    [("alembic", SHARD, 3), ("control", CONTROL, 1)],
    ids=["shards", "control"],
)
def test_current_tells_the_revision_of_each_database(
    section: str, history: History, databases: int, three_shards: Path
) -> None:
    before = snapshot(three_shards)

    output = succeeded(three_shards, "-n", section, "current")

    assert output.count(f"{history.head} (head)") == databases
    assert snapshot(three_shards) == before


def test_old_shards_are_upgraded_with_their_jobs_and_copied_before(
    old: Path, make_queue: MakeQueue
) -> None:
    output = succeeded(old, "upgrade", "head")

    assert re.findall("shard .*:", output) == ALL_SHARDS
    copies = sorted(path.name for path in (old / "backups").iterdir())
    assert copies == [f"shard_{number}.before-1.0.db" for number in range(3)]
    queue = make_queue()
    assert len(queue.list_jobs(limit=None)) == 3 * len(predecessor.JOBS)


def test_old_shards_do_not_pass_a_check(old: Path) -> None:
    result = alembic(old, "check")

    assert result.returncode != 0
    assert "not up to date" in result.stdout + result.stderr


def test_looking_at_old_shards_does_not_change_them(old: Path) -> None:
    before = snapshot(old)

    output = succeeded(old, "current")

    assert re.findall("shard .*:", output) == ALL_SHARDS
    assert snapshot(old) == before


def test_a_shard_that_differs_from_the_tables_does_not_pass_a_check(three_shards: Path) -> None:
    connection = driver.choose().module.connect(three_shards / "shard_1.db")
    connection.execute("DROP INDEX ix_attempts_uid")
    connection.close()

    result = alembic(three_shards, "check")

    assert result.returncode != 0
    assert "ix_attempts_uid" in result.stdout + result.stderr


def test_all_shards_go_down_and_up_again_with_their_jobs(
    data_dir: Path, make_queue: MakeQueue, open_directory: OpenDirectory
) -> None:
    queue = make_queue(shards=3)
    queue.enqueue_batch({"payload": {"n": n}, "pagina_id": n} for n in range(3))
    queue.close()
    succeeded(data_dir, "downgrade", "0001")
    assert revisions(open_directory(), SHARD) == ["0001"] * 3

    succeeded(data_dir, "upgrade", "head")

    assert revisions(open_directory(), SHARD) == [SHARD.head] * 3
    assert make_queue().get_pending_count() == 3


def test_where_no_queue_lies_a_command_fails_and_makes_nothing(tmp_path: Path) -> None:
    result = alembic(tmp_path / "nowhere", "upgrade", "head")

    assert result.returncode != 0
    assert "there is no queue" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_may_have_any_name(tmp_path: Path, open_directory: OpenDirectory) -> None:
    path = tmp_path / "100% of my? jobs#"
    predecessor.make_directory(path, 2)

    succeeded(path, "upgrade", "head")

    assert revisions(open_directory(path), SHARD) == [SHARD.head] * 2
