"""Callbacks for events that take long: whom they hold up, and whom they do not."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max import Queue, Worker
from queue_max.services.pace import Pace
from queue_max.workers import telling
from queue_max.workers.telling import Teller

MakeQueue = Callable[..., Queue]
MakeWorker = Callable[..., Worker]
Eventually = Callable[[Callable[[], object]], None]


class Stuck:
    """A callback that does not return from its first call before it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.heard: list[dict[str, Any]] = []
        self.threads: list[str] = []
        self._go = threading.Event()

    def __call__(self, **facts: Any) -> None:
        self.heard.append(facts)
        self.threads.append(threading.current_thread().name)
        self.entered.set()
        if len(self.heard) == 1:
            assert self._go.wait(60)

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def stuck(make_worker: MakeWorker) -> Iterator[Stuck]:
    stuck = Stuck()
    yield stuck
    stuck.let_go()


@pytest.fixture
def quick_queue(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """One whose leases are short, and renewed often."""
    monkeypatch.setenv("HEARTBEAT_INTERVAL", "20")
    monkeypatch.setenv("STUCK_TIMEOUT", "1000")
    monkeypatch.setenv("RECOVERY_INTERVAL", "50")
    return make_queue(shards=1)


def test_while_a_callback_is_stuck_leases_are_renewed_and_the_other_worker_goes_on(
    quick_queue: Queue, make_worker: MakeWorker, eventually: Eventually, stuck: Stuck
) -> None:
    done: list[int] = []
    quick_queue.on("job_started", stuck)

    def work(payload: dict[str, Any]) -> None:
        done.append(payload["n"])

    workers = [make_worker(work, f"w{n}", queue=quick_queue) for n in range(2)]
    workers[0].start()
    quick_queue.enqueue({"n": 0})
    assert stuck.entered.wait(30)
    workers[1].start()
    quick_queue.enqueue_batch([{"payload": {"n": n}} for n in range(1, 30)])
    eventually(lambda: sorted(done) == [*range(1, 30)])
    eventually(lambda: quick_queue.get_stats()["completed"] == 29)
    first = quick_queue.get_processing_jobs()[0].heartbeat
    eventually(lambda: quick_queue.get_processing_jobs()[0].heartbeat > first)
    stuck.let_go()
    eventually(lambda: quick_queue.get_stats()["completed"] == 30)
    assert done[-1] == 0
    assert [job.attempts for job in quick_queue.list_jobs()] == []
    assert workers[0].get_stats()["lost"] == 0


def test_a_stuck_callback_keeps_no_ended_job_from_being_settled(
    queue: Queue,
    make_worker: MakeWorker,
    eventually: Eventually,
    stuck: Stuck,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each worker has its next job at hand, and is busy with it when the first is settled."""
    monkeypatch.setattr(Pace, "appetite", lambda _pace, _workers, _now: 2)
    on = threading.Event()

    def work(payload: dict[str, Any]) -> None:
        if payload["is_long"]:
            assert on.wait(60)

    queue.on("job_completed", stuck)
    queue.enqueue_batch([{"payload": {"is_long": n % 2 == 1}} for n in range(4)])
    workers = [make_worker(work, f"w{n}") for n in range(2)]
    try:
        workers[0].start()
        assert stuck.entered.wait(30)
        workers[1].start()
        eventually(lambda: queue.get_stats()["completed"] == 2)
        assert stuck.threads == ["queue-max-telling"]
    finally:
        on.set()
        stuck.let_go()
    eventually(lambda: len(stuck.heard) == 4)


def test_a_stuck_callback_does_not_hold_up_recovery(
    quick_queue: Queue, make_worker: MakeWorker, eventually: Eventually, stuck: Stuck
) -> None:
    quick_queue.on("job_recovered", stuck)
    ended: list[int] = []
    quick_queue.enqueue_batch([{"payload": {"n": n}} for n in range(2)])
    quick_queue.pop_job("silent")
    worker = make_worker(lambda job: ended.append(job["n"]), queue=quick_queue)
    worker.start()
    assert stuck.entered.wait(30)
    quick_queue.enqueue({"n": 2}, delay=0)
    eventually(lambda: sorted(ended) == [0, 1, 2])
    quick_queue.enqueue({"n": 3}, pagina_id=1)
    eventually(lambda: 3 in ended)
    assert stuck.threads == ["queue-max-telling"]


def test_what_was_published_is_told_before_the_last_worker_has_stopped(
    queue: Queue, make_worker: MakeWorker
) -> None:
    heard: list[int] = []
    queue.on("job_completed", lambda job_id, shard_id: heard.append(job_id))
    worker = make_worker(lambda _: None)
    queue.enqueue_batch([{"payload": {}}] * 200)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    assert sorted(heard) == [*range(1, 201)]
    assert not [each for each in threading.enumerate() if each.name == "queue-max-telling"]


def test_what_waits_is_told_in_order_and_all_of_it_at_the_end() -> None:
    told: list[int] = []
    teller = Teller()
    for n in range(100):
        teller.tell(lambda n=n: told.append(n))  # type: ignore[misc]
    teller.start()
    teller.stop()
    assert told == [*range(100)]


def test_what_nobody_can_keep_up_with_is_lost_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "ROOM", 3)
    told: list[int] = []
    teller = Teller()
    for n in range(10):
        teller.tell(lambda n=n: told.append(n))  # type: ignore[misc]
    teller.start()
    teller.stop()
    assert told == [0, 1, 2]
    assert [record.message for record in caplog.records] == [
        "events are lost: their callbacks take longer than the events to come"
    ]


def test_the_end_does_not_wait_for_a_callback_that_never_returns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "GOODBYE", 0.01)
    go, teller = threading.Event(), Teller()
    teller.tell(lambda: go.wait(60))
    teller.start()
    teller.stop()
    go.set()
    assert "does not end" in caplog.text
