"""What is called where a worker calls a job's function, and what tasks hear of their jobs."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max import AsyncWorker, Queue, Worker
from queue_max.domain.job import Job
from queue_max.workers.repertoire import TaskRegistry, surround, tasks
from queue_max.workers.running import RunningJob

KINDS = pytest.mark.parametrize("kind", [Worker, AsyncWorker])


@pytest.fixture
def said() -> Iterator[list[object]]:
    said: list[object] = []

    async def awaited(result: Any) -> Any:
        try:
            return await result
        finally:
            said.append("after")

    def around(call: Callable[[RunningJob], Any], running: RunningJob) -> Any:
        said.append("before")
        result = call(running)
        if inspect.isawaitable(result):
            return awaited(result)
        said.append("after")
        return result

    surround(around)
    yield said
    surround(None)


def run_one(queue: Queue, function: Callable[..., Any], kind: type[Any]) -> None:
    queue.enqueue({"n": 1})
    worker = kind("worker-1", function, queue, poll_interval=0.005)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)


@KINDS
def test_each_call_of_a_function_is_surrounded(
    queue: Queue, said: list[object], kind: type[Any]
) -> None:
    run_one(queue, lambda payload: said.append(payload["n"]), kind)
    assert said == ["before", 1, "after"]


@KINDS
def test_each_call_of_a_coroutine_function_is_surrounded_until_it_ends(
    queue: Queue, said: list[object], kind: type[Any]
) -> None:
    async def work(payload: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        said.append(payload["n"])

    run_one(queue, work, kind)
    assert said == ["before", 1, "after"]


class Heard:
    """A task that notes what it hears."""

    task_name, version, timeout, is_async = "heard", 1, None, False
    origin, import_name, queue_name = ("here", "heard"), "here", "default"

    def __init__(self) -> None:
        self.ends: list[tuple[object, str]] = []

    def run(self, payload: dict[str, Any], _running: RunningJob) -> Any:
        if payload["fail"]:
            raise ValueError("bad")
        return 5

    def declare(self, queue: Queue) -> None: ...

    def succeeded(self, result: Any, job: Job | None = None) -> None:
        assert job is not None
        self.ends.append((result, job.key))

    def failed(self, error: BaseException, job: Job | None = None) -> None:
        assert job is not None
        self.ends.append((str(error), job.key))


def test_a_task_hears_which_job_has_ended(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_tasks", TaskRegistry()._tasks)
    heard = Heard()
    tasks.add(heard)
    done = queue.enqueue({"fail": False}, task="heard")
    failed = queue.enqueue({"fail": True}, task="heard", max_retries=0)
    queue.drain()
    assert sorted(heard.ends, key=str) == sorted([(5, done.key), ("bad", failed.key)], key=str)
