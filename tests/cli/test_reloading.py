import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.programs import eventually, read_until

from queue_max import Queue
from queue_max.cli.reloading import Changes, folders_of

pytest.importorskip("watchfiles", reason="the extra `reload` is not installed")

Start = Callable[..., "subprocess.Popen[str]"]

VERSION = """
def work(payload):
    with open("ran", "a") as file:
        print({version}, file=file)
    {then}
"""
NOTHING, FOR_EVER = "return", "import time; time.sleep(3600)"


@pytest.fixture
def queue(make_queue: Callable[..., Queue]) -> Queue:
    return make_queue(shards=1)


def ran() -> list[str]:
    return Path("ran").read_text().split() if Path("ran").exists() else []


def test_the_worker_process_follows_its_code(start: Start, queue: Queue, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(VERSION.format(version=1, then=NOTHING))
    process = start("worker", "--function", "mine:work", "--reload")
    queue.enqueue({})
    eventually(lambda: ran() == ["1"])

    code.write_text("def work(payload:\n")
    told = read_until("when a file has changed", process.stderr)
    assert "cannot load mine:work: SyntaxError" in told
    assert "ended with exit code 2 before it began" in told

    code.write_text(VERSION.format(version=2, then=FOR_EVER))
    queue.enqueue({})
    eventually(lambda: ran() == ["1", "2"])

    code.write_text(VERSION.format(version=3, then=NOTHING))
    assert "have 2 s to end" in read_until("Stopping", process.stderr)
    read_until("Took 1 running job(s) back", process.stderr)
    eventually(lambda: ran() == ["1", "2", "3"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_without_watchfiles_it_says_what_to_install(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    result = cli("worker", "--function", "mine:work", "--reload")
    assert result.exit_code == 2
    assert "pip install 'queue-max[reload]'" in result.stderr


def test_a_name_that_is_none_needs_no_change_to_be_wrong(cli: Callable[..., Result]) -> None:
    result = cli("worker", "--function", "mine", "--reload")
    assert result.exit_code == 2
    assert "should be MODULE:FUNCTION" in result.stderr


# What is watched


def test_only_python_files_count_and_each_change_once(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    changes = Changes([tmp_path])
    (tmp_path / "package" / "code.py").touch()
    eventually(changes.have_come)
    (tmp_path / "package" / "data.db").touch()
    assert [changes.have_come() for _ in range(3)] == [False] * 3


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "inside", there / "package"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise SystemExit('nobody is to import this')")
    (there / "single.py").touch()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    monkeypatch.syspath_prepend(there)
    return there


@pytest.mark.parametrize(
    ("module", "watched"),
    [
        ("package.below", ["package"]),
        ("single", ["."]),
        ("inside", []),
        ("sys", []),
        ("no_such_module", []),
    ],
)
def test_the_current_folder_is_watched_and_the_package_of_the_module(
    elsewhere: Path, module: str, watched: list[str]
) -> None:
    assert set(folders_of([module])) == {Path.cwd(), *(elsewhere / name for name in watched)}
