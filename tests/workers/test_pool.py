import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from queue_max import ConfigurationError, Queue, Worker, WorkerPool
from queue_max.workers import pool as pool_module

MakeQueue = Callable[..., Queue]
MakeWorker = Callable[..., Worker]
Eventually = Callable[[Callable[[], object]], None]


def nothing(payload: object) -> None: ...


@pytest.fixture
def crowd(make_worker: MakeWorker) -> list[Worker]:
    return [make_worker(nothing, f"w{number}") for number in range(3)]


def add_jobs(queue: Queue, number: int) -> None:
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(number)])


def names(pool: WorkerPool) -> list[str]:
    return [worker.worker_id for worker in pool.workers]


# Together


def test_all_workers_start_and_stop_together(crowd: list[Worker]) -> None:
    pool = WorkerPool(crowd)
    assert pool.workers == crowd
    assert not any(worker.is_running for worker in crowd)
    pool.start_all()
    assert all(worker.is_running for worker in crowd)
    assert pool.stop_all(30) is True
    assert not any(worker.is_running for worker in crowd)


def test_a_pool_can_be_started_and_stopped_again(queue: Queue, crowd: list[Worker]) -> None:
    pool = WorkerPool(crowd)
    for _ in range(2):
        pool.start_all()
        add_jobs(queue, 5)
        assert pool.wait_for_idle(30)
        assert pool.stop_all(30)
    assert queue.get_stats()["completed"] == 10


def test_a_block_starts_and_stops_the_workers(queue: Queue, crowd: list[Worker]) -> None:
    add_jobs(queue, 10)
    with WorkerPool(crowd) as pool:
        assert pool.wait_for_idle(30)
    assert queue.get_stats()["completed"] == 10
    assert not any(worker.is_running for worker in crowd)


