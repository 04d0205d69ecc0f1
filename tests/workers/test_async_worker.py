"""AsyncWorker: many coroutines at once, on one event loop."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max import (
    AsyncWorker,
    ConfigurationError,
    JobTimeoutError,
    Queue,
    Snooze,
    WorkerPool,
    current_job,
)
from queue_max.domain.failures import WORKER_DIED, Failure

MakeQueue = Callable[..., Queue]
Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture
def queue(make_queue: MakeQueue) -> Queue:
    return make_queue(shards=2)


@pytest.fixture
def make(queue: Queue) -> Iterator[Callable[..., AsyncWorker]]:
    made: list[AsyncWorker] = []

    def make(function: Callable[..., Any], **options: Any) -> AsyncWorker:
        defaults = {"queue": queue, "poll_interval": 0.005}
        made.append(AsyncWorker("async-1", function, **defaults | options))
        return made[-1]

    yield make
    for worker in made:
        assert worker.stop(30)


Make = Callable[..., AsyncWorker]


class Meeting:
    """A coroutine function that waits until as many run at once as are expected."""

    def __init__(self, expected: int) -> None:
        self.most = self.now = 0
        self._expected = expected
        self.loops: set[asyncio.AbstractEventLoop] = set()

    async def __call__(self, payload: object) -> None:
        self.loops.add(asyncio.get_running_loop())
        self.now += 1
        self.most = max(self.most, self.now)
        while self.most < self._expected:
            await asyncio.sleep(0.001)
        self.now -= 1


def test_coroutines_run_at_once_on_one_loop(queue: Queue, make: Make) -> None:
    meeting = Meeting(20)
    queue.enqueue_batch([{"payload": {}}] * 50)
    make(meeting, concurrency=20).start()
    assert queue.wait_until_empty(60)
    assert meeting.most == 20
    assert len(meeting.loops) == 1


def test_ten_run_at_once_if_nothing_else_is_said(queue: Queue, make: Make) -> None:
    meeting = Meeting(10)
    queue.enqueue_batch([{"payload": {}}] * 30)
    make(meeting).start()
    assert queue.wait_until_empty(60)
    assert meeting.most == 10


def test_results_errors_and_wishes_are_written_as_those_of_any_worker(
    queue: Queue, make: Make
) -> None:
    async def work(payload: dict[str, Any]) -> int:
        match payload["n"]:
            case 0:
                raise ValueError("it broke")
            case 1:
                if current_job().attempt == 1 and current_job().fence == 1:
                    raise Snooze(0)
        return int(payload["n"]) * 10

    queue.enqueue({"n": 0}, max_retries=0)
    snoozed = queue.enqueue({"n": 1}, keep_result=60)
    done = queue.enqueue({"n": 2}, keep_result=60)
    worker = make(work)
    worker.start()
    assert (snoozed.result(30), done.result(30)) == (10, 20)
    assert queue.wait_until_empty(30)
    assert [job.payload for job in queue.get_failed_jobs()] == [{"n": 0}]
    stats = worker.get_stats()
    assert (stats["processed"], stats["failed"], stats["current_job_id"]) == (2, 1, None)


def test_callbacks_may_be_functions_or_coroutine_functions(queue: Queue, make: Make) -> None:
    seen: list[tuple[str, object]] = []

    async def on_start(*, worker_id: str, job_id: int, payload: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        seen.append(("start", payload["n"]))

    def on_complete(*, worker_id: str, job_id: int, result: object) -> None:
        seen.append(("complete", result))

    async def on_error(*, worker_id: str, job_id: int, error: str, permanent: bool) -> None:
        await asyncio.sleep(0.01)
        seen.append(("error", error))

    async def work(payload: dict[str, Any]) -> str:
        seen.append(("work", payload["n"]))
        if payload["n"]:
            raise ValueError("it broke")
        return "done"

    worker = make(
        work,
        concurrency=1,
        on_job_start=on_start,
        on_job_complete=on_complete,
        on_job_error=on_error,
    )
    queue.enqueue_batch([{"payload": {"n": n}, "max_retries": 0} for n in (0, 1)])
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    assert sorted(map(str, seen)) == sorted(
        map(
            str,
            [
                ("start", 0),
                ("work", 0),
                ("complete", "done"),
                ("start", 1),
                ("work", 1),
                ("error", "it broke"),
            ],
        )
    )
    assert seen.index(("start", 0)) < seen.index(("work", 0))


@pytest.mark.parametrize("name", ["on_job_start", "on_job_complete"])
def test_a_callback_that_raises_harms_nobody(
    queue: Queue, make: Make, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(payload: object) -> None: ...

    async def fail(**facts: object) -> None:
        raise SystemExit("from a callback")

    queue.enqueue_batch([{"payload": {}}] * 3)
    worker = make(work, **{name: fail})
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    assert worker.get_stats()["processed"] == 3
    assert "a callback of worker async-1 failed" in caplog.text


def test_a_plain_function_does_not_hold_up_the_coroutines(queue: Queue, make: Make) -> None:
    everybody_is_here = threading.Barrier(3)

    def work(payload: object) -> str:
        everybody_is_here.wait(30)
        return threading.current_thread().name

    jobs = [queue.enqueue({}, keep_result=60) for _ in range(3)]
    make(work, concurrency=3).start()
    names = {job.result(30) for job in jobs}
    assert len(names) == 3
    assert all(name.startswith("queue-max-async-1-function") for name in names)


def test_a_coroutine_is_cancelled_when_its_time_is_over_and_others_go_on(
    queue: Queue, make: Make
) -> None:
    async def work(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            await asyncio.Event().wait()

    queue.enqueue({"n": 0}, timeout=0.05, max_retries=0)
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(1, 6)])
    worker = make(work, concurrency=2, stop_grace=60)
    worker.start()
    assert queue.wait_until_empty(30)
    (failed,) = queue.get_failed_jobs()
    assert failed.error_type == JobTimeoutError.__name__
    assert (worker.get_stats()["processed"], worker.get_stats()["abandoned"]) == (5, 0)


def test_a_coroutine_that_will_not_be_cancelled_keeps_no_other_from_its_place(
    queue: Queue, make: Make
) -> None:
    let_go = threading.Event()

    async def work(payload: dict[str, Any]) -> None:
        while payload["n"] == 0 and not let_go.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                continue

    queue.enqueue({"n": 0}, timeout=0.05, max_retries=0)
    worker = make(work, concurrency=1, stop_grace=0)
    worker.start()
    assert queue.wait_until_empty(30)
    queue.enqueue({"n": 1})
    assert queue.wait_until_empty(30)
    stats = worker.get_stats()
    assert (stats["processed"], stats["failed"], stats["abandoned"]) == (1, 1, 1)
    let_go.set()


def test_a_plain_function_that_does_not_end_keeps_no_other_from_its_place(
    queue: Queue, make: Make
) -> None:
    let_go = threading.Event()

    def work(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            let_go.wait(60)

    queue.enqueue({"n": 0}, timeout=0.05, max_retries=0)
    worker = make(work, concurrency=1, stop_grace=0)
    worker.start()
    assert queue.wait_until_empty(30)
    queue.enqueue({"n": 1})
    is_done = queue.wait_until_empty(30)
    let_go.set()
    assert is_done
    stats = worker.get_stats()
    assert (stats["processed"], stats["failed"], stats["abandoned"]) == (1, 1, 1)


# A program whose worker gives up a plain function that never ends.
GIVING_UP = """
import threading
from queue_max import AsyncWorker, Queue

