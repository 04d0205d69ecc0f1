import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.programs import eventually

from queue_max import Queue, Worker, WorkerPool, WorkerState
from queue_max.cli import endings as endings_module
from queue_max.cli.endings import MB, Endings, resident_memory
from queue_max.exceptions import ShardBusyError

MakeQueue = Callable[..., Queue]
Run = Callable[..., WorkerPool]


@pytest.fixture
def queue(make_queue: MakeQueue) -> Queue:
    return make_queue(shards=1)


@pytest.fixture
def run(queue: Queue) -> Iterator[Run]:
    """Start workers for which the endings hold."""
    pools: list[WorkerPool] = []

    def start(
        endings: Endings, function: Callable[..., Any], workers: int = 1, queue: Queue = queue
    ) -> WorkerPool:
        pool = WorkerPool(
            [
                Worker(f"worker-{n}", function, queue, endings.note_start, poll_interval=0.005)
                for n in range(workers)
            ]
        )
        endings.concern(pool.workers)
        pool.start_all()
        pools.append(pool)
        return pool

    yield start
    for pool in pools:
        assert pool.stop_all(30)


def add_jobs(queue: Queue, number: int) -> None:
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(number)])


def nothing(payload: object) -> None: ...


# At a number of jobs


def test_a_worker_begins_as_many_jobs_as_it_may_and_claims_no_other(queue: Queue, run: Run) -> None:
    add_jobs(queue, 20)
    endings = Endings(jobs=5)
    pool = run(endings, nothing)
    eventually(lambda: not pool.workers[0].is_running)
    assert endings.reason(pool) == "5 job(s) have begun"
    assert pool.stop_all(30)
    left = queue.list_jobs("pending")
    assert len(left) == 15
    assert {job.attempts for job in left} == {0}


def test_several_workers_begin_at_least_as_many_and_what_has_begun_ends(
    queue: Queue, run: Run
) -> None:
    add_jobs(queue, 60)
    endings = Endings(jobs=10)
    pool = run(endings, nothing, workers=4)
    eventually(lambda: not any(each.is_running for each in pool.workers))
    assert pool.stop_all(30)
    done = 60 - queue.get_stats()["pending"]
    assert 10 <= done < 10 + 4
    assert queue.get_stats()["processing"] == 0


def test_failed_attempts_count(queue: Queue, run: Run) -> None:
    def fail(payload: object) -> None:
        raise ValueError("no")

    add_jobs(queue, 3)
    endings = Endings(jobs=2)
    pool = run(endings, fail)
    eventually(lambda: not pool.workers[0].is_running)
    assert endings.limit_reached()


# At some memory


def test_the_memory_of_this_process_is_known() -> None:
    before = resident_memory()
    held = b"x" * 50 * MB
    assert before + len(held) * 0.8 < resident_memory() < before + len(held) * 2


def test_a_limit_of_memory_counts_once_a_job_has_begun(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings_module, "resident_memory", lambda: 300 * MB)
    endings = Endings(memory=300 * MB)
    pool = run(endings, nothing)
    assert endings.reason(pool) is None
    add_jobs(queue, 1)
    eventually(lambda: endings.limit_reached())
    assert endings.reason(pool) == "this process takes 300 MB"
    monkeypatch.setattr(endings_module, "resident_memory", lambda: 299 * MB)
    assert endings.reason(pool) is None


# Out of work


def test_a_burst_lasts_while_a_job_waits_or_runs_here_or_elsewhere(
    queue: Queue, run: Run, make_queue: MakeQueue
) -> None:
    may_end, begun = threading.Event(), threading.Event()

    def stay(payload: object) -> None:
        begun.set()
        may_end.wait(60)

    elsewhere = queue.enqueue({"n": 0})
    assert queue.pop_job("elsewhere") is not None
    add_jobs(queue, 1)
    endings = Endings(burst=True)
    pool = run(endings, stay)
    assert begun.wait(30)
    assert endings.reason(pool) is None
    may_end.set()
    eventually(lambda: queue.get_stats()["processing"] == 1)
    assert endings.reason(pool) is None
    queue.complete_job(elsewhere["id"], elsewhere["shard_id"])
    eventually(lambda: endings.reason(pool) == "no job is due")


def test_a_burst_does_not_wait_for_what_is_scheduled_for_later(queue: Queue, run: Run) -> None:
    queue.enqueue({}, delay=3600)
    endings = Endings(burst=True)
    pool = run(endings, nothing)
    eventually(lambda: endings.reason(pool) == "no job is due")


def test_a_burst_does_not_end_before_its_workers_have_begun(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = Endings(burst=True)
    pool = run(endings, nothing, workers=2)
    eventually(lambda: endings.reason(pool) == "no job is due")
    monkeypatch.setattr(pool.workers[1], "_state", WorkerState.STARTING)
    assert endings.reason(pool) is None


def test_a_burst_waits_for_the_rate_limiter(make_queue: MakeQueue, run: Run) -> None:
    queue = make_queue(shards=1, rate_limit=1)
    add_jobs(queue, 2)
    endings = Endings(burst=True)
    pool = run(endings, nothing, queue=queue)
    eventually(lambda: pool.get_stats()["total_processed"] == 1)
    assert [endings.reason(pool) for _ in range(20)] == [None] * 20


def test_a_burst_waits_for_an_open_circuit(make_queue: MakeQueue, run: Run) -> None:
    def fail(payload: object) -> None:
        raise ConnectionError("no")

    queue = make_queue(shards=1, circuit_breaker_threshold=1, circuit_breaker_timeout=3600)
    add_jobs(queue, 1)
    endings = Endings(burst=True)
    pool = run(endings, fail, queue=queue)
    eventually(lambda: queue.get_stats()["circuit_state"] == "open")
    add_jobs(queue, 1)
    assert [endings.reason(pool) for _ in range(20)] == [None] * 20


def test_a_burst_waits_while_a_shard_cannot_be_asked(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_queues: object) -> None:
        raise ShardBusyError(1, "locked")

    endings = Endings(burst=True)
    pool = run(endings, nothing)
    eventually(lambda: endings.reason(pool) == "no job is due")
    monkeypatch.setattr(queue.services.inspection, "is_idle", refuse)
    assert endings.reason(pool) is None


def test_a_burst_runs_what_was_held_until_somebody_knew_its_task(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = Endings(burst=True)
    pool = run(endings, nothing)
    eventually(lambda: endings.reason(pool) == "no job is due")
    pool.stop_all(30)
    monkeypatch.setattr(
        queue.services.dispatchers, "release_held", lambda _shard: queue.enqueue({})
    )
    assert endings.reason(pool) != "no job is due"


def test_a_job_that_begins_and_ends_during_the_look_keeps_the_burst(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = Endings(burst=True)
    pool = run(endings, nothing)
    eventually(lambda: endings.reason(pool) == "no job is due")
    is_idle = pool.wait_for_idle

    def work_meanwhile(timeout: float) -> bool:
        endings.note_start()
        return is_idle(timeout)

    monkeypatch.setattr(pool, "wait_for_idle", work_meanwhile)
    assert endings.reason(pool) is None


# Otherwise


def test_without_any_of_these_nothing_is_counted_and_the_end_comes_with_the_last_worker(
    queue: Queue, run: Run
) -> None:
    endings = Endings()
    assert not endings.are_possible
    pool = run(endings, nothing)
    assert endings.reason(pool) is None
    pool.stop_all(30)
    assert endings.reason(pool) == "no worker runs any more"
    assert Endings(burst=True).are_possible
    assert Endings(jobs=1).are_possible
    assert Endings(memory=1, jobs=math.inf).are_possible
