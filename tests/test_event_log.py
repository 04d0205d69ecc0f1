"""The log of events over several processes: what is in it, and what a death takes along."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.programs import eventually, read_until

from queue_max import Queue, StoredEvent, Worker

MakeQueue = Callable[..., Queue]

LIFE = ["job_enqueued", "job_started", "job_completed"]

PRODUCER = """
import sys
from queue_max import Queue
with Queue(data_dir=sys.argv[1], durability="normal", event_log=1000) as queue:
    for n in range(20):
        queue.enqueue({"n": n})
"""

WORKER = """
import sys
from queue_max import Queue, Worker
with Queue(data_dir=sys.argv[1], rate_limit=float("inf"), durability="normal") as queue:
    worker = Worker("w", lambda payload: None, queue)
    worker.start()
    queue.wait_until_empty()
    worker.stop()
"""

STAYS = """
import sys, threading
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], durability="normal", event_log=1000)
queue.enqueue({})
while not queue.services.event_log.read(0, 1):
    pass
queue.services.event_log._control.noting = None  # it cannot write any more
queue.enqueue({})
print("ready", flush=True)
threading.Event().wait()
"""

ENDS_WITHOUT_A_WORD = """
import sys
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], durability="normal", event_log=1000)
queue.enqueue({})
"""

FORKS = """
import os, sys
from queue_max import Queue
queue = Queue(data_dir=sys.argv[1], durability="normal", event_log=1000)
def is_logged(job_id):
    with queue.services.event_log._control.reading() as unit:
        return job_id in [event.facts["job_id"] for event in unit.events.newest(None)]
queue.enqueue({"by": "parent"})
child = os.fork()
if child == 0:
    queue.enqueue({"by": "child"})
    while not is_logged(2):  # its own thread writes it
        pass
    os._exit(0)
os.waitpid(child, 0)
queue.enqueue({"by": "parent"})
queue.close()
"""


def run(code: str, *arguments: object, **variables: str) -> None:
    subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code]
        + [str(each) for each in arguments],
        env=os.environ | variables,
        check=True,
        timeout=60,
    )


def names(found: list[StoredEvent]) -> list[str]:
    return [event.event for event in found]


def test_nothing_is_kept_unless_one_asks_for_it(queue: Queue) -> None:
    queue.enqueue({})
    assert queue.events() == []
    assert not queue.services.events.are_heard("job_enqueued")
    assert "queue-max-event-log" not in {thread.name for thread in threading.enumerate()}


def test_the_life_of_a_job_is_in_the_log(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, event_log=100)
    queue.enqueue({})
    queue.drain(print)
    found = queue.events()
    assert names(found) == LIFE
    assert [event.facts["job_id"] for event in found] == [1, 1, 1]
    assert names(queue.events(since=found[0].id, limit=1)) == ["job_started"]
    assert names(queue.events(limit=1)) == ["job_completed"]


def test_what_two_processes_do_is_in_one_log(make_queue: MakeQueue, data_dir: Path) -> None:
    queue = make_queue(shards=1)
    run(PRODUCER, data_dir)
    run(WORKER, data_dir, QUEUE_MAX_EVENT_LOG="1000")
    found = queue.events()
    assert sorted(names(found)) == sorted(LIFE * 20)
    assert names(found)[:20] == ["job_enqueued"] * 20
    assert [event.id for event in found] == [*range(found[0].id, found[0].id + 60)]


def test_the_log_does_not_grow_beyond_its_bound(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, event_log=7)
    for n in range(30):
        queue.enqueue({"n": n})
        queue.events(limit=1)
    assert [event.facts["job_id"] for event in queue.events()] == [*range(24, 31)]


def test_a_thread_writes_it_without_being_asked(make_queue: MakeQueue) -> None:
    reader = make_queue(shards=1)
    make_queue(event_log=100).enqueue({})
    eventually(lambda: names(reader.events()) == ["job_enqueued"])


def test_closing_writes_what_is_left_and_leaves_no_thread(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, event_log=100)
    queue.enqueue({})
    queue.close()
    assert names(make_queue().events()) == ["job_enqueued"]
    assert "queue-max-event-log" not in {thread.name for thread in threading.enumerate()}


def test_a_program_that_ends_without_closing_leaves_its_events(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    queue = make_queue(shards=1)
    run(ENDS_WITHOUT_A_WORD, data_dir)
    assert names(queue.events()) == ["job_enqueued"]


def test_a_process_that_is_killed_takes_only_what_it_had_not_written(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    queue = make_queue(shards=1)
    process = subprocess.Popen(
        [sys.executable, "-c", STAYS, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    try:
        read_until("ready", process.stdout)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert names(queue.events()) == ["job_enqueued"]
    assert queue.get_pending_count() == 2


def test_a_child_of_fork_writes_its_own_events_and_not_those_of_its_parent(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    queue = make_queue(shards=1)
    run(FORKS, data_dir)
    assert sorted(event.facts["job_id"] for event in queue.events()) == [1, 2, 3]


def test_a_worker_is_not_held_up_by_a_log_that_cannot_be_written(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(shards=1, event_log=100)

    def refuse(*_: Any) -> None:
        raise RuntimeError("nobody foresaw that")

    monkeypatch.setattr(queue.services.event_log._control, "noting", refuse)
    queue.enqueue_batch([{"payload": {}}] * 20)
    worker = Worker("w", lambda payload: None, queue)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    monkeypatch.undo()
    assert queue.get_stats()["completed"] == 20
    assert queue.services.event_log.lost + len(queue.events()) == 60


@pytest.mark.parametrize("length", [-1, 1.5, "many", True])
def test_a_log_is_as_long_as_a_whole_number_says(make_queue: MakeQueue, length: Any) -> None:
    with pytest.raises(ValueError, match=r"^event_log="):
        make_queue(event_log=length)
