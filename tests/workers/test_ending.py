"""Jobs that are to end before they end by themselves: time limits, and cancelling."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from queue_max import JobTimeoutError, Queue, RunningJob, Worker, current_job

MakeQueue = Callable[..., Queue]
MakeWorker = Callable[..., Worker]
Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture
def queue(make_queue: MakeQueue) -> Queue:
    return make_queue(shards=1)


def test_a_function_can_ask_whether_its_time_is_over(queue: Queue, make_worker: MakeWorker) -> None:
    def work(payload: object) -> None:
        while not current_job().should_stop:
            time.sleep(0.002)
        raise ValueError("left the loop")

    queue.enqueue({}, timeout=0.05, max_retries=0)
    worker = make_worker(work, stop_grace=60)
    worker.start()
    assert queue.wait_until_empty(30)
    (failed,) = queue.get_failed_jobs()
    assert failed.error_type == JobTimeoutError.__name__
    assert "left the loop" in str(failed.error_stack)
    assert worker.get_stats()["abandoned"] == 0


def test_a_job_knows_how_much_time_it_has(queue: Queue, make_worker: MakeWorker) -> None:
    seen: list[float] = []
    queue.enqueue({}, timeout=60)
    queue.enqueue({})
    make_worker(lambda payload: seen.append(current_job().time_left)).start()
    assert queue.wait_until_empty(30)
    assert 0 < seen[0] <= 60
    assert seen[1] == float("inf")


def test_the_time_limit_of_a_job_goes_before_that_of_its_worker(
    queue: Queue, make_worker: MakeWorker
) -> None:
    seen: list[float | None] = []
    queue.enqueue({}, timeout=60)
    queue.enqueue({})
    make_worker(lambda payload: seen.append(current_job().timeout), job_timeout=50).start()
    assert queue.wait_until_empty(30)
    assert seen == [60, 50]


def test_a_function_that_does_not_end_is_left_behind_and_the_worker_goes_on(
    queue: Queue,
    make_worker: MakeWorker,
    gate: Any,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads: list[threading.Thread] = []

    def work(payload: dict[str, Any]) -> None:
        threads.append(threading.current_thread())
        if payload["n"] == 0:
            gate(payload)

    queue.enqueue({"n": 0}, timeout=0.05, max_retries=0)
    worker = make_worker(work, stop_grace=0)
    worker.start()
    assert queue.wait_until_empty(30)
    queue.enqueue({"n": 1})
    assert queue.wait_until_empty(30)
    (failed,) = queue.get_failed_jobs()
    assert failed.error_type == JobTimeoutError.__name__
    stats = worker.get_stats()
    assert (stats["processed"], stats["failed"], stats["abandoned"]) == (1, 1, 1)
    assert "does not end, although it was told to (timeout)" in caplog.text
    left, _ = threads
    assert left.is_alive()
    assert left.daemon
    gate.open()
    eventually(lambda: not left.is_alive())
    assert (worker.get_stats()["processed"], worker.get_stats()["lost"]) == (1, 0)


def test_a_worker_that_left_a_function_behind_stops_and_starts_as_ever(
    queue: Queue, make_worker: MakeWorker, gate: Any, eventually: Eventually
) -> None:
    worker = make_worker(gate, stop_grace=0)
    queue.enqueue({}, timeout=0.05, max_retries=0)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    assert worker.state == "stopped"
    gate.open()
    queue.enqueue({})
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.get_stats()["processed"] == 1


def test_a_suspect_that_does_not_end_does_not_hold_up_the_others_for_ever(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    from queue_max.domain.failures import WORKER_DIED, Failure

    def work(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            gate(payload)

    queue.enqueue({"n": 0}, timeout=0.05, max_retries=1)
    suspect = queue.pop_job("one that died")
    assert suspect is not None
    with queue.services.store.writing(0) as unit:
        queue.services.retry.lose(unit, suspect, Failure(WORKER_DIED, "it died"), at_once=True)
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(1, 4)])
    for number in (1, 2):
        make_worker(work, f"worker-{number}", stop_grace=0).start()
    assert queue.wait_until_empty(30)
    assert (queue.get_stats()["completed"], queue.get_stats()["failed"]) == (3, 1)


def test_a_coroutine_is_cancelled_when_its_time_is_over(
    queue: Queue, make_worker: MakeWorker
) -> None:
    seen: list[str] = []

    async def work(payload: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    queue.enqueue({}, timeout=0.05, max_retries=0)
    worker = make_worker(work, stop_grace=60)
    worker.start()
    assert queue.wait_until_empty(30)
    assert seen == ["cancelled"]
    (failed,) = queue.get_failed_jobs()
    assert failed.error_type == JobTimeoutError.__name__
    assert worker.get_stats()["abandoned"] == 0


def test_cancelling_a_running_job_tells_its_function(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(payload: object) -> None:
        begun.set()
        while not current_job().should_stop:
            time.sleep(0.002)
        ended.set()

    job = queue.enqueue({})
    worker = make_worker(work, stop_grace=60)
    worker.start()
    assert begun.wait(30)
    assert queue.cancel(job)
    assert ended.wait(30)
    eventually(lambda: worker.get_stats()["lost"] == 1)
    assert queue.get_job(job).is_cancelled
    assert worker.get_stats()["processed"] == 0


def test_cancelling_a_running_job_frees_its_worker_though_the_function_goes_on(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    job = queue.enqueue({"n": 0})
    make_worker(lambda payload: payload["n"] or gate(payload), stop_grace=0).start()
    gate.await_entry()
    assert queue.cancel(job)
    queue.enqueue({"n": 1})
    assert queue.wait_until_empty(30)
    assert queue.get_job(job).is_cancelled


def test_a_function_with_a_parameter_ctx_is_given_the_running_job(
    queue: Queue, make_worker: MakeWorker
) -> None:
    seen: list[RunningJob] = []

    def work(payload: object, ctx: RunningJob) -> None:
        seen.append(ctx)
        assert ctx is current_job()
        ctx.heartbeat()
        ctx.update_progress(50)

    job = queue.enqueue({})
    make_worker(work).start()
    assert queue.wait_until_empty(30)
    (ctx,) = seen
    assert (ctx.id, ctx.key, ctx.attempt, ctx.fence) == (job["id"], job.key, 1, 1)
    assert not ctx.should_stop


def test_what_a_job_logs_says_which_job_it_was(
    queue: Queue, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "queue_max.job")

    def work(payload: object) -> None:
        current_job().logger.info("page %d", 3, extra={"page": 3})

    job = queue.enqueue({})
    make_worker(work).start()
    assert queue.wait_until_empty(30)
    (record,) = [each for each in caplog.records if each.name == "queue_max.job"]
    assert record.getMessage() == f"job {job.key}: page 3"
    assert (record.job_key, record.job_id, record.attempt) == (job.key, job["id"], 1)  # type: ignore[attr-defined]
    assert record.page == 3  # type: ignore[attr-defined]


def test_a_lease_that_is_lost_cannot_be_prolonged(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    from queue_max import LeaseLostError

    errors: list[BaseException] = []

    def work(payload: object, ctx: RunningJob) -> None:
        gate(payload)
        try:
            ctx.heartbeat()
        except LeaseLostError as error:
            errors.append(error)

    job = queue.enqueue({})
    worker = make_worker(work, stop_grace=60)
    worker.start()
    gate.await_entry()
    queue.cancel(job)
    gate.open()
    assert worker.stop(30)
    assert len(errors) == 1
