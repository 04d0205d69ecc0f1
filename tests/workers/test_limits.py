"""Limits, breakers and pauses, as workers meet them."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max import ConfigurationError, Queue, Worker, task
from queue_max.cli.endings import Endings
from queue_max.limits.rates import Rate
from queue_max.tasks.binding import set_default_queue
from queue_max.workers import repertoire
from queue_max.workers.pool import WorkerPool

from .conftest import Gate

Eventually = Callable[[Callable[[], object]], None]
MakeWorker = Callable[..., Worker]


@pytest.fixture
def _tasks(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> Iterator[None]:
    """Begin without any task, and let those that are made use this queue."""
    monkeypatch.setattr(repertoire.tasks, "_tasks", {})
    set_default_queue(queue)
    yield
    set_default_queue(None)


class Crowd:
    """A job's function that notes how many run at once, by a key of their payloads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[int] = []

    def __call__(self, payload: dict[str, Any]) -> None:
        key = payload.get("key", "")
        with self._lock:
            self._running[key] += 1
            self.most[key] = max(self.most[key], self._running[key])
            self.order.append(payload["n"])
        time.sleep(0.001)  # long enough for others to come in
        with self._lock:
            self._running[key] -= 1


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


# At once


def test_the_jobs_of_a_concurrency_key_run_one_after_the_other_in_order(
    queue: Queue, make_worker: MakeWorker, crowd: Crowd
) -> None:
    for n in range(20):
        queue.enqueue({"key": "a", "n": n}, concurrency_key="a")
    for number in range(4):
        make_worker(crowd, f"worker-{number}").start()
    assert queue.wait_until_empty(30)
    assert crowd.most == {"a": 1}
    assert crowd.order == list(range(20))


def test_as_many_as_its_limit_says_run_of_a_key(
    queue: Queue, make_worker: MakeWorker, crowd: Crowd
) -> None:
    queue.limits.set("key:b*", concurrency=2)
    for n in range(30):
        queue.enqueue({"key": "b", "n": n}, concurrency_key="b7")
    for number in range(5):
        make_worker(crowd, f"worker-{number}").start()
    assert queue.wait_until_empty(30)
    assert crowd.most["b"] == 2


@pytest.mark.parametrize("scope", ["all", "queue:default"])
def test_no_more_jobs_of_a_queue_run_than_may(
    queue: Queue, make_worker: MakeWorker, crowd: Crowd, scope: str
) -> None:
    queue.limits.set(scope, concurrency=2)
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(30)])
    for number in range(5):
        make_worker(crowd, f"worker-{number}").start()
    assert queue.wait_until_empty(30)
    assert crowd.most[""] <= 2
    assert len(crowd.order) == 30


@pytest.mark.usefixtures("_tasks")
def test_a_task_says_how_many_of_its_jobs_run_at_once(
    queue: Queue, make_worker: MakeWorker, crowd: Crowd
) -> None:
    @task(concurrency=1)
    def alone(n: int) -> None:
        crowd({"n": n})

    alone.map(range(10))
    for number in range(4):
        make_worker(print, f"worker-{number}").start()
    assert queue.wait_until_empty(30)
    assert crowd.most[""] == 1
    assert len(crowd.order) == 10


# Rates


