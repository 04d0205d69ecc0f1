"""Tasks that are forgotten at the end of a test, and workers that know no others."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max import Queue, Worker, set_default_queue
from queue_max.workers import repertoire


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(repertoire.tasks, "_tasks", {})
    yield
    set_default_queue(None)


@pytest.fixture
def queue(make_queue: Callable[..., Queue]) -> Queue:
    return make_queue(shards=2)


@pytest.fixture
def work(queue: Queue) -> Callable[..., Worker]:
    """Let a worker run all jobs of the queue, and stop."""

    def work(function: Callable[..., Any] | None = None, **options: Any) -> Worker:
        worker = Worker("worker-1", function, queue, poll_interval=0.005, **options)
        worker.start()
        assert queue.wait_until_empty(30)
        assert worker.stop(30)
        return worker

    return work
