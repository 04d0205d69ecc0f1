"""Workers that stop at the end of a test, and a job that waits to be let on."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max import Queue, Worker


class Gate:
    """A job's function that says when it has been entered, and stays until it is opened."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, payload: object) -> str:
        self._entered.release()
        assert self._open.wait(60)
        return "passed"

    def await_entry(self) -> None:
        assert self._entered.acquire(timeout=30)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until something that other threads or processes do has happened."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    return wait


@pytest.fixture
def make_worker(queue: Queue) -> Iterator[Callable[..., Worker]]:
    """Make workers that look for jobs often; all are stopped at the end."""
    made: list[Worker] = []

    def make(function: Callable[..., Any], worker_id: str = "worker-1", **options: Any) -> Worker:
        defaults = {"queue": queue, "poll_interval": 0.005}
        made.append(Worker(worker_id, function, **defaults | options))
        return made[-1]

    yield make
    for worker in made:
        worker.request_stop()
    for worker in made:
        assert worker.stop(30)


@pytest.fixture
def gate(make_worker: Callable[..., Worker]) -> Iterator[Gate]:
    """A gate that is opened before the workers are stopped."""
    gate = Gate()
    yield gate
    gate.open()
