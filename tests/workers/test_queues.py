"""Named queues: which of them a worker takes jobs from."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max import AsyncWorker, ConfigurationError, InvalidJobError, Queue, Worker, task
from queue_max.tasks.binding import set_default_queue
from queue_max.workers import repertoire
from queue_max.workers.base import BaseWorker


@pytest.fixture
def queue(make_queue: Callable[..., Queue]) -> Queue:
    return make_queue(shards=2)


@pytest.fixture
def _tasks(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> Iterator[None]:
    """Begin without any task, and let those that are made use this queue."""
    monkeypatch.setattr(repertoire.tasks, "_tasks", {})
    set_default_queue(queue)
    yield
    set_default_queue(None)


@pytest.fixture
def seen(queue: Queue) -> list[str]:
    seen: list[str] = []
    for name in ("default", "mail", "news"):
        queue.enqueue({"name": name}, queue=name)
    return seen


def until(number: int, seen: list[str], worker: BaseWorker) -> list[str]:
    """Run a worker until it has seen so many jobs, and ended."""
    worker.start()
    while len(seen) < number:
        assert worker.is_running
    assert worker.stop(30)
    return seen


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
def test_a_worker_takes_jobs_of_its_queues_only(
    queue: Queue, seen: list[str], kind: Callable[..., BaseWorker]
) -> None:
    def see(payload: dict[str, str]) -> None:
        seen.append(payload["name"])

    worker = kind("w", see, queue, queues="news,mail", poll_interval=0.005)
    assert sorted(until(2, seen, worker)) == ["mail", "news"]
    assert [job.queue for job in queue.list_jobs("pending")] == ["default"]


def test_a_worker_that_is_told_nothing_takes_those_of_the_default_queue(
    queue: Queue, seen: list[str]
) -> None:
    worker = Worker("w", lambda payload: seen.append(payload["name"]), queue, poll_interval=0.005)
    assert until(1, seen, worker) == ["default"]
    assert sorted(job.queue for job in queue.list_jobs("pending")) == ["mail", "news"]


@pytest.mark.usefixtures("_tasks")
def test_a_worker_that_is_told_nothing_takes_those_that_tasks_name_too(queue: Queue) -> None:
    @task(queue="reports", name="report")
    def report(name: str) -> None:
        seen.append(name)

    seen: list[str] = []
    job = queue.get_job(report.delay("a"))
    assert (job.queue, report.queue_name) == ("reports", "reports")
    report.using(queue="elsewhere").delay("b")
    assert until(1, seen, Worker("w", None, queue, poll_interval=0.005)) == ["a"]
    assert [job.queue for job in queue.list_jobs("pending")] == ["elsewhere"]


def test_workers_of_one_process_may_take_different_queues(queue: Queue, seen: list[str]) -> None:
    by_worker: dict[str, list[str]] = {"a": [], "b": []}

    def make(name: str, queues: str) -> Worker:
        def see(payload: dict[str, str]) -> None:
            by_worker[name].append(payload["name"])

        return Worker(name, see, queue, queues=queues, poll_interval=0.005)

    workers = [make("a", "default,mail"), make("b", "news")]
    for worker in workers:
        worker.start()
    assert queue.wait_until_empty(30)
    assert all(worker.stop(30) for worker in workers)
    assert {name: sorted(names) for name, names in by_worker.items()} == {
        "a": ["default", "mail"],
        "b": ["news"],
    }


def test_a_copy_takes_the_same_queues(queue: Queue) -> None:
    worker = Worker("w", print, queue, queues="mail=2,news=1")
    assert worker.copy("x").queues == worker.queues


def test_a_drain_runs_jobs_of_all_queues(queue: Queue, seen: list[str]) -> None:
    queue.enqueue({"name": "later"}, queue="later", delay=3600)
    assert queue.drain(lambda payload: seen.append(payload["name"]), scheduled=True) == 4
    assert sorted(seen) == ["default", "later", "mail", "news"]


def test_pop_job_gives_jobs_of_one_queue(queue: Queue, seen: list[str]) -> None:
    job = queue.pop_job("me", queue="mail")
    assert job is not None
    assert job.queue == "mail"
    assert queue.pop_job("me", queue="mail") is None


@pytest.mark.parametrize("bad", ["", "a,b", "a=1", "*", 7])
def test_a_job_is_not_stored_in_a_queue_that_nobody_could_name(queue: Queue, bad: Any) -> None:
    with pytest.raises(InvalidJobError, match="queue="):
        queue.enqueue({}, queue=bad)
    with pytest.raises(ConfigurationError, match="queue="):
        queue.pop_job("me", queue=bad)
    with pytest.raises(ConfigurationError, match="queue"):
        Worker("w", print, queue, queues=[bad])
