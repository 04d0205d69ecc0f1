"""Fixtures: files and directories that are closed at the end, and other processes."""

import os
import shutil
import signal
import sqlite3.dbapi2
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from queue_max.storage import driver
from queue_max.storage.directory import Directory
from queue_max.storage.driver import Driver
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

MakeDatabase = Callable[..., SqliteDatabase]
OpenDirectory = Callable[..., Directory]


class OtherProcess(subprocess.Popen[str]):
    """A process that is talked to line by line."""

    def says(self) -> str:
        """Wait for its next line."""
        assert self.stdout is not None
        return self.stdout.readline().rstrip("\n")

    def tell(self, line: str = "") -> None:
        """Send it a line."""
        assert self.stdin is not None
        self.stdin.write(f"{line}\n")
        self.stdin.flush()

    def output(self, timeout: float | None = None) -> list[str]:
        """Wait for its end; gives the lines it has still to say."""
        return self.communicate(timeout=timeout)[0].splitlines()


StartProcess = Callable[..., OtherProcess]


@pytest.fixture
def make_database(tmp_path: Path) -> Iterator[MakeDatabase]:
    """Open a file as a database, an empty one unless it is there already."""
    opened: list[SqliteDatabase] = []

    def make(path: Path | None = None, shard_id: int | None = 3, **options: Any) -> SqliteDatabase:
        path = path or tmp_path / "some.db"
        is_new = not path.exists()
        path.touch()
        database = SqliteDatabase(path, shard_id, SqliteOptions(**{"full_sync": False} | options))
        opened.append(database)
        if is_new:
            database.use_wal()
        return database

    yield make
    for database in opened:
        database.close()


def in_file_itself(path: Path, query: str) -> Any:
    """Ask the file as it is without its WAL; None when it cannot tell."""
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    with closing(driver.choose().module.connect(copy)) as connection:
        try:
            return connection.execute(query).fetchone()[0]
        except driver.choose().module.DatabaseError:
            return None


@pytest.fixture
def open_directory(data_dir: Path) -> Iterator[OpenDirectory]:
    """Name a data directory; its files are closed at the end."""
    opened: list[Directory] = []

    def name(path: Path | None = None) -> Directory:
        opened.append(Directory(path or data_dir, SqliteOptions(full_sync=False)))
        return opened[-1]

    yield name
    for directory in opened:
        directory.close()


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """Run Python code in a process of its own; it and its children are killed at the end."""
    started: list[OtherProcess] = []

    def start(code: str, *arguments: object) -> OtherProcess:
        process = OtherProcess(
            # That a process with threads forks is just what some tests are about.
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def affected(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Let the process believe that its SQLite has the WAL-reset bug."""
    chosen = Driver(sqlite3.dbapi2, (3, 40, 1))
    monkeypatch.setattr(driver, "choose", lambda: chosen)
    return chosen


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Let the process believe that its SQLite is free of the WAL-reset bug."""
    chosen = Driver(driver.choose().module, (3, 53, 4))
    monkeypatch.setattr(driver, "choose", lambda: chosen)
    return chosen


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask that a test is parametrised with."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)
