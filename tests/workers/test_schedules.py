"""Schedules among workers, and among processes: each tick has one job, whoever dies when."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

import queue_max
from queue_max import Queue, Worker, periodic_task
from queue_max.domain.schedules import Schedule
from queue_max.storage.schema import jobs, schedules, unique_keys

MakeQueue = Callable[..., Queue]
MakeWorker = Callable[..., Worker]
Eventually = Callable[[Callable[[], object]], None]
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn(tmp_path: Path, data_dir: Path) -> Iterator[Spawn]:
    """Start scripts in processes of their own, on the same queue; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> "subprocess.Popen[str]":
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(queue_max.__file__).parents[1]),
            "DATA_DIR": str(data_dir),
            "QUEUE_MAX_DURABILITY": "normal",
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", script],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def make_overdue(queue: Queue, seconds: float) -> None:
    """Let the next tick of all schedules be that long ago."""
    with queue.services.schedules._control._database.writing() as connection:
        overdue = datetime.now().astimezone() - timedelta(seconds=seconds)
        connection.execute(update(schedules).values(next_at=overdue))


def keys_and_jobs(queue: Queue) -> tuple[list[str], int]:
    """Give the keys of all ticks, and the number of jobs."""
    keys: list[str] = []
    number = 0
    for shard in queue.services.store._shards.values():
        with shard.reading() as connection:
            keys += connection.execute(select(unique_keys.c.key)).scalars()
            number += len(connection.execute(select(jobs.c.id)).all())
    return keys, number


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


# Workers


def test_a_worker_stores_the_jobs_of_schedules(
    queue: Queue, make_worker: MakeWorker, eventually: Eventually
) -> None:
    queue.schedules.put("nightly", "reports.send", interval=3600)
    make_overdue(queue, 0)
    make_worker(print).start()
    eventually(lambda: queue.list_jobs())
    eventually(lambda: queue.schedules.get("nightly").last_at)


def test_a_worker_that_stops_does_not_wait_for_the_next_look(
    queue: Queue,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    monkeypatch.setattr("queue_max.services.schedules.LOOK_EVERY", 3600.0)
    worker = make_worker(print)
    worker.start()
    eventually(lambda: "queue-max-schedules" in names_of_threads())
    assert worker.stop(30)
    assert "queue-max-schedules" not in names_of_threads()


# Processes

LOCKING = """
import sqlite3, sys
connection = sqlite3.connect("data/control.db", isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


def test_schedules_of_tasks_are_declared_once_the_control_database_is_free(
    make_queue: MakeQueue,
    make_worker: MakeWorker,
    spawn: Spawn,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DB_BUSY_TIMEOUT", "1")
    monkeypatch.setattr("queue_max.workers.upkeep.DECLARE_EVERY", 0.01)
    monkeypatch.setattr("queue_max.workers.repertoire.tasks._tasks", {})
    queue = make_queue(shards=1)
    periodic_task(3600, queue=queue, name="hourly")(print)
    other = spawn(LOCKING)
    assert hear(other) == "locked"
    make_worker(print, queue=queue).start()
    eventually(lambda: "were not declared, another try follows" in caplog.text)
    tell(other)
    eventually(lambda: [each.name for each in queue.schedules.list()] == ["hourly"])


FIRING = """
import sys
from queue_max import Queue

queue = Queue()
print("ready", flush=True)
sys.stdin.readline()
while queue.schedules.fire_due() == 0:
    pass
"""

DYING = """
import os, signal
from queue_max import Queue
from queue_max.repositories.schedules import ScheduleRepository

ScheduleRepository.advance = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
queue = Queue()
queue.schedules.fire_due()
"""

STOPPING = """
import sys
from queue_max import Queue
from queue_max.services.intake import IntakeService

submit = IntakeService.submit

def stay(*arguments):
    print("read", flush=True)
    sys.stdin.readline()
    handle = submit(*arguments)
    print(handle.created, flush=True)
    return handle

IntakeService.submit = stay
queue = Queue()
queue.schedules.fire_due()
"""


@pytest.mark.slow
def test_of_6_processes_that_fire_20_schedules_each_tick_has_one_job(
    make_queue: MakeQueue, spawn: Spawn
) -> None:
    queue = make_queue(shards=3)
    names = [f"schedule-{number}" for number in range(20)]
    for name in names:
        queue.schedules.put(name, "t", interval=60, misfire="all")
    make_overdue(queue, 4 * 60)
    first = {name: queue.schedules.get(name).next_at for name in names}
    processes = [spawn(FIRING) for _ in range(6)]
    for process in processes:
        assert hear(process) == "ready"
    for process in processes:
        tell(process)
    assert [process.wait(120) for process in processes] == [0] * 6

    keys, number = keys_and_jobs(queue)
    assert number == len(keys) == len(set(keys))
    ticks = Counter(key.split(":")[1] for key in keys)
    for name in names:
        schedule = queue.schedules.get(name)
        assert ticks[name] == ticks_fired(schedule, first[name]) >= 5
        assert schedule.revision >= 2


def ticks_fired(schedule: Schedule, first: datetime) -> int:
    """Count the ticks from the first one to the last that was fired."""
    assert schedule.last_at is not None
    assert schedule.next_at - schedule.last_at == timedelta(seconds=60)
    return (schedule.last_at - first) // timedelta(seconds=60) + 1


@pytest.mark.slow
def test_a_process_that_is_killed_between_the_job_and_the_next_tick_leaves_no_second_job(
    make_queue: MakeQueue, spawn: Spawn
) -> None:
    queue = make_queue(shards=3)
    queue.schedules.put("nightly", "t", interval=3600)
    make_overdue(queue, 0)
    before = queue.schedules.get("nightly")
    assert spawn(DYING).wait(60) == -signal.SIGKILL
    assert queue.schedules.get("nightly") == before
    [job] = queue.list_jobs()

    assert 3500 < queue.schedules.fire_due() <= 3600

    assert [each.key for each in queue.list_jobs()] == [job.key]
    after = queue.schedules.get("nightly")
    assert (after.last_at, after.last_job) == (before.next_at, job.key)


@pytest.mark.slow
def test_a_process_that_is_stopped_between_reading_and_firing_does_no_harm(
    make_queue: MakeQueue, spawn: Spawn
) -> None:
    queue = make_queue(shards=3)
    queue.schedules.put("nightly", "t", interval=3600)
    make_overdue(queue, 0)
    stopped = spawn(STOPPING)
    assert hear(stopped) == "read"
    queue.schedules.fire_due()
    after = queue.schedules.get("nightly")
    assert len(queue.list_jobs()) == 1

    tell(stopped)

    assert hear(stopped) == "False"
    assert stopped.wait(60) == 0
    assert len(queue.list_jobs()) == 1
    assert queue.schedules.get("nightly") == after
