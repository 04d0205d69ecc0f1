"""Guards that no other test holds: each was taken out, and nothing noticed."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model.world import World, migrate

from queue_max import Queue, Worker
from queue_max.domain.failures import WORKER_DIED, Failure
from queue_max.domain.leases import LeaseWatch
from queue_max.exceptions import Permanent
from queue_max.repositories.dead_letters import DeadLetterRepository


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(migrate(tmp_path / "migrated"))
    yield world
    world.close()


def test_leases_are_watched_by_a_clock_that_nobody_sets() -> None:
    assert LeaseWatch(30.0)._clock is time.monotonic


def test_a_job_whose_dead_letter_cannot_be_written_goes_on_running(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.intake.submit({"payload": {}})
    job = world.dispatch.claim("worker-1")
    assert job is not None
    before = world.everything()

    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(DeadLetterRepository, "add", refuse)
    with pytest.raises(OSError):  # noqa: PT011 - it has no words
        world.retry.settle_job(job, Permanent("never"))
    assert world.everything() == before


def enqueue_a_suspect(queue: Queue) -> None:
    """Enqueue a job that has seen its worker die."""
    queue.enqueue({"is": "suspect"})
    job = queue.pop_job("one that dies")
    assert job is not None
    with queue.services.store.writing(job.shard_id) as unit:
        assert unit.jobs.reschedule(job, Failure(WORKER_DIED, "it is gone"), unit.now)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_worker_with_a_suspect_waits_until_all_others_have_ended(queue: Queue) -> None:
    other_runs, other_may_end, suspect_runs = (threading.Event() for _ in range(3))

    def work(payload: dict[str, str]) -> None:
        if payload["is"] == "suspect":
            suspect_runs.set()
        else:
            other_runs.set()
            other_may_end.wait(20)

    workers = [Worker(f"worker-{n}", work, queue, poll_interval=0.01) for n in range(2)]
    enqueue_a_suspect(queue)
    queue.enqueue({"is": "another"}, priority=2)
    workers[0].start()
    assert other_runs.wait(20)
    workers[1].start()
    wait_for(lambda: suspect_runs.is_set() or queue.get_stats()["processing"] == 2)
    runs_beside_it = suspect_runs.wait(0.3)
    other_may_end.set()
    is_run_at_last = suspect_runs.wait(20)
    for worker in workers:
        assert worker.stop()
    assert (runs_beside_it, is_run_at_last) == (False, True)


# A thread has its turn to write, for longer than a fork waits; the child does not have that thread.
FORK_AMID_A_TURN = """
import os, sys, threading
from contextlib import suppress
from queue_max import Queue, forking
forking.PATIENCE = 0.1
queue = Queue(data_dir=sys.argv[1], shards=1)
store = queue.services.store
has_its_turn, may_end = threading.Event(), threading.Event()
def write():
    with suppress(Exception), store.writing(0):
        has_its_turn.set()
        may_end.wait(20)
thread = threading.Thread(target=write)
thread.start()
has_its_turn.wait(20)
child = os.fork()
if child == 0:
    os._exit(0 if store._shard(0)._writer._turn.acquire(timeout=2) else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
may_end.set()
thread.join()
sys.exit(status)
"""


def test_a_child_of_fork_gets_its_turn_whoever_had_it_in_the_parent(data_dir: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK_AMID_A_TURN, data_dir]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
