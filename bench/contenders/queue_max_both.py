"""The tasks of Queue Max, written for the interface that 0.1.1 and this checkout share."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from queue_max import Queue, Worker, WorkerPool

from .protocol import Outcome, Request, receive, send, wait_for_start
from .tally import Tally, payload

Task = Callable[[Queue, Request], Outcome]


def main(open_queue: Callable[[Request], Queue], tasks: Mapping[str, Task]) -> Outcome:
    """Do what this process was started for."""
    request = receive()
    queue = open_queue(request)
    try:
        return tasks[request.task](queue, request)
    finally:
        queue.close()


def fill(queue: Queue, request: Request) -> Outcome:
    """Store all jobs, for another process to work on."""
    started = wait_for_start()
    for batch in _batches(request):
        queue.enqueue_batch(batch)
    return Outcome(started=started, ended=time.monotonic())


def drain(queue: Queue, request: Request) -> Outcome:
    """Work on the jobs that are there, until there is none."""
    tally = watch(queue, request)
    pool = workers(queue, request, tally.run)
    started = wait_for_start()
    pool.start_all()
    return _finish(queue, request, tally, pool, started)


def enqueue_meanwhile(queue: Queue, request: Request) -> Outcome:
    """Store jobs one by one while workers run them."""
    return _enqueue_and_work(queue, request, workers_first=True)


def enqueue_first(queue: Queue, request: Request) -> Outcome:
    """Store all jobs one by one, and only then start the workers."""
    return _enqueue_and_work(queue, request, workers_first=False)


def enqueue(queue: Queue, request: Request) -> Outcome:
    """Store jobs one by one, from as many threads as are asked for."""
    payloads = [payload(number) for number in range(request.jobs)]
    producers = [
        threading.Thread(target=_enqueue_all, args=(queue, payloads[first :: request.threads]))
        for first in range(request.threads)
    ]
    started = wait_for_start()
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    return _stored(queue, started)


def enqueue_batch(queue: Queue, request: Request) -> Outcome:
    """Store jobs a batch at a time."""
    batches = _batches(request)
    started = wait_for_start()
    for batch in batches:
        queue.enqueue_batch(batch)
    return _stored(queue, started)


TASKS: Mapping[str, Task] = {
    "fill": fill,
    "drain": drain,
    "enqueue_meanwhile": enqueue_meanwhile,
    "enqueue_first": enqueue_first,
    "enqueue": enqueue,
    "enqueue_batch": enqueue_batch,
}


def watch(queue: Queue, request: Request) -> Tally:
    """Count what this process settles, by the queue's own events."""
    tally = Tally(request)
    queue.on("job_completed", tally.settle)
    queue.on("job_failed", tally.settle)
    return tally


def workers(queue: Queue, request: Request, function: Callable[..., Any]) -> WorkerPool:
    """Make as many workers as are asked for; all options are the defaults."""
    return WorkerPool(
        [
            Worker(f"process-{request.part}-worker-{number}", function, queue)
            for number in range(request.threads)
        ]
    )


def publish(outcome: Outcome, **versions: str) -> None:
    """Hand the outcome to the suite, with the versions of what was measured."""
    outcome.versions |= versions
    send(outcome)


def _enqueue_and_work(queue: Queue, request: Request, *, workers_first: bool) -> Outcome:
    payloads = [payload(number) for number in range(request.jobs)]
    tally = watch(queue, request)
    pool = workers(queue, request, tally.run)
    started = wait_for_start()
    if workers_first:
        pool.start_all()
    _enqueue_all(queue, payloads)
    if not workers_first:
        pool.start_all()
    return _finish(queue, request, tally, pool, started)


def _enqueue_all(queue: Queue, payloads: Sequence[dict[str, Any]]) -> None:
    for each in payloads:
        queue.enqueue(each)


def _batches(request: Request) -> list[list[dict[str, Any]]]:
    jobs = [{"payload": payload(number)} for number in range(request.jobs)]
    return [jobs[at : at + request.batch] for at in range(0, len(jobs), request.batch)]


def _finish(
    queue: Queue, request: Request, tally: Tally, pool: WorkerPool, started: float
) -> Outcome:
    tally.wait(lambda: _is_empty(queue))
    outcome = tally.outcome(started)
    pool.stop_all()
    if request.failing_percent:
        outcome.buried = _dead_letters(queue, request).hex()
    return outcome


def _is_empty(queue: Queue) -> bool:
    stats = queue.get_stats()
    return not stats["pending"] and not stats["processing"]


def _dead_letters(queue: Queue, request: Request) -> bytes:
    """Count the dead letters of each job."""
    found = bytearray(request.jobs)
    for shard_id in range(queue.num_shards):
        for letter in queue.shard_manager.get_dead_letter_queue(shard_id, request.jobs):
            found[json.loads(letter["payload"])["n"]] += 1
    return bytes(found)


def _stored(queue: Queue, started: float) -> Outcome:
    ended = time.monotonic()
    stored = queue.get_stats()["pending"]
    return Outcome(started=started, ended=ended, figures={"stored": stored})
