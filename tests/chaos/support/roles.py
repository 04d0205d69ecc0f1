"""Roles: what processes of these suites do, until they have done it or are ended."""

import ctypes
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from chaos.support.ledger import Ledger

from queue_max import Job, Queue, QueueError, Worker

T = TypeVar("T")

LEDGER = "CHAOS_LEDGER"
"""The environment variable that tells a process where its ledger lies."""


def payload_of(n: str) -> dict[str, Any]:
    """Make the one payload that belongs to a number, as long as what follows an x in it says."""
    chance = random.Random(n)
    size = n.partition("x")[2]
    length = int(size) if size else chance.randrange(300)
    return {"n": n, "text": "".join(chance.choices("abcdef", k=length))}


def poison_of(n: str) -> dict[str, Any]:
    """Make a payload that ends the process which runs it, in one of three ways."""
    return {"n": n, "poison": random.Random(n).choice(("kill", "exit", "crash"))}


def produce(name: str, seed: int, jobs: int | None = None, longest_pause: float = 0.004) -> None:
    """Store jobs, singly and in batches, for ever or until there are so many."""
    ledger, chance, made = Ledger(Path(os.environ[LEDGER])), random.Random(seed), 0
    with Queue() as queue:
        while jobs is None or made < jobs:
            size = chance.choice((1, 1, 1, 5))
            numbers = [f"{name}-{made + each}" for each in range(size)]
            for n in numbers:
                ledger.note("offered", n=n)
            items: list[dict[str, Any]] = [
                {
                    "payload": payload_of(n),
                    "priority": chance.randrange(3),
                    "retry_delay": 0,
                    "pagina_id": chance.choice((None, 1)),
                }
                for n in numbers
            ]
            handles = (
                [queue.enqueue(**items[0])] if size == 1 else queue.enqueue_batch(items)["jobs"]
            )
            for n, handle in zip(numbers, handles, strict=True):
                ledger.note("acked", n=n, key=f"{handle['shard_id']}/{handle['id']}")
            made += size
            time.sleep(chance.uniform(0, longest_pause))


def work(name: str, threads: int = 2, longest: float = 0.005, rarity: int = 1) -> None:
    """Run jobs until SIGTERM; then tell what was done.

    They take up to `longest` seconds; the higher the `rarity`, the fewer take so long.
    """
    ledger, signals = Ledger(Path(os.environ[LEDGER])), list[int]()
    # An Event would not do: its lock may be held by the very thread that is interrupted.
    signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
    with Queue() as queue:
        crew = [
            _noting_worker(f"{name}-{each}", queue, ledger, partial(_some_time, longest, rarity))
            for each in range(threads)
        ]
        for worker in crew:
            worker.start()
        while not signals:
            time.sleep(0.05)
        for worker in crew:
            worker.request_stop()
        for worker in crew:
            worker.stop(None)
        for worker in crew:
            stats = worker.get_stats()
            ledger.note("stats", processed=stats["processed"], lost=stats["lost"])


def _some_time(longest: float, rarity: int) -> None:
    time.sleep(longest * random.random() ** rarity)


def _given_at(job: Job) -> float:
    """Tell when a job was given to its worker, by the clock of the ledger."""
    assert job.started_at is not None
    ago = time.time() - datetime.fromisoformat(job.started_at).timestamp()
    return time.monotonic() - ago


def _noting_worker(name: str, queue: Queue, ledger: Ledger, do: Callable[[], None]) -> Worker:
    def run(payload: Mapping[str, Any]) -> dict[str, Any]:
        job = worker.get_current_job()
        assert job is not None
        facts = {
            "n": payload["n"],
            "key": f"{job.shard_id}/{job.id}",
            "fence": job.fence,
            "attempts": job.attempts,
        }
        ledger.note("began", **facts, given=_given_at(job))
        if "poison" in payload:
            _end_this_process(payload["poison"])
        if payload != payload_of(payload["n"]):
            ledger.note("strange", n=payload["n"])
        do()
        ledger.note("ended", **facts)
        return facts

    def accepted(worker_id: str, job_id: int, result: Mapping[str, Any]) -> None:
        ledger.note("accepted", **result)

    worker = Worker(name, run, queue, on_job_complete=accepted, poll_interval=0.01)
    return worker


def _end_this_process(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)


def note(payload: Mapping[str, Any]) -> None:
    """Be the function of a `queue-max worker` process."""
    ledger = _ledger()
    ledger.note("began", n=payload["n"])
    if payload != payload_of(payload["n"]):
        ledger.note("strange", n=payload["n"])
    time.sleep(random.uniform(0, 0.03))
    ledger.note("ended", n=payload["n"])


_ledgers: dict[str, Ledger] = {}


def _ledger() -> Ledger:
    path = os.environ[LEDGER]
    return _ledgers.setdefault(path, Ledger(Path(path))) if path not in _ledgers else _ledgers[path]


def live_through_all(rounds: int, pragmas: Mapping[str, str | int] | None = None) -> None:
    """Lead jobs through every step of their lives, one step after the other, noting each.

    Closes the queue now and then, which empties the WAL. `pragmas` replace those of the package.
    """
    if pragmas:
        _set_pragmas(pragmas)
    ledger = Ledger(Path(os.environ[LEDGER]))
    for round_number in range(rounds):
        with Queue() as queue:
            for step in range(4):
                _store_three(queue, ledger, f"{round_number}-{step}")
                _end_two(queue, ledger)


