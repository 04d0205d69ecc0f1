"""Many processes and threads that start on one directory at once.

QUEUE_MAX_TEST_ROUNDS says how often (once unless it does).
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import predecessor
from support.predecessor import JOBS

from queue_max import Queue

MakeQueue = Callable[..., Queue]
StartProcess = Callable[..., Any]

ROUNDS = int(os.environ.get("QUEUE_MAX_TEST_ROUNDS", "1"))
PROCESSES, THREADS = 12, 3

pytestmark = pytest.mark.chaos

# Forks argv[1] processes of argv[2] threads each, all of which open the directory argv[3] with
# argv[4] shards at the same moment, and store one job. Prints what each process had to say.
START = """
import json, math, multiprocessing, sys, threading, traceback
from queue_max import Queue

processes, threads, path, shards = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = multiprocessing.get_context("fork")
start = context.Barrier(processes * threads, timeout=60)
said = context.SimpleQueue()

def open_and_store(number):
    start.wait()
    queue = Queue(shards=int(shards) or None, data_dir=path, rate_limit=math.inf)
    queue.enqueue({"by": number})
    queue.close()

def work(number):
    def try_to(thread_number):
        try:
            open_and_store(thread_number)
        except BaseException:
            faults.append(traceback.format_exc())
    faults = []
    crew = [
        threading.Thread(target=try_to, args=(number * threads + each,)) for each in range(threads)
    ]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    said.put(faults)

started = [context.Process(target=work, args=(number,)) for number in range(processes)]
for each in started:
    each.start()
faults = [fault for _ in started for fault in said.get()]
for each in started:
    each.join()
print(json.dumps({"faults": faults, "exit codes": [each.exitcode for each in started]}))
"""


def all_at_once(start_process: StartProcess, path: Path, shards: int | None) -> None:
    process = start_process(START, PROCESSES, THREADS, path, shards or 0)
    (output,) = process.output()

    said = json.loads(output)
    assert said["faults"] == []
    assert said["exit codes"] == [0] * PROCESSES


def assert_sound(queue: Queue) -> None:
    for shard_id in queue.services.store.shard_ids:
        # The table of contents of the queue has no verb for it.
        with queue.services.store._shard(shard_id).reading() as connection:
            checked = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        assert checked == ["ok"]


def stored_by(queue: Queue) -> list[int]:
    payloads = (job.payload for job in queue.list_jobs(limit=None))
    return sorted(payload["by"] for payload in payloads if "by" in payload)


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_a_fresh_directory_survives_many_starters(
    round_number: int, data_dir: Path, start_process: StartProcess, make_queue: MakeQueue
) -> None:
    all_at_once(start_process, data_dir, shards=3)

    queue = make_queue()

    assert queue.num_shards == 3
    assert stored_by(queue) == list(range(PROCESSES * THREADS))
    assert_sound(queue)


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_a_directory_of_0_1_1_survives_many_starters(
    round_number: int, data_dir: Path, start_process: StartProcess, make_queue: MakeQueue
) -> None:
    predecessor.make_directory(data_dir, 3)

    all_at_once(start_process, data_dir, shards=None)

    queue = make_queue()
    assert stored_by(queue) == list(range(PROCESSES * THREADS))
    assert len(queue.list_jobs(limit=None)) == PROCESSES * THREADS + 3 * len(JOBS)
    assert_sound(queue)
    copies = sorted(path.name for path in (data_dir / "backups").iterdir())
    assert copies == [f"shard_{number}.before-1.0.db" for number in range(3)]
