"""Fixtures of the chaos suites: chance, a ledger, a nursery, and the closing table."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.support.checker import Verdict
from chaos.support.figures import SEED, Line, as_table
from chaos.support.ledger import Ledger
from chaos.support.nursery import ENVIRONMENT, Child, Nursery
from chaos.support.roles import LEDGER

Fork = Callable[..., Child]
Report = Callable[[str, Verdict], None]

_lines: list[Line] = []


def pytest_report_collectionfinish() -> str:
    return f"chaos: QUEUE_MAX_TEST_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _lines:
        terminalreporter.section(f"chaos, QUEUE_MAX_TEST_SEED={SEED}")
        for line in as_table(_lines):
            terminalreporter.write_line(line)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Enter a line into the closing table: what was done, and its verdict."""
    suite = request.node.module.__name__.rpartition(".")[2].removeprefix("test_")
    return lambda done, verdict: _lines.append(Line(suite, done, verdict))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The test's own source of chance; a failed test shows how to repeat it."""
    print(f"QUEUE_MAX_TEST_SEED={SEED}")  # noqa: T201 - shown where the test fails
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger")
    yield opened
    opened.close()


@pytest.fixture
def settings(data_dir: Path, ledger: Ledger) -> dict[str, object]:
    """What all processes of a test are told: leases are short, and no job is ever given up."""
    return {
        LEDGER: ledger.path,
        "DATA_DIR": data_dir,
        "QUEUE_MAX_RETRIES": 1000,
        "STUCK_TIMEOUT": 2000,
        "HEARTBEAT_INTERVAL": 200,
        "RECOVERY_INTERVAL": 200,
    }


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    opened = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield opened
    opened.close()


@pytest.fixture
def fork(nursery: Nursery, tmp_path: Path, settings: dict[str, object]) -> Iterator[Fork]:
    """Start a role in a child of the nursery; none outlives the test."""
    started: list[Child] = []

    def start(role: str, *, also: dict[str, object] | None = None, **options: Any) -> Child:
        started.append(nursery.fork(role, tmp_path, settings | (also or {}), **options))
        return started[-1]

    yield start
    hanging = [child for child in started if child.signal(signal.SIGUSR1)]
    for child in hanging:
        child.wait(0.2)  # it says where it is
        child.signal(signal.SIGKILL)
        child.wait()
    _show_end_of(tmp_path / "children.log")


@pytest.fixture
def start_program(
    tmp_path: Path, settings: dict[str, object]
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `python -m queue_max` in a process of its own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []
    environment = ENVIRONMENT | {name: str(value) for name, value in settings.items()}

    def start(*arguments: object) -> "subprocess.Popen[str]":
        with (tmp_path / "programs.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "queue_max", *map(str, arguments)],
                cwd=tmp_path,
                env=environment,
                stdout=log,
                stderr=log,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    _show_end_of(tmp_path / "programs.log")


def _show_end_of(log: Path) -> None:
    if log.exists():
        print(log.read_text()[-4000:])  # noqa: T201 - shown where the test fails
