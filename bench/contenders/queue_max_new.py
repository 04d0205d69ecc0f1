"""Queue Max as it lies in this checkout, with the tasks that only it is measured in."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import queue_max
from queue_max import Queue
from queue_max.storage import driver

from .protocol import Outcome, Request, wait_for_start
from .queue_max_both import TASKS, Task, main, publish, watch, workers
from .tally import Tally, memory_mb, payload

ROWS_OF_SMALL_TABLE = 1000
A_MONTH = 30 * 24 * 3600

GAPS = (0.01, 0.03)
"""Seconds between two jobs while latency is measured, at random: no rhythm fits them."""

HELD = "held"
"""The name of a key, or of a breaker, that lets no job pass."""

SETTLING_TIME = 1.0
"""Seconds for a worker that has just started to become idle."""

SOAK_BACKLOG = 10_000
SOAK_PARTS = 10
"""The first and the last of so many parts are compared."""

WRITING = ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "INSERT", "UPDATE", "DELETE", "REPLACE")


def open_queue(request: Request) -> Queue:
    """Open the queue without limits, unless one is asked for."""
    queue = Queue(
        shards=request.shards,
        data_dir=request.directory,
        durability=request.durability,
        rate_limit=math.inf,
        circuit_breaker_threshold=math.inf,
    )
    if request.rate:
        queue.limits.set("all", rate=request.rate)
    return queue


def stock(queue: Queue, request: Request) -> Outcome:
    """Lay `rows` jobs of one kind into a shard, and a thousand that are due, unless all are.

    One job is made by the public interface; SQL copies it, since a million would take too long.
    """
    started = wait_for_start()
    if request.rows:
        template = _template(queue, request.rows_are)
        queue.close()  # no other connection may be open on the file that is copied in
        _copy_job(Path(request.directory) / "shard_0.db", template, request.rows - 1)
    if request.rows_are != "pending" or not request.rows:
        with closing(open_queue(request)) as again:
            again.enqueue_batch([{"payload": payload(n)} for n in range(ROWS_OF_SMALL_TABLE)])
    return Outcome(started=started, ended=time.monotonic())


def claim_and_settle(queue: Queue, request: Request) -> Outcome:
    """Take jobs one at a time and complete them; each call is timed by itself."""
    claims: list[float] = []
    settlements: list[float] = []
    seen = set()
    started = wait_for_start()
    for _ in range(request.jobs):
        before = time.perf_counter()
        job = queue.pop_job("bench")
        between = time.perf_counter()
        if job is None:
            raise RuntimeError("no job was due")
        settled = queue.complete_job(job.id, job.shard_id, fence=job.fence)
        after = time.perf_counter()
        if not settled:
            raise RuntimeError(f"job {job.id} was not settled")
        claims.append(between - before)
        settlements.append(after - between)
        seen.add(job.id)
    if len(seen) < request.jobs:
        raise RuntimeError("a job was given out twice")
    figures = {
        "claim_us": statistics.median(claims) * 1e6,
        "settle_us": statistics.median(settlements) * 1e6,
    }
    return Outcome(started=started, ended=time.monotonic(), figures=figures)


def latency(queue: Queue, request: Request) -> Outcome:
    """Time from before `enqueue` to the start of the job, with one worker that idles.

    With two processes, the first one enqueues and the second one works.
    """
    tally, delays = watch(queue, request), list[float]()
    is_producer, is_worker = request.part == 0, request.part == request.processes - 1
    pool = workers(queue, request, _timed(tally, delays))
    if is_worker:
        pool.start_all()
        time.sleep(SETTLING_TIME)
    started = wait_for_start()
    if is_producer:
        _enqueue_at_random(queue, request)
    if not is_worker:
        return Outcome(started=started, ended=time.monotonic())
    tally.wait(lambda: False)
    pool.stop_all()
    outcome = tally.outcome(started)
    hundredths = statistics.quantiles(delays, n=100)
    outcome.figures |= {"p50_ms": hundredths[49] * 1000, "p99_ms": hundredths[98] * 1000}
    return outcome


def idle(queue: Queue, request: Request) -> Outcome:
    """Let workers wait for jobs that never come, and see what they do to processor and files."""
    queue.close()
    statements = _writing_statements()
    with closing(open_queue(request)) as watched:  # anew, so that all of it is traced
        pool = workers(watched, request, lambda job: None)
        pool.start_all()
        time.sleep(SETTLING_TIME)
        before = _stamps(Path(request.directory))
        statements.clear()
        started, used = wait_for_start(), time.process_time()
        time.sleep(request.seconds)
        used, ended = time.process_time() - used, time.monotonic()
        writing = len(statements)
        changed = before ^ _stamps(Path(request.directory))
        pool.stop_all()
    figures = {
        "cpu_percent": 100 * used / (ended - started),
        "files_written": len({name for name, *_ in changed}),
        "writing_statements": writing,
    }
    return Outcome(started=started, ended=ended, figures=figures)


def soak(queue: Queue, request: Request) -> Outcome:
    """Push jobs through one queue for long, with a bounded number of them waiting."""
    tally = watch(queue, request)
    pool = workers(queue, request, tally.run)
    started = wait_for_start()
    pool.start_all()
    marks = [(started, memory_mb("VmRSS"), _megabytes(request.directory))]
    for part in range(SOAK_PARTS):
        first, last = (request.jobs * at // SOAK_PARTS for at in (part, part + 1))
        _keep_busy(queue, tally, range(first, last), request.batch)
        marks.append((time.monotonic(), memory_mb("VmRSS"), _megabytes(request.directory)))
    tally.wait(lambda: False)
    outcome = tally.outcome(started)
    pool.stop_all()
    times, memories, sizes = zip(*marks, strict=True)
    outcome.figures |= {
        # Each part is as many jobs, so the rates are to each other as the times are inversely.
        "last_to_first": (times[1] - times[0]) / (times[-1] - times[-2]),
        "memory_growth": memories[-1] / memories[1],
        "files_mb": max(sizes),
    }
    return outcome


def _template(queue: Queue, kind: str) -> int:
    """Make one job of a kind: pending, scheduled before all others, or completed and kept."""
    match kind:
        case "pending":
            return int(queue.enqueue(payload(0))["id"])
        case "scheduled":
            return int(queue.enqueue(payload(0), priority=2, delay=A_MONTH)["id"])
        case "completed":
            queue.enqueue(payload(0), priority=2, keep_result=A_MONTH)
            job = queue.pop_job("bench")
            if job is None:
                raise RuntimeError("the job to copy is not due")
            queue.complete_job(job.id, job.shard_id, fence=job.fence)
            return job.id
        case "held by a rate key":
            queue.limits.set(f"key:{HELD}", rate="1/d")
            return _held(queue, rate_key=HELD)
        case "held by a concurrency key":
            return _held(queue, concurrency_key=HELD)
        case "held by a breaker":
            queue.breakers.open(HELD)
            return _held(queue, breaker=HELD)
    raise ValueError(kind)


def _held(queue: Queue, **options: Any) -> int:
    """Make an urgent job that may not run, for another one has what is to be had, if anything."""
    ids = [int(queue.enqueue(payload(0), priority=2, **options)["id"]) for _ in range(2)]
    while queue.pop_job("bench") is not None:
        ids.pop(0)
    if not ids:
        raise RuntimeError("the job to copy is not held")
    return ids[-1]


_NOT_COPIED = {"id", "uid", "checksum"}
"""The checksum sums up the uid, too; a row may be without one."""


def _copy_job(file: Path, job_id: int, times: int) -> None:
    """Copy a row of the jobs' table; each copy has an id and a uid of its own, in one order."""
    with closing(driver.choose().module.connect(file)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(fila)")]
        copied = ", ".join(name for name in columns if name not in _NOT_COPIED)
        connection.execute(
            f"""
            WITH RECURSIVE copies (number) AS (
                SELECT 1 WHERE :times > 0 UNION ALL
                SELECT number + 1 FROM copies WHERE number < :times
            )
            INSERT INTO fila (uid, {copied})
            SELECT printf('%08x-0000-7000-8000-%012x', number, number), {copied}
            FROM copies, fila WHERE id = :job_id
            """,  # noqa: S608 - names of columns
            {"job_id": job_id, "times": times},
        )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _timed(tally: Tally, delays: list[float]) -> Callable[[dict[str, Any]], None]:
    def start(job: dict[str, Any]) -> None:
        delays.append(time.monotonic() - job["sent"])
        tally.run(job)

    return start


def _enqueue_at_random(queue: Queue, request: Request) -> None:
    rng = random.Random(221)  # noqa: S311 - not for secrets
    for number in range(request.jobs):
        time.sleep(rng.uniform(*GAPS))
        queue.enqueue(payload(number) | {"sent": time.monotonic()})


def _writing_statements() -> list[str]:
    """Give a list to which each statement is added that needs a write lock, from now on."""
    seen: list[str] = []
    module = driver.choose().module
    connect = module.connect

    def trace(statement: str) -> None:
        if statement.lstrip().upper().startswith(WRITING):
            seen.append(statement)

    def connect_and_trace(*args: Any, **options: Any) -> Any:
        connection = connect(*args, **options)
        connection.set_trace_callback(trace)
        return connection

    module.connect = connect_and_trace  # type: ignore[attr-defined]
    return seen


def _stamps(directory: Path) -> set[tuple[str, int, int]]:
    """Tell the state of the shards' files; reading them changes nothing but the shared memory."""
    files = [path for path in directory.glob("shard_*") if not path.name.endswith("-shm")]
    return {(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _keep_busy(queue: Queue, tally: Tally, numbers: Sequence[int], batch: int) -> None:
    """Store jobs, a batch at a time, while not too many wait."""
    for chunk in _chunks(numbers, batch):
        while chunk[0] - tally.settled > SOAK_BACKLOG:
            time.sleep(0.001)
        queue.enqueue_batch([{"payload": payload(number)} for number in chunk])


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(numbers), size):
        yield numbers[at : at + size]


def _megabytes(directory: str) -> float:
    return sum(path.stat().st_size for path in Path(directory).glob("*.db*")) / 1024**2


OWN_TASKS: dict[str, Task] = {
    "stock": stock,
    "claim_and_settle": claim_and_settle,
    "latency": latency,
    "idle": idle,
    "soak": soak,
}


if __name__ == "__main__":
    publish(
        main(open_queue, {**TASKS, **OWN_TASKS}),
        package=queue_max.__version__,
        sqlite=driver.choose().name,
    )