@pytest.mark.usefixtures("_tasks")
def test_what_a_task_declares_is_stored_and_what_is_set_by_hand_goes_before_it(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    @task(rate_limit="7/h", concurrency=3)
    def slow() -> None: ...

    scope = f"task:{slow.task_name}"
    assert queue.limits.get(scope).rates is None
    worker = make_worker(print)
    worker.start()
    eventually(lambda: queue.limits.get(scope).rates == (Rate(7, 3_600, 7),))
    assert queue.limits.get(scope).concurrency == 3
    queue.limits.set(scope, rate="1/s")
    assert queue.limits.get(scope).rates == (Rate(1, 1, 1),)
    queue.limits.forget(scope)
    assert queue.limits.get(scope).rates == (Rate(7, 3_600, 7),)


@pytest.mark.usefixtures("_tasks")
def test_a_limit_that_a_task_has_no_more_is_forgotten_when_workers_begin(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task(rate_limit="7/h", name="slow")
    def slow() -> None: ...

    queue.limits.declare(repertoire.tasks.limits())
    monkeypatch.setattr(repertoire.tasks, "_tasks", {})

    @task(name="slow")
    def slow_no_more() -> None: ...

    assert queue.limits.get("task:slow").rates
    make_worker(print).start()
    eventually(lambda: not queue.limits.get("task:slow").rates)


@pytest.mark.usefixtures("_tasks")
def test_a_task_is_held_to_its_rate_from_its_first_job_on(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    seen: list[int] = []

    @task(rate_limit="1/h")
    def slow(n: int) -> None:
        seen.append(n)

    slow.map(range(3))
    queue.enqueue({"n": 1})
    others: list[object] = []
    make_worker(others.append).start()
    eventually(lambda: others and queue.get_stats()["held"] == 2)
    assert len(seen) == 1


def test_jobs_of_a_key_without_tokens_hold_up_no_others(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    queue.limits.set("key:a", rate="1/h")
    for _ in range(300):
        queue.enqueue({"key": "a"}, rate_key="a", priority=2)
    queue.enqueue({"key": "b"}, rate_key="b")
    seen: list[str] = []
    make_worker(lambda payload: seen.append(payload["key"])).start()
    eventually(lambda: "b" in seen)
    assert seen.count("a") == 1
    [held] = {job.held_by for job in queue.list_jobs("scheduled", None)}
    assert held == "rate:key:a"
    assert [job.attempts for job in queue.list_jobs("scheduled", 1)] == [0]


def test_what_was_held_goes_on_in_its_order_when_the_limit_is_lifted(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    queue.limits.set("key:a", rate="1/h")
    seen: list[int] = []
    for n in range(10):
        queue.enqueue({"n": n}, rate_key="a", priority=n % 3)
    make_worker(lambda payload: seen.append(payload["n"])).start()
    eventually(lambda: queue.get_stats()["held"] == 9)
    queue.limits.set("key:a", rate="none")
    assert queue.wait_until_empty(30)
    assert seen == [2, 5, 8, 1, 4, 7, 0, 3, 6, 9]


class TooManyRequestsError(Exception):
    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("HTTP 429")
        self.headers = headers


@pytest.mark.parametrize(("headers", "least"), [({"Retry-After": "3600"}, 3_500), ({}, 0.1)])
def test_a_server_that_asks_to_be_left_alone_slows_all_jobs_of_the_key(
    queue: Queue,
    make_worker: MakeWorker,
    eventually: Eventually,
    headers: dict[str, str],
    least: float,
) -> None:
    def ask(payload: object) -> None:
        raise TooManyRequestsError(headers)

    queue.limits.set("key:a", rate="100/s")
    queue.enqueue({}, rate_key="a")
    make_worker(ask).start()
    limit = queue.limits.get("key:a")
    eventually(lambda: queue.limits.state(limit).next_token > least)


# Breakers


def test_a_breaker_holds_its_own_jobs_and_lets_the_others_flow(
    make_queue: Callable[..., Queue], eventually: Eventually
) -> None:
    queue = make_queue(shards=1, circuit_breaker_timeout=3600)
    queue.breakers.define("down", failure_threshold=3)
    calls: Counter[str] = Counter()

    def call(payload: dict[str, str]) -> None:
        calls[payload["to"]] += 1
        if payload["to"] == "down":
            raise ConnectionError("no answer")

    told: list[str] = []
    queue.on(
        "circuit_opened", lambda name, failures, error: told.append(f"{name} {failures} {error}")
    )
    for _ in range(20):
        queue.enqueue({"to": "down"}, breaker="down", retry_delay=0)
        queue.enqueue({"to": "up"})
    with WorkerPool([Worker("w", call, queue, poll_interval=0.005)]):
        eventually(lambda: calls["up"] == 20 and queue.get_stats()["held"] == 20)
        assert calls["down"] == 3
        assert told == ["down 3 ConnectionError: no answer"]
        assert all(job.attempts <= 3 for job in queue.list_jobs("scheduled"))
        assert queue.is_healthy  # that is for the breaker of all jobs
        calls.clear()
        queue.breakers.define("down", failure_threshold=100)
        queue.breakers.close("down")
        eventually(lambda: calls["down"] >= 17)


def test_no_more_jobs_fail_than_open_a_breaker(
    make_queue: Callable[..., Queue], eventually: Eventually
) -> None:
    queue = make_queue(shards=1, circuit_breaker_threshold=2, circuit_breaker_timeout=3600)
    calls: list[object] = []

    def fail(payload: object) -> None:
        calls.append(payload)
        raise ConnectionError("no answer")

    queue.enqueue_batch([{"payload": {}} for _ in range(50)])
    with WorkerPool([Worker("w", fail, queue, poll_interval=0.005)]) as pool:
        eventually(lambda: queue.circuit_breaker.state == "open")
        endings = Endings(burst=True)
        assert [endings.reason(pool) for _ in range(10)] == [None] * 10
    assert len(calls) == 2
    assert queue.get_pending_count() == 50


# Pauses


def test_a_paused_queue_starts_nothing_until_it_is_resumed(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    queue.pause("mail", reason="for now")
    seen: list[str] = []
    make_worker(lambda payload: seen.append(payload["to"]), queues="mail,default").start()
    queue.enqueue({"to": "mail"}, queue="mail")
    queue.enqueue({"to": "default"})
    eventually(lambda: seen == ["default"])
    assert queue.list_jobs("pending")[0].attempts == 0
    queue.resume("mail")
    eventually(lambda: seen == ["default", "mail"])


@pytest.mark.usefixtures("_tasks")
def test_a_paused_task_holds_its_jobs_only(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    seen: list[str] = []

    @task
    def mail() -> None:
        seen.append("mail")

    queue.pause(task=mail.task_name)
    mail.delay()
    queue.enqueue({"to": "other"})
    make_worker(lambda payload: seen.append(payload["to"])).start()
    eventually(lambda: seen == ["other"] and queue.get_stats()["held"] == 1)
    queue.resume(task=mail.task_name)
    eventually(lambda: seen == ["other", "mail"])


def test_a_paused_shard_starts_nothing_and_its_running_job_ends(
    queue: Queue, gate: Gate, make_worker: MakeWorker, eventually: Eventually
) -> None:
    queue.enqueue({})
    worker = make_worker(gate)
    worker.start()
    gate.await_entry()
    queue.pause(shard=0)
    queue.enqueue({})
    gate.open()
    eventually(lambda: worker.get_stats()["processed"] == 1)
    assert queue.get_pending_count() == 1
    queue.resume(shard=0)
    assert queue.wait_until_empty(30)


@pytest.mark.parametrize(
    "what",
    [{}, {"queue": "a", "task": "b"}, {"queue": ""}, {"shard": -1}, {"task": ""}, {"shard": "1"}],
)
def test_what_is_to_be_paused_has_to_be_named(queue: Queue, what: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"queue=|task=|shard=|scope="):
        queue.pause(**what)


# Who works


def test_the_processes_that_work_can_be_seen_with_what_they_take(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    worker = make_worker(print, queues="mail")
    worker.start()
    eventually(lambda: queue.queues().get("mail", {}).get("workers") == 1)
    worker.stop()
    assert queue.services.roster.present() == []
