import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from queue_max import (
    ConfigurationError,
    Job,
    JobStatus,
    JobTimeoutError,
    Permanent,
    Queue,
    QueueClosedError,
    ResultNotKeptError,
    Worker,
    WorkerState,
)
from queue_max.services.dispatcher import Dispatcher
from queue_max.services.settlement import SettlementService
from queue_max.storage import driver
from queue_max.workers.upkeep import Upkeep

MakeQueue = Callable[..., Queue]
MakeWorker = Callable[..., Worker]
Eventually = Callable[[Callable[[], object]], None]

ANY_END = [
    ValueError("it broke"),
    KeyboardInterrupt(),
    SystemExit(1),
    GeneratorExit(),
    BaseException("anything"),
]

SOME_END = [ValueError("it broke"), KeyboardInterrupt(), SystemExit(1)]


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **facts: object) -> None:
        raise error

    return fail


def sql(queue: Queue, statement: str, shard_id: int = 0) -> None:
    path = Path(queue.data_dir) / f"shard_{shard_id}.db"
    connection = driver.choose().module.connect(path, isolation_level=None, timeout=30)
    try:
        connection.execute(statement)
    finally:
        connection.close()


@contextmanager
def written_by_another(queue: Queue) -> Iterator[None]:
    """Hold the write lock of the first shard, as another process would, within the block."""
    path = Path(queue.data_dir) / "shard_0.db"
    connection = driver.choose().module.connect(path, isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


def seen_callbacks() -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Callable[..., None]]]:
    """Give a list that grows by each call, and the three callbacks of a worker."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda **facts: seen.append((name, facts))

    names = ("on_job_start", "on_job_complete", "on_job_error")
    return seen, {name: note(name) for name in names}


# Making one


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"worker_id": None}, "worker_id=None"),
        ({"worker_id": "a\0b"}, "worker_id="),
        ({"process_function": "mod:f"}, "process_function='mod:f'"),
        ({"process_function": lambda: None}, "should take one argument, a job's payload: too many"),
        ({"process_function": lambda a, b: None}, "missing a required argument: 'b'"),
        ({"process_function": lambda payload: (yield)}, "is a generator"),
        ({"on_job_start": 5}, "on_job_start=5"),
        ({"on_job_complete": "mod:f"}, "on_job_complete='mod:f'"),
        ({"on_job_error": []}, "on_job_error="),
        *(
            ({name: value}, f"{name}=")
            for name in ("poll_interval", "job_timeout")
            for value in (0, -1, math.nan, True, "1")
        ),
    ],
)
def test_a_bad_argument_is_refused_by_name(
    queue: Queue, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Worker(**{"worker_id": "w", "process_function": print, "queue": queue} | options)


def test_without_a_queue_one_is_opened_by_the_settings(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    monkeypatch.setenv("NUM_SHARDS", "2")
    worker = Worker("w", print)
    assert (worker.queue.data_dir, worker.queue.num_shards) == (str(data_dir), 2)
    worker.queue.close()


def test_its_states_are_those_of_the_contract(
    queue: Queue, make_worker: MakeWorker, gate: Any, eventually: Eventually
) -> None:
    queue.enqueue({})
    worker = make_worker(gate)
    assert (worker.state, worker.is_running) == ("initialized", False)
    worker.start()
    gate.await_entry()
    assert (worker.state, worker.is_running) == ("running", True)
    worker.request_stop()
    assert (worker.state, worker.is_running) == ("stopping", True)
    gate.open()
    assert worker.stop(30)
    assert (worker.state, worker.is_running) == ("stopped", False)
    assert type(worker.state) is str


# Running jobs


def test_jobs_run_one_after_the_other_with_their_payloads(
    queue: Queue, make_worker: MakeWorker
) -> None:
    seen: list[dict[str, Any]] = []
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(5)])
    make_worker(seen.append).start()
    assert queue.wait_until_empty(30)
    assert seen == [{"n": n} for n in range(5)]
    assert queue.get_stats()["completed"] == 5


def test_a_coroutine_function_is_awaited(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    seen, callbacks = seen_callbacks()

    async def work(payload: dict[str, Any]) -> int:
        return int(payload["n"]) + 1

    queue.enqueue({"n": 1})
    make_worker(work, **callbacks).start()
    eventually(lambda: len(seen) == 2)
    assert seen[1] == ("on_job_complete", {"worker_id": "worker-1", "job_id": 1, "result": 2})


def test_callbacks_are_called_by_keyword_for_a_job_done(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    seen, callbacks = seen_callbacks()
    queue.enqueue({"n": 1})
    make_worker(lambda payload: "done", **callbacks).start()
    eventually(lambda: len(seen) == 2)
    assert seen == [
        ("on_job_start", {"worker_id": "worker-1", "job_id": 1, "payload": {"n": 1}}),
        ("on_job_complete", {"worker_id": "worker-1", "job_id": 1, "result": "done"}),
    ]


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (ValueError("it broke"), False),
        (RuntimeError("HTTP 503"), False),
        (RuntimeError("HTTP 404"), True),
        (Permanent("bad page"), True),
    ],
)
def test_callbacks_are_called_by_keyword_for_a_job_that_failed(
    queue: Queue,
    make_worker: MakeWorker,
    eventually: Eventually,
    error: Exception,
    permanent: bool,
) -> None:
    seen, callbacks = seen_callbacks()
    queue.enqueue({})
    make_worker(raiser(error), **callbacks).start()
    eventually(lambda: len(seen) == 2)
    assert seen[1] == (
        "on_job_error",
        {"worker_id": "worker-1", "job_id": 1, "error": str(error), "permanent": permanent},
    )
    expected = JobStatus.FAILED if permanent else JobStatus.SCHEDULED
    assert queue.list_jobs()[0].status == expected


def test_callbacks_come_after_the_outcome_is_stored(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    left: list[int] = []
    queue.enqueue({})
    make_worker(
        lambda payload: None,
        on_job_complete=lambda **facts: left.append(len(queue.list_jobs())),
    ).start()
    eventually(lambda: left)
    assert left == [0]


@pytest.mark.parametrize("error", SOME_END, ids=repr)
@pytest.mark.parametrize("callback", ["on_job_start", "on_job_complete"])
def test_a_callback_that_fails_harms_nobody(
    queue: Queue,
    make_worker: MakeWorker,
    eventually: Eventually,
    callback: str,
    error: BaseException,
) -> None:
    queue.enqueue_batch([{"payload": {}}] * 2)
    worker = make_worker(lambda payload: None, **{callback: raiser(error)})
    worker.start()
    eventually(lambda: worker.get_stats()["processed"] == 2 or not worker.is_running)
    assert (worker.state, worker.get_stats()["processed"]) == ("running", 2)
    assert queue.get_stats()["completed"] == 2


@pytest.mark.parametrize("error", SOME_END, ids=repr)
def test_an_error_callback_that_fails_harms_nobody(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually, error: BaseException
) -> None:
    queue.enqueue_batch([{"payload": {}}] * 2)
    worker = make_worker(raiser(ValueError("it broke")), on_job_error=raiser(error))
    worker.start()
    eventually(lambda: worker.get_stats()["retried"] == 2 or not worker.is_running)
    assert worker.state == "running"


@pytest.mark.parametrize("error", SOME_END, ids=repr)
@pytest.mark.parametrize("event", ["job_completed", "job_retried"])
def test_a_subscriber_that_fails_harms_no_worker(
    queue: Queue,
    make_worker: MakeWorker,
    eventually: Eventually,
    event: str,
    error: BaseException,
) -> None:
    def fail_the_first(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            raise ValueError("it broke")

    queue.on(event, raiser(error))
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(3)])
    worker = make_worker(fail_the_first)
    worker.start()
    eventually(lambda: queue.get_stats()["completed"] == 2 or not worker.is_running)
    assert worker.state == "running"


@pytest.mark.parametrize("error", ANY_END, ids=repr)
def test_an_exception_of_any_kind_fails_the_job_and_the_worker_goes_on(
    queue: Queue, make_worker: MakeWorker, error: BaseException
) -> None:
    def work(payload: dict[str, Any]) -> None:
        if payload["n"] == 1:
            raise error

    queue.enqueue({"n": 1}, max_retries=0)
    queue.enqueue({"n": 2})
    worker = make_worker(work)
    worker.start()
    assert queue.wait_until_empty(30)
    (failed,) = queue.get_failed_jobs()
    assert (failed.payload, failed.error_type) == ({"n": 1}, type(error).__name__)
    assert (worker.state, queue.get_stats()["completed"]) == ("running", 1)


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class UnaskableError(Exception):
    @property
    def status_code(self) -> int:
        raise RuntimeError("no status")


class ShapelessError(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__name__":
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=Nameless):
    pass


@pytest.mark.parametrize("error", [ShapelessError, NamelessError], ids=["class", "name"])
def test_an_exception_that_cannot_even_be_looked_at_fails_the_job_all_the_same(
    queue: Queue, make_worker: MakeWorker, error: type[Exception]
) -> None:
    def fail(payload: object) -> None:
        raise error

    queue.enqueue({}, max_retries=0)
    worker = make_worker(fail)
    worker.start()
    assert queue.wait_until_empty(10)
    assert [job.last_error for job in queue.get_failed_jobs()] == ["its error cannot be told"]


def test_a_result_that_breaks_when_it_is_written_is_not_kept(
    queue: Queue, make_worker: MakeWorker
) -> None:
    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("no items")

    job = queue.enqueue({}, keep_result=60)
    make_worker(lambda payload: Broken(n=1)).start()
    assert queue.wait_until_empty(10)
    with pytest.raises(ResultNotKeptError, match="could not be kept"):
        job.result(0)


@pytest.mark.parametrize(
    "error",
    [UnspeakableError(), UnaskableError("it broke"), FileNotFoundError("no file \udce9.txt")],
    ids=["its text raises", "its status raises", "its text has no form in UTF-8"],
)
def test_an_exception_that_is_itself_broken_fails_the_job_and_the_worker_goes_on(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually, error: Exception
) -> None:
    def work(payload: dict[str, Any]) -> None:
        if payload["n"] == 1:
            raise error

    queue.enqueue({"n": 1}, max_retries=0)
    queue.enqueue({"n": 2})
    worker = make_worker(work)
    worker.start()
    eventually(lambda: not queue.list_jobs("pending") or not worker.is_running)
    assert worker.state == "running"
    assert queue.wait_until_empty(30)
    assert [job.error_type for job in queue.get_failed_jobs()] == [type(error).__name__]


def test_a_row_that_cannot_be_read_does_not_end_the_worker(
    make_queue: MakeQueue, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(shards=2)
    queue.enqueue({}, pagina_id=0)
    sql(queue, "UPDATE fila SET payload = '{\"cut'")
    worker = Worker("w", print, queue, poll_interval=0.005)
    worker.start()
    try:
        eventually(lambda: caplog.records)
        queue.enqueue_batch([{"payload": {}, "pagina_id": 1}] * 5)
        eventually(lambda: queue.get_stats()["completed"] == 5 or not worker.is_running)
        assert worker.state == "running"
    finally:
        worker.stop()


def test_jobs_that_other_code_enqueues_meanwhile_are_found(
    queue: Queue, make_worker: MakeWorker
) -> None:
    make_worker(lambda payload: None).start()
    for _ in range(3):
        queue.enqueue({})
        assert queue.wait_until_empty(30)
    assert queue.get_stats()["completed"] == 3


def test_several_workers_run_each_job_once(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=2)
    seen: list[int] = []
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(200)])
    workers = [
        Worker(f"w{number}", lambda payload: seen.append(payload["n"]), queue, poll_interval=0.005)
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    assert queue.wait_until_empty(60)
    assert all(worker.stop(30) for worker in workers)
    assert sorted(seen) == list(range(200))
    assert sum(worker.get_stats()["processed"] for worker in workers) == 200


# Time limits


def test_a_job_that_takes_too_long_fails_and_the_next_ones_are_not_hurt(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    quick: list[int] = []

    def work(payload: dict[str, Any]) -> None:
        if payload["n"] == 0:
            gate(payload)
        quick.append(payload["n"])

    queue.enqueue({"n": 0}, max_retries=0)
    queue.enqueue_batch([{"payload": {"n": n}} for n in (1, 2, 3)])
    # Long enough for the quick ones on a machine that is very busy.
    make_worker(work, job_timeout=1.0).start()
    assert queue.wait_until_empty(30)
    assert quick == [1, 2, 3]
    (failed,) = queue.get_failed_jobs()
    assert (failed.payload, failed.error_type) == ({"n": 0}, JobTimeoutError.__name__)


def test_a_worker_with_a_time_limit_can_be_stopped_and_started(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    worker = make_worker(lambda payload: payload["n"] or gate(payload), job_timeout=0.02)
    queue.enqueue({"n": 0}, max_retries=0)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    worker.job_timeout = 60
    queue.enqueue({"n": 1})
    worker.start()
    assert queue.wait_until_empty(30)
    assert (queue.get_stats()["completed"], queue.get_stats()["failed"]) == (1, 1)


# Stopping


def test_stop_waits_for_the_running_job_and_takes_no_other(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    queue.enqueue_batch([{"payload": {}}] * 2)
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    worker.request_stop()
    gate.open()
    assert worker.stop() is True
    stats = queue.get_stats()
    assert (stats["completed"], stats["pending"], stats["processing"]) == (1, 1, 0)


def test_stop_says_when_the_job_takes_longer_and_its_outcome_is_stored_later(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    queue.enqueue({})
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    assert worker.stop(0) is False
    assert worker.stop(timeout=0.01) is False
    assert (worker.state, worker.is_running) == ("error", True)
    gate.open()
    assert worker.stop(None) is True
    assert (worker.state, worker.is_running) == ("stopped", False)
    assert queue.get_stats()["completed"] == 1


def test_an_idle_worker_stops_without_waiting_for_its_next_look(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    worker = make_worker(print, poll_interval=3600)
    worker.start()
    eventually(lambda: worker.state == "running")
    assert worker.stop(30) is True


def test_a_worker_without_a_token_stops_without_waiting_for_one(
    make_queue: MakeQueue, eventually: Eventually
) -> None:
    queue = make_queue(shards=1, rate_limit=1, rate_limiter_timeout=3600)
    queue.enqueue_batch([{"payload": {}}] * 2)
    worker = Worker("w", lambda payload: None, queue)
    worker.start()
    eventually(lambda: queue.get_stats()["completed"] == 1)
    assert worker.stop(30) is True
    assert queue.get_stats()["pending"] == 1


def test_an_idle_worker_takes_no_tokens(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(shards=1, rate_limit=1)
    looks = threading.Semaphore(0)
    worker = Worker("w", lambda payload: None, queue, poll_interval=0.001)
    dispatcher = queue.services.dispatchers.of(worker.chosen_queues())
    take = dispatcher.take

    def counted(worker_id: str, look_every: float) -> Job | None:
        looks.release()
        return take(worker_id, look_every)

    monkeypatch.setattr(dispatcher, "take", counted)
    worker.start()
    for _ in range(10):
        assert looks.acquire(timeout=30)
    assert queue.rate_limiter.get_remaining_tokens() == 1
    assert worker.stop(30)


def test_stopping_twice_or_before_the_start_is_harmless(make_worker: MakeWorker) -> None:
    worker = make_worker(print)
    assert worker.stop() is True
    worker.start()
    assert worker.stop() is True
    assert worker.stop() is True


@pytest.mark.parametrize("claim", ["works", "breaks"])
def test_a_worker_asked_to_stop_while_it_is_ending_keeps_its_last_state(
    make_worker: MakeWorker,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    claim: str,
) -> None:
    leaving, left = threading.Event(), threading.Event()
    leave = Upkeep.leave

    def leave_slowly(upkeep: Upkeep, worker: Worker) -> None:
        leaving.set()
        assert left.wait(30)
        leave(upkeep, worker)

    monkeypatch.setattr(Upkeep, "leave", leave_slowly)
    if claim == "breaks":
        monkeypatch.setattr(Dispatcher, "take", raiser(SystemExit("lost")))
    worker = make_worker(print)
    worker.start()
    eventually(lambda: worker.state != "starting")
    worker.request_stop()
    assert leaving.wait(30)
    worker.request_stop()
    left.set()
    assert worker.stop(30)
    assert worker.state == ("stopped" if claim == "works" else "error")


def test_starting_twice_runs_one_thread(
    queue: Queue, make_worker: MakeWorker, gate: Any, eventually: Eventually
) -> None:
    queue.enqueue_batch([{"payload": {}}] * 2)
    worker = make_worker(gate)
    worker.start()
    worker.start()
    gate.await_entry()
    assert queue.get_stats()["processing"] == 1
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("queue-max-worker-1") == 1


def test_a_stopped_worker_can_start_again(queue: Queue, make_worker: MakeWorker) -> None:
    worker = make_worker(lambda payload: None)
    for number in (1, 2):
        queue.enqueue({})
        worker.start()
        assert queue.wait_until_empty(30)
        assert worker.stop(30)
        assert queue.get_stats()["completed"] == number


def test_a_worker_started_again_while_its_last_job_runs_takes_jobs_afterwards(
    queue: Queue, make_worker: MakeWorker, gate: Any, eventually: Eventually
) -> None:
    queue.enqueue_batch([{"payload": {}}] * 3)
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    assert worker.stop(0) is False
    worker.start()
    gate.open()
    eventually(lambda: queue.get_stats()["completed"] == 3 or not worker.is_running)
    assert (worker.state, queue.get_stats()["completed"]) == ("running", 3)


def test_a_job_may_stop_its_own_worker(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    queue.enqueue_batch([{"payload": {}}] * 2)
    workers: list[Worker] = []
    workers.append(make_worker(lambda payload: workers[0].stop()))
    workers[0].start()
    eventually(lambda: workers[0].state == "stopped")
    assert (queue.get_stats()["completed"], queue.get_stats()["pending"]) == (1, 1)


def test_a_worker_whose_queue_is_closed_ends(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    worker = make_worker(print)
    worker.start()
    eventually(lambda: worker.state == "running")
    queue.close()
    eventually(lambda: not worker.is_running)
    assert worker.state == "stopped"


def test_a_worker_whose_queue_is_closed_just_as_it_turns_idle_ends_as_well(
    queue: Queue,
    make_worker: MakeWorker,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Dispatcher, "wait", raiser(QueueClosedError()))
    worker = make_worker(print)
    worker.start()
    eventually(lambda: not worker.is_running)
    assert worker.state == "stopped"


def test_a_job_that_ends_after_its_queue_was_closed_is_left_for_recovery(
    make_queue: MakeQueue, queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    queue.enqueue({})
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    queue.close()
    gate.open()
    assert worker.stop(30)
    assert (worker.state, worker.get_stats()["processed"]) == ("stopped", 0)
    assert len(make_queue().get_processing_jobs()) == 1


# Leaving at once


def test_a_running_job_can_be_handed_back(queue: Queue, make_worker: MakeWorker, gate: Any) -> None:
    queue.enqueue({})
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    assert worker.hand_back() == 1
    (job,) = queue.list_jobs()
    assert (job.status, job.attempts, job.worker_id) == (JobStatus.PENDING, 1, None)


def test_what_a_job_does_after_it_was_handed_back_counts_no_more(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    queue.enqueue({})
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    worker.hand_back()
    gate.open()
    assert worker.stop(30)
    assert queue.list_jobs()[0].status == JobStatus.PENDING
    assert queue.get_stats()["completed"] == 0
    assert (worker.get_stats()["processed"], worker.get_stats()["lost"]) == (0, 0)


def test_a_worker_started_again_after_it_handed_its_job_back_stores_what_it_does_next(
    queue: Queue, make_worker: MakeWorker, gate: Any, eventually: Eventually
) -> None:
    queue.enqueue({})
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    worker.hand_back()
    worker.start()
    gate.open()
    eventually(lambda: queue.get_stats()["completed"] == 1)
    assert worker.get_stats()["processed"] == 1


def test_a_job_on_its_last_attempt_is_buried_when_handed_back(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    queue.enqueue({}, max_retries=0)
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    assert worker.hand_back() == 1
    assert len(queue.get_failed_jobs()) == 1


def test_an_idle_worker_has_nothing_to_hand_back(make_worker: MakeWorker) -> None:
    worker = make_worker(print)
    worker.start()
    assert worker.hand_back() == 0
    assert worker.stop(30)


# Leases


def test_the_lease_of_a_running_job_is_kept(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue, eventually: Eventually
) -> None:
    monkeypatch.setenv("HEARTBEAT_INTERVAL", "5")
    queue = make_queue(shards=1)
    beats: set[str | None] = set()

    def work(payload: object) -> None:
        eventually(lambda: beats.add(queue.get_processing_jobs()[0].heartbeat) or len(beats) > 3)

    queue.enqueue({})
    worker = Worker("w", work, queue)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    assert queue.get_stats()["completed"] == 1
    assert worker.get_stats()["last_heartbeat_at"] is not None


def test_a_job_is_no_longer_kept_once_it_has_ended(
    queue: Queue, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[object] = []
    queue.enqueue({}, max_retries=0)
    queue.enqueue({"fine": True})
    worker = make_worker(lambda payload: payload["fine"])
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    monkeypatch.setattr(
        "queue_max.repositories.leases.LeaseRepository.renew",
        lambda _, leases: renewed.append(leases),
    )
    queue.services.leases.renew()
    assert renewed == []


def test_an_outcome_that_comes_after_the_lease_was_lost_is_dropped_and_counted(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    seen, callbacks = seen_callbacks()
    queue.enqueue({})
    worker = make_worker(gate, **callbacks)
    worker.start()
    gate.await_entry()
    queue.purge_queue("processing", force=True)
    gate.open()
    assert worker.stop(30)
    stats = worker.get_stats()
    assert (stats["lost"], stats["processed"], stats["failed"]) == (1, 0, 0)
    assert queue.get_stats()["completed"] == 0
    assert [name for name, _ in seen] == ["on_job_start"]


def test_a_failure_that_comes_after_the_lease_was_lost_is_dropped_and_counted(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    def work(payload: object) -> None:
        gate(payload)
        raise ValueError("it broke")

    queue.enqueue({})
    worker = make_worker(work)
    worker.start()
    gate.await_entry()
    sql(queue, "UPDATE fila SET heartbeat = '2000-01-01T00:00:00.000Z'")
    worker.request_stop()
    assert queue.recover_orphans() == 1
    heir = queue.pop_job("heir")
    assert heir is not None
    gate.open()
    assert worker.stop(30)
    assert worker.get_stats()["lost"] == 1
    assert queue.complete_job(heir.id, heir.shard_id, heir.fence) is True


# A database that does not answer


@pytest.mark.parametrize("error", [None, ValueError("it broke")], ids=["done", "failed"])
def test_an_outcome_is_stored_once_the_database_answers_again(
    monkeypatch: pytest.MonkeyPatch,
    make_queue: MakeQueue,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
) -> None:
    monkeypatch.setenv("DB_BUSY_TIMEOUT", "20")
    queue = make_queue(shards=1)
    runs: list[int] = []
    entered, leave = threading.Event(), threading.Event()

    def work(payload: dict[str, Any]) -> None:
        runs.append(payload["n"])
        entered.set()
        assert leave.wait(60)
        if error is not None:
            raise error

    queue.enqueue_batch([{"payload": {"n": n}, "max_retries": 0} for n in (1, 2)])
    worker = Worker("w", work, queue, poll_interval=0.005)
    worker.start()
    assert entered.wait(30)
    with written_by_another(queue):
        leave.set()
        eventually(lambda: "going on without it" in caplog.text)
        eventually(lambda: worker.get_stats()["current_job_id"] is None)
    assert queue.wait_until_empty(30)
    assert runs == [1, 2]
    assert worker.state == "running"
    assert worker.stop(30)
    done, failed = (2, 0) if error is None else (0, 2)
    stats = queue.get_stats()
    assert (stats["completed"], stats["failed"]) == (done, failed)
    assert (worker.get_stats()["processed"], worker.get_stats()["failed"]) == (done, failed)


def test_a_worker_waits_out_a_database_that_cannot_be_asked(
    make_queue: MakeQueue, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(shards=1)
    queue.enqueue({})
    sql(queue, "ALTER TABLE fila RENAME TO away")
    worker = Worker("w", lambda payload: None, queue, poll_interval=0.005)
    with caplog.at_level(logging.ERROR):
        worker.start()
        eventually(lambda: "worker w waits" in caplog.text)
    assert worker.state == "running"
    sql(queue, "ALTER TABLE away RENAME TO fila")
    assert queue.wait_until_empty(30)
    assert worker.stop(30)


def test_a_worker_can_be_stopped_while_the_database_cannot_be_asked(
    make_queue: MakeQueue, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(shards=1)
    sql(queue, "DROP TABLE fila")
    worker = Worker("w", print, queue, poll_interval=3600)
    worker.start()
    eventually(lambda: "worker w waits" in caplog.text)
    assert worker.stop(30) is True


# Looking


def test_stats_tell_what_the_contract_names_and_what_was_lost(
    queue: Queue, make_worker: MakeWorker
) -> None:
    stats = make_worker(print).get_stats()
    assert stats == {
        "worker_id": "worker-1",
        "state": "initialized",
        "is_running": False,
        "processed": 0,
        "failed": 0,
        "retried": 0,
        "lost": 0,
        "abandoned": 0,
        "started_at": None,
        "last_heartbeat_at": None,
        "total_runtime_seconds": 0.0,
        "throughput_jobs_per_hour": 0.0,
        "uptime_seconds": 0.0,
        "current_job_id": None,
    }


def test_stats_count_what_was_done(queue: Queue, make_worker: MakeWorker) -> None:
    def work(payload: dict[str, Any]) -> None:
        if payload["n"] > 0:
            raise ValueError("it broke")

    queue.enqueue_batch([{"payload": {"n": 0}}] * 3)
    queue.enqueue({"n": 1}, retry_delay=0, max_retries=2)
    worker = make_worker(work)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    stats = worker.get_stats()
    assert (stats["processed"], stats["failed"], stats["retried"]) == (3, 1, 2)
    assert stats["throughput_jobs_per_hour"] > 0
    assert stats["total_runtime_seconds"] > 0
    assert stats["started_at"].endswith("Z")
    assert (stats["state"], stats["uptime_seconds"]) == ("stopped", 0.0)


def test_the_job_that_runs_can_be_asked_for(
    queue: Queue, make_worker: MakeWorker, gate: Any
) -> None:
    queue.enqueue({"n": 1})
    worker = make_worker(gate)
    assert worker.get_current_job() is None
    worker.start()
    gate.await_entry()
    job = worker.get_current_job()
    assert job is not None
    assert (job.id, job.payload, job.worker_id) == (1, {"n": 1}, "worker-1")
    assert worker.get_stats()["current_job_id"] == 1
    gate.open()
    assert worker.stop(30)
    assert worker.get_current_job() is None


@pytest.mark.parametrize(
    ("service", "part"), [(Dispatcher, "take"), (SettlementService, "write_all")]
)
def test_an_error_nobody_foresaw_is_logged_in_full_and_waited_out(
    queue: Queue,
    make_worker: MakeWorker,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    service: type,
    part: str,
) -> None:
    sound, calls = getattr(service, part), []

    def fails_once(*args: object, **facts: object) -> object:
        calls.append(part)
        if len(calls) == 1:
            raise TypeError("a value of another type than ever")
        return sound(*args, **facts)

    monkeypatch.setattr(service, part, fails_once)
    queue.enqueue({})
    worker = make_worker(print)
    worker.start()
    eventually(lambda: worker.get_stats()["processed"] == 1)
    [record] = caplog.records
    assert record.exc_info
    assert "a value of another type than ever" in str(record.exc_info[1])


def test_a_worker_that_ended_by_an_error_of_its_own_says_so(
    make_worker: MakeWorker,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Dispatcher, "take", raiser(SystemExit("lost")))
    worker = make_worker(print)
    worker.start()
    eventually(lambda: not worker.is_running)
    assert worker.state == WorkerState.ERROR
    assert "ended by an error of its own" in caplog.text


# Copies


def test_a_copy_has_all_options_under_another_name(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    seen, callbacks = seen_callbacks()
    first = make_worker(lambda payload: 7 // payload["n"], job_timeout=60, **callbacks)
    copy = first.copy("worker-2")
    assert copy.worker_id == "worker-2"
    for name in ("process_function", "queue", "poll_interval", "job_timeout"):
        assert getattr(copy, name) == getattr(first, name)
    queue.enqueue_batch([{"payload": {"n": n}} for n in (7, 0)])
    copy.start()
    eventually(lambda: len(seen) == 4)
    assert copy.stop(30)
    assert sorted(name for name, _ in seen) == [
        "on_job_complete",
        "on_job_error",
        "on_job_start",
        "on_job_start",
    ]
    assert {facts["worker_id"] for _, facts in seen} == {"worker-2"}


def test_a_copy_is_of_the_same_class(queue: Queue) -> None:
    class Special(Worker):
        pass

    assert type(Special("a", print, queue).copy("b")) is Special
