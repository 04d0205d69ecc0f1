import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from queue_max import Queue
from queue_max.storage import driver
from queue_max.storage.migrations import CONTROL, SHARD

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def _any_number_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUM_SHARDS")


@pytest.fixture
def folder(make_queue: MakeQueue, data_dir: Path) -> Path:
    """A directory of three shards that nobody has open."""
    make_queue(shards=3).close()
    return data_dir


def sql(path: Path, statement: str) -> None:
    connection = driver.choose().module.connect(path, isolation_level=None)
    try:
        connection.execute(statement)
    finally:
        connection.close()


def damage(folder: Path, shard_id: int) -> None:
    (folder / f"shard_{shard_id}.db").write_bytes(b"no database " * 1000)


def set_revision(folder: Path, shard_id: int, revision: str) -> None:
    path = folder / f"shard_{shard_id}.db"
    sql(path, f"UPDATE {SHARD.version_table} SET version_num = '{revision}'")


def forget_that_it_was_made(folder: Path, shard_id: int) -> None:
    """Leave a shard as one whose maker died before its file was there."""
    for path in folder.glob(f"shard_{shard_id}.db*"):
        path.unlink()
    sql(folder / "control.db", f"UPDATE shard_map SET is_new = 1 WHERE shard_id = {shard_id}")


# upgrade


def test_upgrade_makes_a_queue(cli: Cli, data_dir: Path) -> None:
    result = cli("db", "upgrade", "--shards", 2)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"  shard 0: at revision {SHARD.head}\n  shard 1: at revision {SHARD.head}\n"
    )
    with Queue(data_dir=data_dir, auto_migrate=False, create=False) as queue:
        assert queue.num_shards == 2


def test_upgrade_makes_six_shards_unless_told_otherwise(cli: Cli, data_dir: Path) -> None:
    assert len(cli("db", "upgrade").stdout.splitlines()) == 6
    assert len(list(data_dir.glob("shard_*.db"))) == 6


def test_upgrade_takes_the_number_of_shards_from_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setenv("NUM_SHARDS", "1")
    cli("db", "upgrade")
    assert len(list(data_dir.glob("shard_*.db"))) == 1


def test_upgrading_again_changes_nothing(cli: Cli, folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.db")}
    result = cli("db", "upgrade")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.db")} == before


def test_one_damaged_shard_does_not_keep_the_others_from_being_upgraded(
    cli: Cli, folder: Path
) -> None:
    damage(folder, 1)
    forget_that_it_was_made(folder, 2)
    result = cli("db", "upgrade")
    assert result.exit_code == 3
    assert result.stdout == (
        f"  shard 0: at revision {SHARD.head}\n  shard 2: at revision {SHARD.head}\n"
    )
    assert "Error: shard 1: " in result.stderr
    assert "1 shard(s) not upgraded." in result.stderr
    assert (folder / "shard_2.db").stat().st_size > 0


def test_a_shard_that_is_newer_than_the_program_is_not_touched(cli: Cli, folder: Path) -> None:
    set_revision(folder, 1, "9999")
    result = cli("db", "upgrade")
    assert result.exit_code == 3
    assert "shard 1: its tables are at revision 9999" in result.stderr
    assert "upgrade queue-max" in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_a_shard_that_is_missing_is_not_made_anew(cli: Cli, folder: Path) -> None:
    (folder / "shard_1.db").unlink()
    result = cli("db", "upgrade")
    assert result.exit_code == 3
    assert "shard 1" in result.stderr
    assert "missing" in result.stderr
    assert not (folder / "shard_1.db").exists()


def test_another_number_of_shards_is_a_usage_error(cli: Cli, folder: Path) -> None:
    result = cli("db", "upgrade", "--shards", 5)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds 3 shards" in result.stderr


# current and check


def test_current_tells_the_revision_of_each_database(cli: Cli, folder: Path) -> None:
    result = cli("db", "current")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"  control database: {CONTROL.head} (head)",
        *(f"  shard {number}: {SHARD.head} (head)" for number in range(3)),
    ]


@pytest.mark.parametrize("command", ["current", "check"])
def test_json_tells_the_same(cli: Cli, folder: Path, command: str) -> None:
    control, *shards = json.loads(cli("db", command, "--json").stdout)
    assert control == {
        "database": "control database",
        "head": CONTROL.head,
        "revision": CONTROL.head,
        "is_current": True,
    }
    assert shards == [
        {
            "database": f"shard {number}",
            "head": SHARD.head,
            "revision": SHARD.head,
            "is_current": True,
        }
        for number in range(3)
    ]


