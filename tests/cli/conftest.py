"""The command line: called in this process for speed, or as a program of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.programs import WarmProgram

import queue_max
from queue_max.cli.main import commands


@pytest.fixture
def program() -> list[str]:
    """The words that start the program, as the installed script does."""
    # -P: an installed script does not have the current folder on its path.
    return [sys.executable, "-P", "-c", "from queue_max.cli import main; main()"]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    monkeypatch.setenv("NUM_SHARDS", "1")
    monkeypatch.setenv("QUEUE_MAX_DURABILITY", "normal")
    monkeypatch.setenv("PYTHONPATH", str(Path(queue_max.__file__).parents[1]))
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Run a command in this process; an exception that would be a traceback fails the test."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(commands, [*map(str, arguments)], catch_exceptions=False)

    return run


@pytest.fixture
def start(program: list[str]) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the program with pipes; none outlives the test, nor a minute."""
    started: list[tuple[subprocess.Popen[str], threading.Timer]] = []

    def popen(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
        defaults: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        process = subprocess.Popen([*program, *map(str, arguments)], **defaults | options)
        started.append((process, threading.Timer(60, process.kill)))
        started[-1][1].start()
        return process

    yield popen
    for process, end in started:
        end.cancel()
        process.kill()
        process.communicate()


@pytest.fixture
def run_anew(
    start: Callable[..., "subprocess.Popen[str]"],
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the program to its end; variables may be set by keyword."""

    def call(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        process = start(*arguments, env=os.environ | variables)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return call


@pytest.fixture(scope="session")
def warm_program() -> Iterator[WarmProgram]:
    path = {"PYTHONPATH": str(Path(queue_max.__file__).parents[1])}
    warm = WarmProgram("from queue_max.cli import main", "main()", path)
    yield warm
    warm.end()


@pytest.fixture
def run(warm_program: WarmProgram) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """As `run_anew`, in less time: what the program imports is imported already."""

    def call(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        return warm_program.run("queue-max", *arguments, variables=os.environ | variables)

    return call
