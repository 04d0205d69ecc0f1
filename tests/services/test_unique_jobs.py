"""Unique jobs, asked for by many processes at the same moment."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from queue_max import Queue

PROCESSES = 6
KEYS = [f"page-{number}" for number in range(12)]

# Forks argv[2] processes, all of which enqueue a job under the same key at the same moment, one
# key of argv[3:] after the other. Prints what each process was given for each key.
ENQUEUE = """
import json, multiprocessing, sys
from queue_max import Queue

path, processes, keys = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
context = multiprocessing.get_context("fork")
start = context.Barrier(processes, timeout=30)

def work(number):
    given = []
    with Queue(data_dir=path, durability="normal") as queue:
        for key in keys:
            start.wait()
            handle = queue.enqueue({"key": key, "by": number}, unique_key=key)
            given.append({"job": handle.key, "created": handle.created})
    return given

# Whoever has a task waits for all the others: so each process has one.
with context.Pool(processes) as pool:
    print(json.dumps(pool.map(work, range(processes), chunksize=1)))
"""


def test_of_processes_that_enqueue_under_one_key_at_once_one_makes_the_job_and_all_are_given_it(
    make_queue: Callable[..., Queue], data_dir: Path
) -> None:
    queue = make_queue(shards=2)
    command = [sys.executable, "-c", ENQUEUE, data_dir, PROCESSES, *KEYS]
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr

    stored = queue.list_jobs(limit=None)
    assert len(stored) == len(KEYS)
    jobs = {job.payload["key"]: job for job in stored}
    by_key = zip(*json.loads(ran.stdout), strict=True)
    for key, given in zip(KEYS, by_key, strict=True):
        assert [each["job"] for each in given] == [jobs[key].key] * PROCESSES
        makers = [number for number, each in enumerate(given) if each["created"]]
        assert makers == [jobs[key].payload["by"]]
