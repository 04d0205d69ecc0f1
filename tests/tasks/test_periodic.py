"""`@periodic_task`: schedules that workers declare by themselves, and run."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_max import ConfigurationError, PeriodicTask, Queue, Worker, periodic_task, task
from queue_max.storage import driver

MakeQueue = Callable[..., Queue]

LONG_AGO = "2020-01-01T00:00:00.000Z"


def report(kind: str = "sales", *, copies: int = 1) -> None: ...


@pytest.fixture
def worker(queue: Queue) -> Iterator[Worker]:
    worker = Worker("worker-1", None, queue, poll_interval=0.005)
    yield worker
    assert worker.stop(30)


def eventually(condition: Callable[[], object]) -> None:
    for _ in range(3_000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to that")


def make_due(queue: Queue) -> None:
    """Put back the next time of all schedules, as if it had come meanwhile."""
    path = Path(queue.data_dir) / "control.db"
    connection = driver.choose().module.connect(path, isolation_level=None, timeout=30)
    connection.execute("UPDATE schedules SET next_at = ?, revision = revision + 1", [LONG_AGO])
    connection.close()


def test_a_periodic_task_is_a_task(queue: Queue) -> None:
    made = periodic_task(interval=60, queue=queue, priority=2)(report)
    assert isinstance(made, PeriodicTask)
    made("stock")
    assert queue.get_job(made.delay("stock")).priority == 2
    assert isinstance(made.using(priority=0), PeriodicTask)
    assert made.using(priority=0).rhythm == made.rhythm


def test_a_worker_declares_the_schedules_of_its_process(queue: Queue, worker: Worker) -> None:
    made = periodic_task(
        cron="30 2 * * *",
        tz="Europe/Berlin",
        overlap="skip",
        misfire="skip",
        args=["stock"],
        kwargs={"copies": 3},
        priority=1,
        max_retries=0,
        timeout=30,
    )(report)
    task(queue, name="another")(report)  # one without a schedule
    worker.start()
    eventually(queue.schedules.list)
    assert worker.stop(30)
    (schedule,) = queue.schedules.list()
    assert (schedule.name, schedule.task) == (made.task_name, made.task_name)
    assert (schedule.cron, schedule.tz) == ("30 2 * * *", "Europe/Berlin")
    assert (schedule.overlap, schedule.misfire) == ("skip", "skip")
    job = queue.get_job(queue.schedules.run_now(schedule.name))
    assert (job.payload["args"], job.payload["kwargs"]) == (["stock"], {"copies": 3})
    assert (job.priority, job.max_attempts, job.timeout_seconds) == (1, 1, 30)


def test_what_an_operator_paused_stays_paused(queue: Queue, worker: Worker) -> None:
    made: PeriodicTask[..., None] = periodic_task(interval=60)(report)
    made.declare(queue)
    queue.schedules.pause(made.task_name)
    worker.start()
    assert worker.stop(30)
    assert queue.schedules.get(made.task_name).is_paused


def test_a_task_is_declared_in_its_own_queue_only(
    make_queue: MakeQueue, tmp_path: Path, queue: Queue
) -> None:
    other = make_queue(data_dir=tmp_path / "other", shards=1)
    made: PeriodicTask[..., None] = periodic_task(interval=60, queue=other)(report)
    made.declare(queue)
    made.declare(other)
    assert (len(queue.schedules.list()), len(other.schedules.list())) == (0, 1)


def test_workers_run_what_is_due(queue: Queue, worker: Worker) -> None:
    calls: list[str] = []

    @periodic_task(interval=3600)
    def note() -> None:
        calls.append("called")

    note.declare(queue)
    make_due(queue)
    worker.start()
    eventually(lambda: calls)
    assert worker.stop(30)
    assert calls == ["called"]


def test_a_scheduler_fires_where_no_worker_runs(queue: Queue) -> None:
    made = periodic_task(interval=3600, queue=queue)(report)
    made.declare(queue)
    make_due(queue)
    made.start_scheduler()
    made.start_scheduler()
    names = [each.name for each in threading.enumerate()]
    assert names.count("queue-max-scheduler") == 1
    eventually(queue.get_pending_count)
    made.stop_scheduler()
    made.stop_scheduler()
    assert "queue-max-scheduler" not in [each.name for each in threading.enumerate()]
    assert queue.get_pending_count() == 1
    assert len(queue.schedules.list()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give either interval"),
        ({"interval": 5, "cron": "* * * * *"}, "give either interval"),
        ({"interval": 0}, "interval=0"),
        ({"cron": "every day"}, "every day"),
        ({"cron": "@daily", "tz": "Mars/Olympus"}, "Mars/Olympus"),
        ({"interval": 5, "misfire": "sometimes"}, "misfire='sometimes'"),
        ({"interval": 5, "colour": "red"}, "unknown colour"),
        ({"interval": 5, "args": "ab"}, "args='ab'"),
        ({"interval": 5, "kwargs": []}, r"kwargs=\[\]"),
        ({"interval": 5, "unique_key": "k"}, "unique_key='k': the job of each time has a key"),
    ],
)
def test_a_bad_rhythm_is_refused_when_the_function_is_decorated(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        periodic_task(**options)(report)


def test_parentheses_are_needed() -> None:
    with pytest.raises(ConfigurationError, match="with interval or cron"):
        periodic_task(report)  # type: ignore[arg-type]


def test_arguments_that_do_not_fit_are_refused_when_the_function_is_decorated() -> None:
    with pytest.raises(TypeError, match="Invalid arguments for"):
        periodic_task(interval=5, kwargs={"colour": "red"})(report)