def _store_three(queue: Queue, ledger: Ledger, name: str) -> None:
    numbers = [f"{name}-{each}" for each in "abc"]
    for n in numbers:
        ledger.note("offered", n=n)
    first = queue.enqueue(payload_of(numbers[0]), retry_delay=0)
    ledger.note("acked", n=numbers[0], key=f"{first['shard_id']}/{first['id']}")
    items = [{"payload": payload_of(n), "retry_delay": 0, "pagina_id": 1} for n in numbers[1:]]
    for n, handle in zip(numbers[1:], queue.enqueue_batch(items)["jobs"], strict=True):
        ledger.note("acked", n=n, key=f"{handle['shard_id']}/{handle['id']}")


def _end_two(queue: Queue, ledger: Ledger) -> None:
    """Complete a job; let another fail, for now or for good."""
    for ending in ("complete", random.choice(("retry", "bury"))):
        job = queue.pop_job("by hand")
        assert job is not None
        n = job.payload["n"]
        ledger.note("claimed", n=n, fence=job.fence)
        ledger.note("finishing", n=n, ending=ending)
        if ending == "complete":
            queue.complete_job(job.id, job.shard_id, fence=job.fence)
        else:
            permanent = ending == "bury"
            queue.fail_job(job.id, job.shard_id, "no", permanent=permanent, fence=job.fence)
        ledger.note("finished", n=n, ending=ending)


def _set_pragmas(pragmas: Mapping[str, str | int]) -> None:
    from queue_max.storage.sqlite import SqliteOptions

    own = SqliteOptions.pragmas
    SqliteOptions.pragmas = lambda self: own(self) | dict(pragmas)  # type: ignore[method-assign]


def wait_for_tracer(patience: float = 20.0) -> None:
    """Wait until strace follows this process; anyone of the same user may."""
    pr_set_ptracer, anyone = 0x59616D61, -1
    ctypes.CDLL(None).prctl(pr_set_ptracer, ctypes.c_ulong(anyone), 0, 0, 0)
    deadline = time.monotonic() + patience
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
        if time.monotonic() > deadline:
            raise TimeoutError("no tracer has come")
        time.sleep(0.001)


def take_steps(name: str) -> None:
    """Take every step of a job's life once, under a tracer; an error in words stops none."""
    ledger, steps = Ledger(Path(os.environ[LEDGER])), _Steps(name)
    wait_for_tracer()
    for part in (steps.store_and_end, steps.purge_and_store):
        queue = _tried(ledger, "open", Queue)
        if queue is not None:
            part(queue, ledger)
            _tried(ledger, "close", queue.close)


class _Steps:
    """The steps, in two parts: between them the queue is closed, which empties the WAL."""

    def __init__(self, name: str) -> None:
        self._name = name

    def store_and_end(self, queue: Queue, ledger: Ledger) -> None:
        self._store(queue, ledger, "a")
        self._store(queue, ledger, "b", "c")
        for ending in ("complete", "retry", "bury"):
            job = _tried(ledger, "pop", lambda: queue.pop_job("by hand"))
            if job is not None:
                ledger.note("claimed", n=job.payload["n"], fence=job.fence)
                self._end(queue, ledger, job, ending)

    def purge_and_store(self, queue: Queue, ledger: Ledger) -> None:
        failed = [job.payload["n"] for job in queue.get_failed_jobs()]
        for n in failed:
            ledger.note("purging", n=n)
        if _tried(ledger, "purge", lambda: queue.purge_queue("failed")) is not None:
            for n in failed:
                ledger.note("purged", n=n)
        self._store(queue, ledger, "d")

    def _store(self, queue: Queue, ledger: Ledger, *letters: str) -> None:
        numbers = [f"{self._name}-{letter}" for letter in letters]
        for n in numbers:
            ledger.note("offered", n=n)
        items = [{"payload": payload_of(n), "retry_delay": 0, "pagina_id": 1} for n in numbers]
        stored = _tried(ledger, "enqueue", lambda: queue.enqueue_batch(items))
        if stored is not None:
            for n in numbers:
                ledger.note("acked", n=n)

    def _end(self, queue: Queue, ledger: Ledger, job: Job, ending: str) -> None:
        n = job.payload["n"]
        ledger.note("finishing", n=n, ending=ending)
        if ending == "complete":
            done = _tried(
                ledger,
                "complete",
                lambda: queue.complete_job(job.id, job.shard_id, fence=job.fence),
            )
        else:
            permanent = ending == "bury"
            done = _tried(
                ledger,
                ending,
                lambda: queue.fail_job(
                    job.id, job.shard_id, "no", permanent=permanent, fence=job.fence
                ),
            )
        if done:
            ledger.note("finished", n=n, ending=ending)


def _tried(ledger: Ledger, verb: str, act: Callable[[], T]) -> T | None:
    """Do something that may be refused, in words; any other error ends the process."""
    try:
        return act()
    except QueueError as error:
        ledger.note("refused", verb=verb, error=str(error))
        return None


def work_off(name: str, patience: float = 20.0) -> None:
    """Run all jobs that wait, under a tracer."""
    ledger = Ledger(Path(os.environ[LEDGER]))
    wait_for_tracer()
    opened = _tried(ledger, "open", Queue)
    with Queue() if opened is None else opened as queue:
        worker = _noting_worker(name, queue, ledger, lambda: None)
        worker.start()
        # To look at the queue may be refused as well.
        while (
            is_empty := _tried(ledger, "wait", partial(queue.wait_until_empty, patience))
        ) is None:
            pass
        if not is_empty:
            raise TimeoutError("not all jobs were run")
        worker.stop(None)
