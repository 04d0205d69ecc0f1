"""Jobs whose functions fork: what the child does once it has come to the end of the function."""

import subprocess
import sys

import pytest

FORKING = """
import asyncio, os
from queue_max import AsyncWorker, Queue, Worker

parent = os.getpid()
queue = Queue.in_memory()

def work(payload):
    if payload["n"] > 0:
        assert os.getpid() == parent, "a child runs jobs, too"
        return
    child = os.fork()
    if child == 0:
        end_of_child()
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

async def work_later(payload):
    work(payload)

def end_of_child():
    {end}

queue.enqueue_batch([{{"payload": {{"n": n}}}} for n in range(5)])
{run}
print(queue.get_stats()["completed"])
"""

WAYS = {
    "Worker": "worker = Worker('forking', work, queue)",
    "Worker, coroutine": "worker = Worker('forking', work_later, queue)",
    "AsyncWorker": "worker = AsyncWorker('forking', work, queue, concurrency=1)",
    "AsyncWorker, coroutine": "worker = AsyncWorker('forking', work_later, queue, concurrency=1)",
}
RUN = "\nworker.start(); assert queue.wait_until_empty(30); assert worker.stop(30)"


def run(end: str, way: str) -> list[str]:
    program = FORKING.format(end=end, run=way)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=20, check=True
    ).stdout.split()


@pytest.mark.parametrize("way", [way + RUN for way in WAYS.values()], ids=WAYS)
def test_a_process_that_a_job_has_forked_ends_with_the_function(way: str) -> None:
    assert run("return", way) == ["0", "5"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("raise SystemExit", "0"),
        ("raise SystemExit(7)", "7"),
        ("raise SystemExit('it broke')", "1"),
        ("raise ValueError('it broke')", "1"),
    ],
)
def test_it_ends_as_any_process_would(end: str, code: str) -> None:
    assert run(end, "queue.drain(work)") == [code, "5"]
