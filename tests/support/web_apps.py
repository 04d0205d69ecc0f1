"""Fixtures for tests of web applications: queues without limits, tasks of one test alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_max import Queue, set_default_queue
from queue_max.workers.repertoire import tasks


@pytest.fixture(autouse=True)
def web_settings(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[None]:
    """Queues that nobody describes lie in the test's folder; no test leaves a default queue."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    monkeypatch.setenv("NUM_SHARDS", "1")
    monkeypatch.setenv("QUEUE_MAX_DURABILITY", "normal")
    monkeypatch.setenv("RATE_LIMIT_MAX", "none")
    monkeypatch.setattr(tasks, "_tasks", {})
    yield
    set_default_queue(None)


@pytest.fixture
def other_queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(shards=1, data_dir=tmp_path / "other") as queue:
        yield queue
