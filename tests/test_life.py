"""What a job may be asked for, and asked about, through the queue: time, key, result, end."""

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from queue_max import (
    InvalidJobError,
    JobFailedError,
    JobNotFoundError,
    JobStatus,
    LeaseLostError,
    Queue,
    QueueError,
    ResultNotKeptError,
    Worker,
    current_job,
)
from queue_max.domain.retention import DaysKept
from queue_max.services.retention import RetentionService

Run = Callable[..., Worker]


@pytest.fixture
def queue(make_queue: Callable[..., Queue]) -> Queue:
    return make_queue(shards=3)


@pytest.fixture
def run(queue: Queue) -> Iterator[Run]:
    """Start a worker with some function; it is stopped at the end."""
    workers: list[Worker] = []

    def run(function: Callable[[dict[str, Any]], Any], **options: Any) -> Worker:
        workers.append(Worker("w", function, queue, **{"poll_interval": 0.01} | options))
        workers[-1].start()
        return workers[-1]

    yield run
    for worker in workers:
        assert worker.stop(30)


# Time


def test_a_job_with_a_delay_waits_for_it(queue: Queue) -> None:
    handle = queue.enqueue({}, delay=3600)
    job = queue.get_job(handle)
    assert job.status is JobStatus.SCHEDULED
    assert job.next_retry_at is not None
    due = datetime.fromisoformat(job.next_retry_at) - datetime.now(UTC)
    assert timedelta(minutes=59) < due <= timedelta(hours=1)
    assert queue.pop_job("w") is None


@pytest.mark.parametrize(
    ("run_at", "status"),
    [
        (datetime.now(UTC) + timedelta(days=1), JobStatus.SCHEDULED),
        ("2999-01-01T08:00:00Z", JobStatus.SCHEDULED),
        ("2999-01-01T08:00:00+05:30", JobStatus.SCHEDULED),
        (datetime.now(UTC) - timedelta(days=1), JobStatus.PENDING),
    ],
)
def test_a_job_may_name_the_moment_from_which_it_is_due(
    queue: Queue, run_at: Any, status: JobStatus
) -> None:
    assert queue.get_job(queue.enqueue({}, run_at=run_at)).status is status


def test_an_idle_worker_begins_a_job_when_it_is_due(queue: Queue, run: Run) -> None:
    begun = threading.Event()
    at = datetime.now(UTC) + timedelta(seconds=0.4)
    queue.enqueue({}, run_at=at)
    # Its polls alone would come too late.
    run(lambda payload: begun.set(), poll_interval=60)
    assert begun.wait(20)
    assert datetime.now(UTC) >= at