def test_check_is_content_when_all_is_at_the_newest_revision(cli: Cli, folder: Path) -> None:
    result = cli("db", "check")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_check_fails_when_one_shard_is_older(cli: Cli, folder: Path, options: list[str]) -> None:
    set_revision(folder, 1, "0001")
    assert "  shard 1: 0001\n" in cli("db", "current").stdout
    result = cli("db", "check", *options)
    assert result.exit_code == 3
    assert "queue-max db upgrade" in result.stderr
    assert "0001" in result.stdout


def test_a_shard_without_a_revision_is_told_as_such(cli: Cli, folder: Path) -> None:
    sql(folder / "shard_1.db", f"DROP TABLE {SHARD.version_table}")
    assert "  shard 1: no revision" in cli("db", "current").stdout
    assert json.loads(cli("db", "current", "--json").stdout)[2]["revision"] is None
    assert cli("db", "check").exit_code == 3


@pytest.mark.parametrize("command", ["current", "check"])
def test_one_damaged_shard_does_not_hide_the_others(cli: Cli, folder: Path, command: str) -> None:
    damage(folder, 1)
    result = cli("db", command)
    lines = result.stdout.splitlines()
    assert lines[1] == f"  shard 0: {SHARD.head} (head)"
    assert lines[2].startswith(f"  shard 1: {folder / 'shard_1.db'} is damaged")
    assert lines[3] == f"  shard 2: {SHARD.head} (head)"
    state = json.loads(cli("db", command, "--json").stdout)[2]
    assert (state["revision"], state["is_current"]) == (None, False)
    assert "damaged" in state["error"]


def test_check_does_not_send_to_an_upgrade_what_it_cannot_mend(cli: Cli, folder: Path) -> None:
    (folder / "shard_2.db").unlink()
    result = cli("db", "check")
    assert result.exit_code == 3
    last = result.stdout.splitlines()[-1]
    assert last.startswith(f"  shard 2: {folder / 'shard_2.db'} is missing")
    assert "Bring it back from a backup" in last
    assert result.stderr == "Error: 1 database(s) cannot be used; what is said of each tells why.\n"
    assert not (folder / "shard_2.db").exists()
    assert "missing" in json.loads(cli("db", "check", "--json").stdout)[3]["error"]


def test_check_sends_to_a_newer_program_what_is_newer(cli: Cli, folder: Path) -> None:
    set_revision(folder, 1, "9999")
    result = cli("db", "check")
    assert (result.exit_code, result.stdout.splitlines()[2]) == (3, "  shard 1: 9999")
    assert result.stderr == (
        "Error: 1 database(s) are newer than this program; upgrade queue-max.\n"
    )


def test_check_tells_a_remedy_for_each_kind_of_fault(cli: Cli, folder: Path) -> None:
    set_revision(folder, 0, "0001")
    damage(folder, 1)
    sql(folder / "shard_2.db", f"DROP TABLE {SHARD.version_table}")
    assert cli("db", "check").stderr == (
        "Error: 2 database(s) are not up to date; run `queue-max db upgrade`. "
        "1 database(s) cannot be used; what is said of each tells why.\n"
    )


@pytest.mark.parametrize("command", ["current", "check", "upgrade"])
def test_a_damaged_control_database_is_an_error_of_the_database(
    cli: Cli, folder: Path, command: str
) -> None:
    (folder / "control.db").write_bytes(b"no database " * 1000)
    result = cli("db", command)
    assert result.exit_code == 3
    assert "control database" in result.stderr + result.stdout


@pytest.mark.parametrize("command", ["current", "check"])
def test_looking_makes_nothing(cli: Cli, data_dir: Path, command: str) -> None:
    result = cli("db", command)
    assert (result.exit_code, result.stdout) == (4, "")
    assert str(data_dir) in result.stderr
    assert not data_dir.exists()


@pytest.mark.parametrize("command", ["current", "check"])
def test_looking_changes_nothing(cli: Cli, folder: Path, command: str) -> None:
    set_revision(folder, 0, "0001")
    before = (folder / "shard_0.db").read_bytes()
    cli("db", command)
    assert (folder / "shard_0.db").read_bytes() == before