def test_stopping_lets_all_running_jobs_end_and_takes_no_other(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    pool = WorkerPool([make_worker(gate, f"w{number}") for number in range(2)])
    add_jobs(queue, 3)
    pool.start_all()
    for _ in pool.workers:
        gate.await_entry()
    assert pool.stop_all(timeout=0.01) is False
    gate.open()
    assert pool.stop_all(timeout=None) is True
    stats = queue.get_stats()
    assert (stats["completed"], stats["pending"], stats["processing"]) == (2, 1, 0)


def test_no_worker_takes_a_job_while_the_pool_waits_for_another(
    queue: Queue, make_worker: MakeWorker, gate: Any, eventually: Eventually
) -> None:
    add_jobs(queue, 1)
    busy, idle = make_worker(gate, "busy"), make_worker(nothing, "idle")
    busy.start()
    gate.await_entry()
    pool = WorkerPool([busy, idle])
    pool.start_all()
    stopping = threading.Thread(target=pool.stop_all, args=(None,))
    stopping.start()
    eventually(lambda: not idle.is_running)
    assert busy.is_running
    gate.open()
    stopping.join(30)
    assert not busy.is_running


def test_one_timeout_holds_for_all_workers(
    queue: Queue, make_worker: MakeWorker, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    stop = Worker.stop

    def note(worker: Worker, timeout: float | None = 10.0) -> bool:
        waits.append(timeout)
        return stop(worker, timeout)

    pool = WorkerPool([make_worker(gate, f"w{number}") for number in range(3)])
    add_jobs(queue, 3)
    pool.start_all()
    for _ in pool.workers:
        gate.await_entry()
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "stop", note)
        assert pool.stop_all(timeout=0.05) is False
    assert waits[0] is not None
    assert waits[0] <= 0.05
    assert waits[1:] == [0.0, 0.0]


def test_a_pool_may_be_empty() -> None:
    with WorkerPool() as pool:
        assert pool.wait_for_idle(timeout=0) is True
        assert pool.get_stats()["total_workers"] == 0


# Adding and removing


def test_a_worker_added_to_a_running_pool_runs(queue: Queue, make_worker: MakeWorker) -> None:
    worker = make_worker(nothing)
    with WorkerPool() as pool:
        pool.add_worker(worker)
        assert worker.is_running
        add_jobs(queue, 1)
        assert queue.wait_until_empty(30)


def test_a_worker_added_to_a_pool_that_does_not_run_waits_for_it(make_worker: MakeWorker) -> None:
    pool, worker = WorkerPool(), make_worker(nothing)
    pool.add_worker(worker)
    assert not worker.is_running
    pool.start_all()
    assert worker.is_running
    pool.stop_all(30)
    pool.add_worker(other := make_worker(nothing, "other"))
    assert not other.is_running


def test_a_removed_worker_is_stopped_and_the_others_go_on(crowd: list[Worker]) -> None:
    with WorkerPool(crowd) as pool:
        assert pool.remove_worker(crowd[1]) is True
        assert names(pool) == ["w0", "w2"]
        assert [worker.is_running for worker in crowd] == [True, False, True]


def test_removing_a_worker_says_when_its_job_takes_longer(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    worker = make_worker(gate)
    add_jobs(queue, 1)
    with WorkerPool([worker]) as pool:
        gate.await_entry()
        assert pool.remove_worker(worker, timeout=0) is False
        assert pool.workers == []
        gate.open()


def test_what_is_no_worker_cannot_be_added() -> None:
    pool = WorkerPool()
    with pytest.raises(ConfigurationError, match="worker=5"):
        pool.add_worker(5)  # type: ignore[arg-type]
    assert pool.workers == []


def test_a_worker_that_is_not_in_the_pool_cannot_be_removed(make_worker: MakeWorker) -> None:
    with pytest.raises(ValueError, match="not in"):
        WorkerPool().remove_worker(make_worker(nothing))


# Looking


def test_stats_list_the_workers_and_their_sums(queue: Queue, make_worker: MakeWorker) -> None:
    def work(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            raise ValueError("it broke")

    pool = WorkerPool([make_worker(work, name) for name in ("a", "b")])
    add_jobs(queue, 5)
    queue.enqueue({"n": 0}, max_retries=0)
    with pool:
        assert pool.wait_for_idle(30)
    stats = pool.get_stats()
    each = stats.pop("workers")
    assert [one["worker_id"] for one in each] == ["a", "b"]
    assert sum(one["processed"] for one in each) == 4
    assert stats == {
        "total_workers": 2,
        "total_processed": 4,
        "total_failed": 1,
        "total_retried": 1,
        "auto_scale_enabled": False,
    }


def test_a_pool_is_not_idle_while_a_job_waits_or_runs(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    pool = WorkerPool([make_worker(gate)])
    add_jobs(queue, 1)
    assert pool.wait_for_idle(timeout=0) is False
    with pool:
        gate.await_entry()
        assert pool.wait_for_idle(timeout=0.01) is False
        gate.open()
        assert pool.wait_for_idle() is True


def test_a_pool_is_not_idle_while_another_process_runs_a_job(
    queue: Queue, make_worker: MakeWorker
) -> None:
    add_jobs(queue, 1)
    queue.pop_job("another")
    pool = WorkerPool([make_worker(nothing)])
    assert pool.wait_for_idle(timeout=0) is False
    queue.complete_job(1, 0)
    assert pool.wait_for_idle(timeout=0) is True


def test_a_pool_is_idle_while_a_job_only_waits_for_its_next_attempt(
    queue: Queue, make_worker: MakeWorker
) -> None:
    def fail(payload: object) -> None:
        raise ValueError("it broke")

    add_jobs(queue, 1)
    with WorkerPool([make_worker(fail)]) as pool:
        assert pool.wait_for_idle(30) is True
    assert queue.get_stats()["scheduled"] == 1


def test_a_pool_over_two_queues_is_idle_when_both_are(
    make_queue: MakeQueue, make_worker: MakeWorker, data_dir: Any
) -> None:
    other = make_queue(shards=1, data_dir=data_dir / "other")
    other.enqueue({})
    pool = WorkerPool([make_worker(nothing), make_worker(nothing, "w2", queue=other)])
    assert pool.wait_for_idle(timeout=0) is False
    with pool:
        assert pool.wait_for_idle(30) is True
    assert other.get_stats()["completed"] == 1


def test_the_sums_keep_what_workers_did_that_were_taken_out(
    queue: Queue, crowd: list[Worker]
) -> None:
    pool = WorkerPool(crowd)
    for left in (crowd[2:], crowd[1:2], crowd[:1]):
        with pool:
            add_jobs(queue, 6)
            assert pool.wait_for_idle(30)
            for worker in left:
                pool.remove_worker(worker)
        assert pool.get_stats()["total_processed"] == queue.get_stats()["completed"]
    assert (pool.get_stats()["total_workers"], pool.get_stats()["total_processed"]) == (0, 18)


# Scaling


@pytest.fixture
def make_pool(queue: Queue, make_worker: MakeWorker) -> Callable[..., WorkerPool]:
    """Make pools of one worker that is not started, scaled by hand between one and three."""

    def make(workers: list[Worker] | None = None, **options: Any) -> WorkerPool:
        defaults: dict[str, Any] = {
            "max_workers": 3,
            "scale_up_threshold": 5,
            "scale_down_threshold": 2,
        }
        first = [make_worker(nothing)] if workers is None else workers
        return WorkerPool(first, **defaults | options)

    return make


def test_a_pool_grows_one_by_one_up_to_its_bound(
    queue: Queue, make_pool: Callable[..., WorkerPool]
) -> None:
    pool = make_pool()
    add_jobs(queue, 6)
    sizes = []
    for _ in range(4):
        pool.scale()
        sizes.append(len(pool.workers))
    assert sizes == [2, 3, 3, 3]
    assert names(pool) == ["worker-1", "pool-worker-1", "pool-worker-2"]


def test_a_pool_shrinks_one_by_one_down_to_its_bound(
    crowd: list[Worker], make_pool: Callable[..., WorkerPool]
) -> None:
    pool = make_pool(crowd, min_workers=2)
    for _ in range(3):
        pool.scale()
    assert names(pool) == ["w0", "w1"]


def test_a_pool_shrinks_by_a_worker_that_has_no_job_if_there_is_one(
    queue: Queue, make_worker: MakeWorker, gate: Any, make_pool: Callable[..., WorkerPool]
) -> None:
    pool = make_pool([make_worker(nothing, "idle"), make_worker(gate, "busy")])
    add_jobs(queue, 1)
    pool.workers[1].start()
    gate.await_entry()
    pool.scale()
    assert names(pool) == ["busy"]


def test_a_pool_stays_as_it_is_between_its_thresholds(
    queue: Queue, crowd: list[Worker], make_pool: Callable[..., WorkerPool]
) -> None:
    pool = make_pool(crowd[:2])
    add_jobs(queue, 3)
    pool.scale()
    assert len(pool.workers) == 2


def test_jobs_that_wait_for_their_next_attempt_count_as_waiting(
    queue: Queue, make_pool: Callable[..., WorkerPool]
) -> None:
    pool = make_pool()
    add_jobs(queue, 6)
    for _ in range(6):
        job = queue.pop_job("w")
        assert job is not None
        queue.fail_job(job.id, job.shard_id, "it broke")
    pool.scale()
    assert len(pool.workers) == 2


def test_further_workers_are_copies_with_all_options(
    queue: Queue, make_worker: MakeWorker, make_pool: Callable[..., WorkerPool]
) -> None:
    done: list[str] = []

    async def work(payload: dict[str, Any]) -> Any:
        return payload["n"]

    first = make_worker(
        work,
        poll_interval=0.004,
        job_timeout=60.0,
        on_job_complete=lambda worker_id, job_id, result: done.append(worker_id),
    )
    pool = make_pool([first])
    add_jobs(queue, 6)
    pool.scale()
    copy = pool.workers[1]
    assert (copy.poll_interval, copy.job_timeout) == (0.004, 60.0)
    copy.start()
    assert queue.wait_until_empty(30)
    assert copy.stop(30)
    assert done == ["pool-worker-1"] * 6


def test_a_factory_makes_the_further_workers(
    queue: Queue, make_worker: MakeWorker, make_pool: Callable[..., WorkerPool]
) -> None:
    pool = make_pool(worker_factory=lambda worker_id: make_worker(nothing, f"made-{worker_id}"))
    add_jobs(queue, 6)
    pool.scale()
    assert names(pool) == ["worker-1", "made-pool-worker-1"]


def test_a_factory_fills_an_empty_pool(
    make_worker: MakeWorker, make_pool: Callable[..., WorkerPool]
) -> None:
    pool = make_pool([], worker_factory=lambda worker_id: make_worker(nothing, worker_id))
    pool.scale()
    assert names(pool) == ["pool-worker-1"]


def test_an_empty_pool_without_a_factory_cannot_grow(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool([])
    pool.scale()
    assert pool.workers == []


@pytest.mark.parametrize("has_factory", [False, True])
def test_a_pool_that_shrank_to_nothing_grows_again(
    queue: Queue, make_worker: MakeWorker, make_pool: Callable[..., WorkerPool], has_factory: bool
) -> None:
    factory = (lambda name: make_worker(nothing, name)) if has_factory else None
    pool = make_pool(min_workers=0, worker_factory=factory)
    pool.scale()
    assert pool.workers == []
    add_jobs(queue, 6)
    pool.scale()
    assert len(pool.workers) == 1


def test_after_a_change_the_size_stays_for_the_cool_down(
    queue: Queue, make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pool = make_pool(scale_cooldown=30.0)
    add_jobs(queue, 6)
    sizes = []
    for seconds in (0, 29, 2, 29, 2):
        now[0] += seconds
        pool.scale()
        sizes.append(len(pool.workers))
    assert sizes == [2, 2, 3, 3, 3]


def test_a_look_that_changes_nothing_starts_no_cool_down(
    queue: Queue, make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    pool = make_pool(scale_cooldown=30.0)
    pool.scale()
    add_jobs(queue, 6)
    pool.scale()
    assert len(pool.workers) == 2


def test_a_running_pool_scales_by_itself_and_stops_all_it_made(
    queue: Queue,
    make_worker: MakeWorker,
    gate: Any,
    make_pool: Callable[..., WorkerPool],
    eventually: Eventually,
) -> None:
    pool = make_pool([make_worker(gate)], auto_scale=True, scale_check_interval=0.005)
    add_jobs(queue, 12)
    pool.start_all()
    eventually(lambda: len(pool.workers) == 3)
    for _ in range(3):
        gate.await_entry()
    made = list(pool.workers)
    gate.open()
    eventually(lambda: len(pool.workers) == 1)
    assert pool.stop_all(30) is True
    assert not any(worker.is_running for worker in made)
    assert queue.get_stats()["completed"] == 12
    assert "queue-max-scaling" not in {thread.name for thread in threading.enumerate()}


def test_a_pool_that_was_built_empty_scales_too(
    queue: Queue,
    make_worker: MakeWorker,
    gate: Any,
    make_pool: Callable[..., WorkerPool],
    eventually: Eventually,
) -> None:
    pool = make_pool([], auto_scale=True, scale_check_interval=0.005)
    add_jobs(queue, 12)
    with pool:
        pool.add_worker(make_worker(gate))
        eventually(lambda: len(pool.workers) == 3)
        gate.open()
        assert queue.wait_until_empty(30)


def test_a_pool_does_not_scale_unless_asked_to(
    queue: Queue, make_worker: MakeWorker, make_pool: Callable[..., WorkerPool]
) -> None:
    with make_pool():
        assert "queue-max-scaling" not in {thread.name for thread in threading.enumerate()}


def test_a_pool_stops_in_time_although_it_is_just_removing_a_busy_worker(
    queue: Queue,
    make_worker: MakeWorker,
    gate: Any,
    make_pool: Callable[..., WorkerPool],
    eventually: Eventually,
) -> None:
    busy = [make_worker(gate, f"w{number}") for number in range(2)]
    pool = make_pool(busy, auto_scale=True, scale_check_interval=0.005)
    add_jobs(queue, 2)
    pool.start_all()
    eventually(lambda: len(pool.workers) == 1)
    stopping = threading.Thread(target=pool.stop_all, args=(0.01,))
    stopping.start()
    stopping.join(5)  # far more than was allowed, and less than a removal waits
    assert not stopping.is_alive()


def test_stopping_waits_for_a_worker_that_was_scaled_away_in_the_midst_of_its_job(
    queue: Queue, make_worker: MakeWorker, gate: Any, make_pool: Callable[..., WorkerPool]
) -> None:
    add_jobs(queue, 2)
    pool = make_pool([make_worker(gate, f"busy-{number}") for number in range(2)])
    pool.start_all()
    for _ in range(2):
        gate.await_entry()
    pool.scale()
    assert names(pool) == ["busy-0"]
    assert pool.stop_all(timeout=0.01) is False
    gate.open()
    assert pool.stop_all(30) is True
    assert queue.get_stats()["completed"] == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_workers": 5, "max_workers": 2}, "min_workers=5"),
        ({"scale_up_threshold": 1, "scale_down_threshold": 1}, "scale_down_threshold=1"),
        ({"scale_check_interval": 0}, "scale_check_interval=0"),
        ({"scale_check_interval": -1}, "scale_check_interval=-1"),
        ({"scale_cooldown": -1}, "scale_cooldown=-1"),
        ({"min_workers": "1"}, "min_workers='1'"),
        ({"max_workers": 2.5}, "max_workers=2.5"),
        ({"scale_up_threshold": "5"}, "scale_up_threshold='5'"),
        ({"worker_factory": 5}, "worker_factory=5"),
        ({"workers": [5]}, "worker=5: should be a Worker"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        WorkerPool(**options)
