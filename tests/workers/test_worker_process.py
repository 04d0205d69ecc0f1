"""Workers in processes of their own: what becomes of their jobs when they die, and when not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import queue_max
from queue_max import Queue

MakeQueue = Callable[..., Queue]
Eventually = Callable[[Callable[[], object]], None]
Spawn = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = pytest.mark.slow

# Short, yet so long that a busy machine does not miss all heartbeats of a lease.
LEASES = {"STUCK_TIMEOUT": 600, "HEARTBEAT_INTERVAL": 50, "RECOVERY_INTERVAL": 50}

# A worker whose jobs note in the file <name> that they began, and stay until `leave` exists.
STAYING_WORKER = """
import os, sys, time
from queue_max import Queue, Worker

def note_and_stay(payload):
    with open(f"{payload['n']}.runs", "a") as runs:
        runs.write(f"{os.getpid()}\\n")
    while not os.path.exists("leave"):
        time.sleep(0.005)

worker = Worker(sys.argv[1], note_and_stay, Queue(), poll_interval=0.01)
worker.start()
sys.stdin.read()
worker.stop(None)
"""

# A process that adds its share of jobs and runs whatever it gets, until none is left.
BUSY_PROCESS = """
import json, os, sys
from queue_max import Queue, Worker, WorkerPool

name, jobs, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
seen = []
queue = Queue()
workers = [
    Worker(f"{name}-{number}", lambda payload: seen.append(payload["n"]), queue, poll_interval=0.01)
    for number in range(threads)
]
print("ready", flush=True)
sys.stdin.readline()
queue.enqueue_batch([{"payload": {"n": f"{name}-{n}"}} for n in range(jobs)])
with WorkerPool(workers) as pool:
    sys.stdin.readline()
    queue.wait_until_empty()
with open(f"{name}.seen", "w") as file:
    json.dump(seen, file)
