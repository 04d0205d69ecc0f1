"""The async face: the same verbs, awaited, while the event loop goes on."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

from queue_max import (
    InvalidJobError,
    JobFailedError,
    JobNotFoundError,
    Queue,
    ResultNotKeptError,
    Worker,
    task,
)
from queue_max.off_loop import off_loop

MakeQueue = Callable[..., Queue]


def test_the_verbs_do_what_their_namesakes_do(queue: Queue) -> None:
    async def go() -> None:
        handle = await queue.aenqueue({"n": 1}, priority=2)
        assert (await queue.aget_job(handle)).payload == {"n": 1}
        batch = await queue.aenqueue_batch([{"payload": {"n": 2}}])
        assert batch["total"] == 1
        with pytest.raises(InvalidJobError, match="priority=5"):
            await queue.aenqueue({}, priority=5)
        with pytest.raises(JobNotFoundError):
            await queue.aget_job("0-none")

    asyncio.run(go())
    assert queue.get_pending_count() == 2


@pytest.mark.parametrize("name", ["enqueue", "enqueue_batch", "get_job"])
def test_they_have_names_and_arguments_of_their_own(name: str) -> None:
    method, its_async = getattr(Queue, name), getattr(Queue, f"a{name}")
    assert its_async.__qualname__ == f"Queue.a{name}"
    assert inspect.signature(its_async) == inspect.signature(method)
    assert inspect.iscoroutinefunction(its_async)


def test_the_event_loop_goes_on_meanwhile() -> None:
    class Slow:
        def __init__(self) -> None:
            self.let_on = threading.Event()

        def wait(self) -> bool:
            return self.let_on.wait(30)

        await_it = off_loop(wait)

    async def go() -> bool:
        slow = Slow()
        waiting = asyncio.create_task(slow.await_it())
        await asyncio.sleep(0)
        slow.let_on.set()
        return await waiting

    assert asyncio.run(go())


@pytest.fixture
def _worker(queue: Queue) -> Any:
    def work(payload: dict[str, Any]) -> int:
        if payload["n"] < 0:
            raise ValueError("it broke")
        return int(payload["n"]) * 2

    worker = Worker("worker-1", work, queue, poll_interval=0.005)
    worker.start()
    yield
    assert worker.stop(30)


@pytest.mark.usefixtures("_worker")
def test_many_results_are_awaited_at_once(queue: Queue) -> None:
    async def go() -> list[int]:
        handles = [await queue.aenqueue({"n": n}, keep_result=60) for n in range(50)]
        return await asyncio.gather(*(each.aresult(30) for each in handles))

    assert asyncio.run(go()) == [2 * n for n in range(50)]


@pytest.mark.usefixtures("_worker")
def test_an_awaited_result_raises_what_result_raises(queue: Queue) -> None:
    async def go() -> None:
        failed = await queue.aenqueue({"n": -1}, keep_result=60, max_retries=0)
        with pytest.raises(JobFailedError, match="it broke"):
            await failed.aresult(30)
        later = await queue.aenqueue({"n": 1}, keep_result=60, delay=600)
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.05 s"):
            await later.aresult(0.05)
        not_kept = await queue.aenqueue({"n": 1})
        with pytest.raises((ResultNotKeptError, JobNotFoundError)):
            await not_kept.aresult(30)

    asyncio.run(go())


def test_a_task_is_enqueued_from_a_coroutine(queue: Queue) -> None:
    @task(queue, name="tests.async.add")
    def add(a: int, b: int) -> int:
        return a + b

    handle = asyncio.run(add.adelay(1, b=2))
    assert queue.get_job(handle).payload["kwargs"] == {"b": 2}
