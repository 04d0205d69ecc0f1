"""`queue-max health` and `queue-max doctor`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from queue_max import Queue

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]

each_command = pytest.mark.parametrize("command", ["health", "doctor"])


@pytest.fixture(autouse=True)
def _a_queue(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    make_queue(shards=2).close()
    monkeypatch.setenv("NUM_SHARDS", "2")


@each_command
def test_a_sound_queue_is_told_in_a_table(cli: Cli, command: str) -> None:
    result = cli(command)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["Subject", "State", "Found"]
    assert "shard 1" in result.stdout
    assert "error" not in result.stdout


@each_command
def test_what_is_wrong_is_told_with_what_helps_and_ends_in_5(
    cli: Cli, command: str, data_dir: Path
) -> None:
    (data_dir / "shard_1.db").unlink()
    result = cli(command)
    assert result.exit_code == 5
    assert "shard 1: stop all processes and bring the file back from a backup" in result.stdout
    assert result.stderr == "Error: 1 thing(s) are wrong.\n"


@each_command
def test_all_is_told_as_json(cli: Cli, command: str, data_dir: Path) -> None:
    (data_dir / "shard_1.db").unlink()
    found = json.loads(cli(command, "--json").stdout)
    assert all(each.keys() == {"subject", "level", "what", "remedy"} for each in found)
    assert [each["level"] for each in found if each["subject"].startswith("shard")] == [
        "ok",
        "error",
    ]


@each_command
def test_where_there_is_no_queue_the_exit_code_is_4(
    cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "none"))
    result = cli(command)
    assert result.exit_code == 4
    assert "there is no queue" in result.stderr
