"""A queue that is open while its process forks, as under gunicorn or multiprocessing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

StartProcess = Callable[..., Any]

FORK = """
import os, sys
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
queue.enqueue({"by": "parent"})
queue.get_stats()
child = os.fork()
if child == 0:
    for _ in range(5):
        queue.enqueue({"by": "child"})
    queue.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
queue.enqueue({"by": "parent"})
print(status, queue.get_pending_count())
queue.close()
with Queue(data_dir=sys.argv[1]) as again:
    print(again.get_pending_count())
"""

FORK_AND_LEAVE_FIRST = """
import os, sys
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
queue.enqueue({"by": "parent"})
(its_turn, go), (its_word, say) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    queue.enqueue({"by": "child"})
    os.write(say, b".")
    os.close(go)
    os.read(its_turn, 1)
    for _ in range(5):
        queue.enqueue({"by": "child"})
    queue.close()
    os._exit(0)
os.read(its_word, 1)
queue.close()
os.close(go)
_, status = os.waitpid(child, 0)
with Queue(data_dir=sys.argv[1]) as again:
    print(status, again.get_pending_count())
"""

A_QUEUE_THAT_IS_GONE = """
import shutil, sys
from queue_max import Queue
gone = Queue(data_dir=sys.argv[1] + "-gone", shards=1)
gone.close()
shutil.rmtree(sys.argv[1] + "-gone")
"""

FORK_WHILE_OTHERS_WORK = """
import os, sys, threading, time
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
ending = threading.Event()
def write():
    with queue.services.store.writing(0):
        time.sleep(0.02)
    time.sleep(0.002)  # else it would keep all others, fork too, from their turn
def keep_on(verb):
    while not ending.is_set():
        verb()
# It is in the middle of SQLite's own memory management most of the time.
BUSY = (
    "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2000) "
    "SELECT sum(length(hex(randomblob(50)))) FROM c"
)
def read():
    with queue.services.store._shard(0).reading() as connection:
        connection.exec_driver_sql(BUSY).all()
verbs = {"write": [write], "read": [read, read]}[sys.argv[2]]
others = [threading.Thread(target=keep_on, args=(verb,)) for verb in verbs]
for each in others:
    each.start()
statuses = []
for number in range(40):
    child = os.fork()
    if child == 0:
        queue.enqueue({"by": number})
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
ending.set()
for each in others:
    each.join()
print(sum(statuses), queue.get_pending_count())
queue.close()
"""


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        (FORK, ["0 7", "7"]),
        (FORK_AND_LEAVE_FIRST, ["0 7"]),
        (A_QUEUE_THAT_IS_GONE + FORK_AND_LEAVE_FIRST, ["0 7"]),
    ],
    ids=["parent goes on", "parent leaves first", "beside a queue that is gone"],
)
def test_a_child_of_fork_may_go_on_using_the_queue(
    data_dir: Path, start_process: StartProcess, code: str, lines: list[str]
) -> None:
    assert start_process(code, data_dir).output(timeout=60) == lines


@pytest.mark.parametrize("verb", ["write", "read"])
def test_a_child_of_fork_is_not_held_up_by_what_threads_of_its_parent_did(
    data_dir: Path, start_process: StartProcess, verb: str
) -> None:
    assert start_process(FORK_WHILE_OTHERS_WORK, data_dir, verb).output(timeout=60) == ["0 40"]


# While threads of the parent keep every lock that a child could need, a child enqueues, takes a
# job, fails it and renews its leases.
FORK_WITH_ALL_LOCKS_HELD = """
import os, signal, sys, threading
from queue_max import Queue, Worker
from queue_max.storage import directory, migrations
from queue_max.workers import upkeep
queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
queue.enqueue({"by": "parent"})
services = queue.services
owners = (services.breakers, services.limits._rates, services.limits._permits,
          services.controls, services.leases, services.intake._alarm)
locks = [each._lock for each in owners] + [directory._preparing, upkeep._lock]
ready, done = threading.Barrier(2), threading.Event()
def hold():
    for lock in locks:
        lock.acquire()
    ready.wait()
    done.wait()
    for lock in locks:
        lock.release()
threading.Thread(target=hold).start()
ready.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    queue.enqueue({"by": "child"})
    queue.fail_job(queue.pop_job("child").id, 0, "some error")
    services.leases.renew()
    os._exit(0)
print(os.waitpid(child, 0)[1])
done.set()
queue.close()
"""

# A worker runs a job in the parent; its child holds none of its leases, and runs a worker itself.
FORK_BESIDE_A_WORKER = """
import os, sys, threading
from queue_max import Queue, Worker
from queue_max.workers.upkeep import Upkeep
queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
begun, go_on = threading.Event(), threading.Event()
def work(payload):
    begun.set()
    go_on.wait()
worker = Worker("w", work, queue)
queue.enqueue({})
worker.start()
begun.wait()
child = os.fork()
if child == 0:
    seen = [worker.state, worker.is_running, len(queue.services.leases._held)]
    worker.start()
    seen.append(len(Upkeep.of(queue)._crew) == 1 or "no upkeep")
    go_on.set()
    worker.stop()
    print(*seen, worker.state, flush=True)
    os._exit(0)
os.waitpid(child, 0)
go_on.set()
print(worker.stop(), worker.get_stats()["processed"])
queue.close()
"""

# The parent makes the checkpoints, since its library needs that; its child tries to as well.
FORK_THE_CHECKPOINTER = """
import os, sqlite3.dbapi2, sys, threading
from queue_max.storage import driver
driver.choose = lambda: driver.Driver(sqlite3.dbapi2, (3, 40, 1))
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
def tell_from_child():
    child = os.fork()
    if child == 0:
        print("queue-max-housekeeping" in [each.name for each in threading.enumerate()], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
tell_from_child()
queue.close()
tell_from_child()
"""


def test_a_child_of_fork_is_not_held_up_by_a_lock_of_its_parent(
    data_dir: Path, start_process: StartProcess
) -> None:
    assert start_process(FORK_WITH_ALL_LOCKS_HELD, data_dir).output(timeout=60)[-1] == "0"


def test_a_worker_stays_in_the_parent_and_can_be_started_in_the_child_too(
    data_dir: Path, start_process: StartProcess
) -> None:
    said = start_process(FORK_BESIDE_A_WORKER, data_dir).output(timeout=60)

    assert said == ["initialized False 0 True stopped", "True 1"]


def test_a_child_looks_after_the_wals_too_unless_the_queue_was_closed_before(
    data_dir: Path, start_process: StartProcess
) -> None:
    assert start_process(FORK_THE_CHECKPOINTER, data_dir).output(timeout=60) == ["True", "False"]
