"""huey on SQLite. It deletes a job as it takes it, so a job counts as settled once it has run."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from sqlite3 import Connection, sqlite_version
from typing import Any

from huey import SqliteHuey
from huey.storage import SqliteStorage

from .protocol import Outcome, Request, receive, send, wait_for_start
from .tally import Tally, payload


class NormalStorage(SqliteStorage):  # type: ignore[misc]
    """Storage with synchronous=NORMAL, for which huey has no option: it knows FULL and OFF."""

    def _create_connection(self) -> Connection:
        connection: Connection = super()._create_connection()
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection


def open_huey(request: Request) -> SqliteHuey:
    """Open the queue, without results: nothing is kept of jobs that are done."""
    file = str(Path(request.directory) / "huey.db")
    if request.durability == "normal":
        return SqliteHuey(filename=file, results=False, storage_class=NormalStorage)
    return SqliteHuey(filename=file, results=False, fsync=True)


def fill(huey: SqliteHuey, request: Request) -> Outcome:
    """Store all jobs, for another process to work on."""
    started = wait_for_start()
    job = _task(huey, lambda payload: None)
    for number in range(request.jobs):
        job(payload(number))
    return Outcome(started=started, ended=time.monotonic())


def drain(huey: SqliteHuey, request: Request) -> Outcome:
    """Work on the jobs that are there, until there is none."""
    tally = Tally(request)

    def run(job: dict[str, Any]) -> None:
        tally.run(job)
        tally.settle()

    _task(huey, run)
    consumer = huey.create_consumer(workers=request.threads, periodic=False)
    started = wait_for_start()
    consumer.start()
    tally.wait(lambda: huey.pending_count() == 0)
    outcome = tally.outcome(started)
    consumer.stop(graceful=True)
    return outcome


def enqueue(huey: SqliteHuey, request: Request) -> Outcome:
    """Store jobs one by one, from as many threads as are asked for."""
    job = _task(huey, lambda payload: None)
    payloads = [payload(number) for number in range(request.jobs)]

    def store(first: int) -> None:
        for each in payloads[first :: request.threads]:
            job(each)

    producers = [threading.Thread(target=store, args=(first,)) for first in range(request.threads)]
    started = wait_for_start()
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    ended = time.monotonic()
    return Outcome(started=started, ended=ended, figures={"stored": huey.pending_count()})


TASKS: Mapping[str, Callable[[SqliteHuey, Request], Outcome]] = {
    "fill": fill,
    "drain": drain,
    "enqueue": enqueue,
}


def _task(huey: SqliteHuey, function: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    """Register a function under the one name by which all processes know it."""
    task: Callable[..., Any] = huey.task(name="job")(function)
    return task


if __name__ == "__main__":
    logging.getLogger("huey").setLevel(logging.WARNING)
    request = receive()
    outcome = TASKS[request.task](open_huey(request), request)
    outcome.versions = {"package": version("huey"), "sqlite": sqlite_version}
    send(outcome)