"""


@pytest.fixture
def spawn(tmp_path: Path, data_dir: Path) -> Iterator[Spawn]:
    """Start scripts in processes of their own, on the same queue; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str, *arguments: object, **settings: int) -> "subprocess.Popen[bytes]":
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(queue_max.__file__).parents[1]),
            "DATA_DIR": str(data_dir),
            "RATE_LIMIT_MAX": "none",
            "QUEUE_MAX_DURABILITY": "normal",
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                cwd=tmp_path,
                env=environment | {name: str(value) for name, value in settings.items()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


# A worker that looks at an empty queue once an hour.
PATIENT_WORKER = """
import sys
from queue_max import Queue, Worker

worker = Worker("patient", lambda payload: print("ran", flush=True), Queue(), poll_interval=3600)
worker.start()
print("ready", flush=True)
sys.stdin.read()
worker.stop(None)
"""


def runs_of(job: int | str) -> list[int]:
    """Read the numbers that the runs of a job have noted."""
    path = Path(f"{job}.runs")
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("heir", ["worker-1", "worker-2"], ids=["namesake", "another"])
def test_the_job_of_a_killed_worker_runs_again_by_itself_in_another_process(
    make_queue: MakeQueue, spawn: Spawn, eventually: Eventually, heir: str
) -> None:
    queue = make_queue(shards=2)
    queue.enqueue({"n": 1})
    first = spawn(STAYING_WORKER, "worker-1", **LEASES)
    eventually(lambda: runs_of(1))
    # Its own heartbeats, under the same name perhaps, must not keep the dead one's job.
    second = spawn(STAYING_WORKER, heir, **LEASES)
    queue.enqueue({"n": 2})
    eventually(lambda: runs_of(2))
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    third = spawn(STAYING_WORKER, heir, **LEASES)
    eventually(lambda: len(runs_of(1)) == 2)
    assert runs_of(1) == [first.pid, third.pid]
    assert runs_of(2) == [second.pid]
    Path("leave").touch()
    assert queue.wait_until_empty(30)
    assert queue.get_stats()["completed"] == 2


def test_a_job_that_takes_longer_than_a_lease_is_not_recovered(
    make_queue: MakeQueue, spawn: Spawn, eventually: Eventually
) -> None:
    lease = timedelta(milliseconds=LEASES["STUCK_TIMEOUT"])
    queue = make_queue(shards=1)
    queue.enqueue({"n": 1})
    first = spawn(STAYING_WORKER, "worker-1", **LEASES)
    eventually(lambda: runs_of(1))
    spawn(STAYING_WORKER, "worker-2", **LEASES)
    queue.enqueue({"n": 2})
    eventually(lambda: runs_of(2))

    def has_outlived_its_lease() -> bool:
        running = {job.payload["n"]: job for job in queue.get_processing_jobs()}
        job = running[1]
        assert job.attempts == 1
        return moment(job.heartbeat) > moment(job.started_at) + lease * 2

    eventually(has_outlived_its_lease)
    Path("leave").touch()
    assert queue.wait_until_empty(30)
    assert runs_of(1) == [first.pid]
    assert queue.get_stats()["completed"] == 2


def test_a_worker_hears_of_jobs_that_another_process_stores_however_seldom_it_looks(
    make_queue: MakeQueue, spawn: Spawn
) -> None:
    queue = make_queue(shards=2)
    worker = spawn(PATIENT_WORKER)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    for _ in range(5):
        queue.enqueue({})
        assert worker.stdout.readline() == b"ran\n"


def moment(text: str | None) -> datetime:
    assert text is not None
    return datetime.fromisoformat(text)


def test_processes_share_the_jobs_and_run_each_exactly_once(
    make_queue: MakeQueue, spawn: Spawn, tmp_path: Path
) -> None:
    queue = make_queue(shards=3)
    processes = [spawn(BUSY_PROCESS, name, 300, 2) for name in "abc"]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for line in (b"enqueue\n", b"wait\n"):
        for process in processes:
            tell(process, line)
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    seen: list[Any] = []
    for name in "abc":
        seen += json.loads((tmp_path / f"{name}.seen").read_text())
    assert sorted(seen) == sorted(f"{name}-{n}" for name in "abc" for n in range(300))
    assert queue.get_stats()["completed"] == 900


def tell(process: "subprocess.Popen[bytes]", line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


# Far longer than a test: who recovers a job does not go by its lease.
LONG_LEASES = {"STUCK_TIMEOUT": 600_000, "HEARTBEAT_INTERVAL": 50, "RECOVERY_INTERVAL": 50}


def test_on_one_host_the_job_of_a_dead_process_does_not_wait_for_its_lease(
    make_queue: MakeQueue, spawn: Spawn, eventually: Eventually
) -> None:
    queue = make_queue(shards=2)
    queue.enqueue({"n": 1})
    first = spawn(STAYING_WORKER, "worker-1", **LONG_LEASES)
    eventually(lambda: runs_of(1))
    second = spawn(STAYING_WORKER, "worker-2", **LONG_LEASES)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    eventually(lambda: len(runs_of(1)) == 2)
    assert runs_of(1) == [first.pid, second.pid]


def test_a_process_that_is_only_stopped_keeps_its_job_until_its_lease_is_over(
    make_queue: MakeQueue, spawn: Spawn, eventually: Eventually, data_dir: Path
) -> None:
    queue = make_queue(shards=2)
    queue.enqueue({"n": 1})
    stopped = spawn(STAYING_WORKER, "worker-1", **LONG_LEASES)
    eventually(lambda: runs_of(1))
    stopped.send_signal(signal.SIGSTOP)
    killed = spawn(STAYING_WORKER, "worker-2", **LONG_LEASES)
    queue.enqueue({"n": 2})
    eventually(lambda: runs_of(2))
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    spawn(STAYING_WORKER, "worker-3", **LONG_LEASES)
    eventually(lambda: len(runs_of(2)) == 2)  # so the third has looked at both
    assert runs_of(1) == [stopped.pid]


def test_a_process_that_ends_well_leaves_nothing_behind(
    make_queue: MakeQueue, spawn: Spawn, eventually: Eventually, data_dir: Path
) -> None:
    queue = make_queue(shards=2)
    queue.enqueue({"n": 1})
    process = spawn(STAYING_WORKER, "worker-1")
    eventually(lambda: runs_of(1))
    assert {path.suffix for path in (data_dir / "workers").iterdir()} == {".lock", ".bell"}
    Path("leave").touch()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert list((data_dir / "workers").iterdir()) == []


# Ten threads; a job named "poison" kills the process, others note when they run, and beside whom.
POISONED_PROCESS = """
import os, signal, sys, threading, time
from queue_max import Queue, Worker, WorkerPool

running = set()

def work(payload):
    name = payload["n"]
    running.add(name)
    time.sleep(0.005)
    with open(f"{name}.runs", "a") as runs:
        runs.write(f"{len(running)}\\n")
    if str(name).startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    running.discard(name)

pool = WorkerPool([Worker(f"w{n}", work, Queue(), poll_interval=0.01) for n in range(10)])
pool.start_all()
sys.stdin.read()
pool.stop_all()
"""


def test_jobs_that_kill_their_worker_are_buried_and_no_other_is(
    make_queue: MakeQueue, spawn: Spawn
) -> None:
    queue = make_queue(shards=2)
    names = [f"poison{n}" if n % 10 == 5 else n for n in range(20)]
    queue.enqueue_batch(
        [{"payload": {"n": name}, "max_retries": 2, "retry_delay": 0} for name in names]
    )
    deaths = 0
    while not queue.wait_until_empty(0):
        process = spawn(POISONED_PROCESS, **LONG_LEASES)
        while process.poll() is None and not queue.wait_until_empty(0.1):
            pass
        if process.poll() is None:
            break
        assert process.returncode == -signal.SIGKILL
        deaths += 1
    failed = queue.get_failed_jobs()
    assert sorted(job.payload["n"] for job in failed) == ["poison15", "poison5"]
    assert {job.error_type for job in failed} == {"WorkerDied"}
    assert queue.get_stats()["completed"] == 18
    assert deaths <= 2 * 3
    # Whoever had seen its worker die before ran with nobody beside it. (Its first run may be
    # cut short by the other's, and leave no note.)
    assert [runs_of(f"poison{n}")[-2:] for n in (5, 15)] == [[1, 1], [1, 1]]
