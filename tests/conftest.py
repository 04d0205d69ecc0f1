"""Fixtures: a queue, a shard on each kind of database, a clock that stands still."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clock import FakeClock
from support.postgres import PostgresServer

from queue_max import Queue
from queue_max.domain.clock import Clock
from queue_max.repositories.unit_of_work import Store
from queue_max.storage.database import Database
from queue_max.storage.directory import Directory
from queue_max.storage.sqlite import SqliteOptions


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep settings of the machine, a stray ./data, and what other tests left, out of a test."""
    from queue_max.settings import Settings, names_of

    for field in Settings.model_fields.values():
        for name in names_of(field):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("queue_max.tasks.binding._default", None)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def make_queue(data_dir: Path) -> Iterator[Callable[..., Queue]]:
    """Open queues in one directory, without limits unless given; all are closed at the end."""
    opened: list[Queue] = []

    def make(**options: Any) -> Queue:
        defaults = {
            "data_dir": data_dir,
            "rate_limit": math.inf,
            "circuit_breaker_threshold": math.inf,
            "durability": "normal",
        }
        opened.append(Queue(**defaults | options))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(make_queue: Callable[..., Queue]) -> Queue:
    """A queue of one shard, so that the order of jobs is known."""
    return make_queue(shards=1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def shard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated shard, once on each kind of database."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        with server.new_database() as database:
            yield database
    else:
        directory = Directory(tmp_path / "shards", SqliteOptions(full_sync=False))
        yield directory.open(1)[0]
        directory.close()


@pytest.fixture
def store(shard: Database, clock: Clock) -> Store:
    """A store of that one shard, with the clock that stands still."""
    return Store([shard], clock)