@pytest.mark.parametrize(
    "bad",
    [
        {"delay": -1},
        {"delay": "soon"},
        {"run_at": "tomorrow"},
        {"run_at": datetime.now()},  # noqa: DTZ005 - without a time zone on purpose
        {"run_at": 7},
        {"run_at": datetime.now(UTC), "delay": 1},
        {"unique_key": ""},
        {"unique_key": "x" * 256},
        {"unique_key": "a\0b"},
        {"unique_key": 7},
        {"unique_for": 7},
        {"unique_key": "a", "unique_for": 0},
        {"keep_result": 0},
        {"keep_result": True},
        {"retry": 7},
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_stored(queue: Queue, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidJobError, match=list(bad)[-1]):
        queue.enqueue({}, **bad)
    assert queue.is_empty()


# Keys


def test_of_jobs_with_one_key_there_is_one_at_a_time(queue: Queue) -> None:
    first = queue.enqueue({"n": 1}, unique_key="page-7")
    again = queue.enqueue({"n": 2}, unique_key="page-7")
    assert (first.created, again.created) == (True, False)
    assert (again, again.key) == (first, first.key)
    assert queue.get_pending_count() == 1


def test_one_of_many_who_want_a_key_at_once_gets_it(queue: Queue) -> None:
    with ThreadPoolExecutor(8) as threads:
        handles = list(threads.map(lambda n: queue.enqueue({}, unique_key="k"), range(40)))
    assert sum(handle.created for handle in handles) == 1
    assert queue.get_pending_count() == 1


def test_keys_hold_within_a_batch_and_only_new_jobs_are_told_of(queue: Queue) -> None:
    told: list[int] = []
    queue.on("job_enqueued", lambda job_id, shard_id: told.append(job_id))
    taken = queue.enqueue_batch([{"payload": {}, "unique_key": f"k{n % 2}"} for n in range(6)])
    assert [handle.created for handle in taken["jobs"]] == [True, True] + [False] * 4
    assert len(told) == 2


def test_a_pagina_id_decides_the_shard_and_keys_hold_within_it(queue: Queue) -> None:
    handles = [queue.enqueue({}, pagina_id=n, unique_key="k") for n in (0, 1, 3)]
    assert [handle["shard_id"] for handle in handles] == [0, 1, 0]
    assert [handle.created for handle in handles] == [True, True, False]


# Results


@pytest.mark.parametrize("value", [None, 0, "text", {"a": [1, 2.5, None]}])
def test_a_result_is_kept_where_that_was_asked_for_and_may_be_read_again(
    queue: Queue, run: Run, value: Any
) -> None:
    run(lambda payload: value)
    handle = queue.enqueue({}, keep_result=60)
    assert [handle.result(30), handle.result(30)] == [value, value]
    assert queue.get_job(handle.key).status is JobStatus.COMPLETED
    assert queue.get_stats()["completed"] == 1


def test_without_asking_a_job_that_is_done_is_gone(queue: Queue, run: Run) -> None:
    run(lambda payload: 7)
    handle = queue.enqueue({})
    assert queue.wait_until_empty(30)
    with pytest.raises(JobNotFoundError):
        queue.get_job(handle)


def test_nobody_waits_for_a_result_that_will_not_be_kept(queue: Queue) -> None:
    handle = queue.enqueue({})
    with pytest.raises(ResultNotKeptError, match="will not keep its result; enqueue it with keep_"):
        handle.result(30)


def test_nobody_waits_for_a_job_that_is_gone(queue: Queue) -> None:
    handle = queue.enqueue({}, keep_result=60)
    threading.Timer(0.05, queue.purge_queue).start()
    with pytest.raises(ResultNotKeptError, match="is gone"):
        handle.result(30)


def test_a_result_that_json_cannot_express_is_not_kept_but_the_job_is_done(
    queue: Queue, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run(lambda payload: object())
    with pytest.raises(ResultNotKeptError):
        queue.enqueue({}, keep_result=60).result(30)
    assert "is not kept" in caplog.text
    assert queue.get_stats()["completed"] == 1


def test_the_result_of_a_failed_or_cancelled_job_is_its_failure(queue: Queue) -> None:
    failed, cancelled = queue.enqueue({}), queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, "no such page", permanent=True)
    other = cancelled if job.key == failed.key else failed
    queue.cancel(other)
    with pytest.raises(JobFailedError, match="no such page"):
        queue.get_result(job.key)
    with pytest.raises(JobFailedError, match="cancelled: called off"):
        queue.get_result(other)


def test_who_waits_for_a_result_does_so_no_longer_than_asked(queue: Queue) -> None:
    with pytest.raises(TimeoutError):
        queue.enqueue({}, keep_result=60).result(0.01)


def test_a_result_is_deleted_when_its_time_is_over_and_not_before(queue: Queue, run: Run) -> None:
    run(lambda payload: 7)
    short, long = queue.enqueue({}, keep_result=0.05), queue.enqueue({}, keep_result=60)
    assert long.result(30) == 7
    queue.wait_until_empty(30)
    time.sleep(0.06)
    RetentionService(queue.services.store, DaysKept(0)).tidy()
    assert queue.get_result(long) == 7
    with pytest.raises(JobNotFoundError):
        queue.get_job(short)


def test_a_handle_can_be_pickled_and_then_asks_no_longer_by_itself(queue: Queue) -> None:
    handle = pickle.loads(pickle.dumps(queue.enqueue({})))
    assert queue.get_job(handle.key).id == handle["id"]
    with pytest.raises(QueueError, match="get_result"):
        handle.result(1)


# The end


@pytest.mark.parametrize("delay", [0, 60])
def test_a_job_that_waits_is_cancelled_at_once(queue: Queue, delay: float) -> None:
    handle = queue.enqueue({}, delay=delay)
    assert queue.cancel(handle) is True
    assert queue.cancel(handle) is False
    assert queue.pop_job("w") is None
    assert queue.get_job(handle).status is JobStatus.CANCELLED
    assert queue.is_empty()


def test_a_job_that_runs_can_see_that_it_is_cancelled_and_its_outcome_counts_no_more(
    queue: Queue, run: Run
) -> None:
    begun, seen = threading.Event(), []

    def work(payload: dict[str, Any]) -> None:
        job = current_job()
        seen.append(job.is_cancelled)
        begun.set()
        while not job.is_cancelled:
            time.sleep(0.005)
        seen.append(True)

    worker = run(work)
    handle = queue.enqueue({})
    assert begun.wait(30)
    assert queue.cancel(handle)
    assert worker.stop(30)
    assert seen == [False, True]
    assert (worker.get_stats()["processed"], worker.get_stats()["lost"]) == (0, 1)
    assert queue.get_job(handle).status is JobStatus.CANCELLED


def test_what_was_done_before_it_could_be_cancelled_has_ended_by_its_handle(queue: Queue) -> None:
    handle = queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    assert queue.complete_job(job.id, job.shard_id)
    assert queue.cancel(handle) is False
    assert queue.cancel(job) is False
    with pytest.raises(JobNotFoundError, match="one that is done is deleted"):
        queue.cancel(handle.key)


@pytest.mark.parametrize("name", ["0-99", "2-0198c0de-0000-7000-8000-000000000000"])
def test_what_does_not_exist_cannot_be_cancelled(queue: Queue, name: str) -> None:
    with pytest.raises(JobNotFoundError, match=name):
        queue.cancel(name)


@pytest.mark.parametrize(
    "name", ["", "99", "x-1", "0-1 ", None, 7, {"id": 1}, {"id": 1.5, "shard_id": 0}]
)
def test_what_names_no_job_is_refused(queue: Queue, name: Any) -> None:
    with pytest.raises(InvalidJobError):
        queue.get_job(name)


# Progress


def test_progress_is_seen_by_others_and_only_told_by_who_runs_the_job(queue: Queue) -> None:
    handle = queue.enqueue({})
    assert queue.update_progress(handle["id"], handle["shard_id"], 5) is False
    job = queue.pop_job("w")
    assert job is not None
    assert queue.update_progress(job.id, job.shard_id, 12.5, job.fence) is True
    assert queue.get_job(handle).progress == 12.5
    with pytest.raises(LeaseLostError):
        queue.update_progress(job.id, job.shard_id, 50, job.fence + 1)


@pytest.mark.parametrize("job_timeout", [None, 30])
def test_a_function_may_tell_its_progress_from_its_own_thread_or_coroutine(
    queue: Queue, run: Run, job_timeout: float | None
) -> None:
    seen: list[float] = []

    async def work(payload: dict[str, Any]) -> None:
        job = current_job()
        job.update_progress(40)
        seen.append(queue.get_job(job.job).progress)

    run(work, job_timeout=job_timeout)
    queue.enqueue({})
    assert queue.wait_until_empty(30)
    assert seen == [40.0]


def test_where_no_worker_runs_a_job_there_is_none() -> None:
    with pytest.raises(QueueError):
        current_job()


# Attempts and retention


def test_the_attempts_of_a_job_are_told(queue: Queue) -> None:
    handle = queue.enqueue({}, retry_delay=0)
    for error in (ValueError("first"), KeyError("second")):
        job = queue.pop_job("w")
        assert job is not None
        queue.fail_job(job.id, job.shard_id, error, fence=job.fence)
    assert [each.error for each in queue.get_attempts(handle)] == ["first", "'second'"]


@pytest.mark.parametrize("force", [False, True])
def test_jobs_that_run_are_purged_only_by_force(
    queue: Queue, caplog: pytest.LogCaptureFixture, force: bool
) -> None:
    queue.enqueue({})
    assert queue.pop_job("w") is not None
    queue.enqueue({})
    assert queue.purge_queue(force=force) == 1 + force
    assert len(queue.get_processing_jobs()) == 1 - force
    assert ("1 running job(s) were not purged" in caplog.text) is not force