queue = Queue.in_memory()
queue.enqueue({}, timeout=0.05, max_retries=0)
worker = AsyncWorker("async-1", lambda payload: threading.Event().wait(), queue, stop_grace=0)
worker.start()
assert queue.wait_until_empty(30)
assert worker.stop(30)
"""


def test_a_plain_function_that_does_not_end_does_not_keep_its_process_from_ending() -> None:
    assert subprocess.run([sys.executable, "-c", GIVING_UP], timeout=60).returncode == 0


def test_cancelling_a_running_job_cancels_its_coroutine(queue: Queue, make: Make) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def work(payload: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    job = queue.enqueue({})
    make(work, stop_grace=60).start()
    assert begun.wait(30)
    queue.cancel(job)
    assert cancelled.wait(30)
    assert queue.get_job(job).is_cancelled


def test_stop_waits_for_what_runs_and_takes_nothing_more(queue: Queue, make: Make) -> None:
    begun, let_on = threading.Semaphore(0), threading.Event()

    async def work(payload: object) -> None:
        begun.release()
        while not let_on.is_set():
            await asyncio.sleep(0.002)

    queue.enqueue_batch([{"payload": {}}] * 5)
    worker = make(work, concurrency=2)
    worker.start()
    assert begun.acquire(timeout=30)
    assert begun.acquire(timeout=30)
    assert worker.stop(0) is False
    let_on.set()
    assert worker.stop(30)
    stats = queue.get_stats()
    assert (stats["completed"], stats["pending"], stats["processing"]) == (2, 3, 0)
    worker.start()
    assert queue.wait_until_empty(30)


def test_what_runs_can_be_handed_back(queue: Queue, make: Make) -> None:
    begun = threading.Semaphore(0)

    async def work(payload: object) -> None:
        begun.release()
        await asyncio.Event().wait()

    queue.enqueue_batch([{"payload": {}}] * 3)
    worker = make(work, concurrency=3)
    worker.start()
    for _ in range(3):
        assert begun.acquire(timeout=30)
    assert worker.hand_back() == 3
    stats = queue.get_stats()
    assert (stats["pending"], stats["processing"]) == (3, 0)
    assert {job.attempts for job in queue.list_jobs("pending")} == {1}


def test_a_suspect_runs_alone(queue: Queue, make: Make) -> None:
    now: set[int] = set()
    company: list[set[int]] = []

    async def work(payload: dict[str, Any]) -> None:
        now.add(payload["n"])
        await asyncio.sleep(0.002)
        if payload["n"] == 0:
            company.append(set(now))
        now.discard(payload["n"])

    queue.enqueue({"n": 0}, priority=2)
    suspect = queue.pop_job("one that died")
    assert suspect is not None
    with queue.services.store.writing(suspect.shard_id) as unit:
        queue.services.retry.lose(unit, suspect, Failure(WORKER_DIED, "it died"), at_once=True)
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(1, 50)])
    make(work, concurrency=5).start()
    assert queue.wait_until_empty(60)
    assert company == [{0}]
    assert queue.get_stats()["completed"] == 50


def test_a_pool_copies_it_with_all_its_options(queue: Queue, make: Make) -> None:
    async def work(payload: object) -> None: ...

    pool = WorkerPool([make(work, concurrency=7, job_timeout=5, stop_grace=3)], auto_scale=True)
    copy = pool.workers[0].copy("another")
    assert isinstance(copy, AsyncWorker)
    assert (copy.places, copy.job_timeout, copy.stop_grace) == (7, 5, 3)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True, "2"])
def test_a_bad_concurrency_is_refused(queue: Queue, concurrency: Any) -> None:
    with pytest.raises(ConfigurationError, match="concurrency="):
        AsyncWorker("async-1", print, queue, concurrency=concurrency)


def test_no_thread_and_no_loop_is_left(queue: Queue, make: Make) -> None:
    async def work(payload: object) -> None: ...

    before = set(threading.enumerate())
    worker = make(work)
    worker.start()
    queue.enqueue({})
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    assert set(threading.enumerate()) <= before
