"""A bare loop on SQLite, without a library: what the machine and the driver allow.

One thread, one file, the driver that Queue Max chooses. Each transaction deletes the jobs that are
done and takes the next ones, a batch of them; the payloads are parsed, and the jobs counted.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from queue_max.storage import driver

from .protocol import Outcome, Request, receive, send, wait_for_start
from .tally import Tally, payload

SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    payload TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending',
    priority INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    started_at REAL
);
CREATE INDEX pending ON jobs (priority DESC, id) WHERE status = 'pending';
"""
ADD = "INSERT INTO jobs (payload, created_at) VALUES (?, ?)"
DELETE = "DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
FIND = """
SELECT id, payload FROM jobs WHERE status = 'pending' ORDER BY priority DESC, id LIMIT ?
"""
TAKE = """
UPDATE jobs SET status = 'processing', attempts = attempts + 1, started_at = ?
WHERE id IN (SELECT value FROM json_each(?))
"""


def connect(request: Request) -> Any:
    """Open the file as Queue Max would."""
    file = Path(request.directory) / "raw.db"
    connection = driver.choose().module.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {request.durability.upper()}")
    return connection


def fill(connection: Any, request: Request) -> Outcome:
    """Store all jobs."""
    started = wait_for_start()
    connection.executescript(SCHEMA)
    rows = [(json.dumps(payload(number)), time.time()) for number in range(request.jobs)]
    connection.execute("BEGIN")
    connection.executemany(ADD, rows)
    connection.execute("COMMIT")
    return Outcome(started=started, ended=time.monotonic())


def drain(connection: Any, request: Request) -> Outcome:
    """Take, run and delete all jobs."""
    tally = Tally(request)
    started = wait_for_start()
    done: list[int] = []
    while taken := _exchange(connection, done, request.batch):
        for _id, text in taken:
            tally.run(json.loads(text))
        done = [job_id for job_id, _text in taken]
    tally.ended = time.monotonic()
    return tally.outcome(started)


def _exchange(connection: Any, done: list[int], batch: int) -> list[tuple[int, str]]:
    """Delete the jobs that are done and take the next ones, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    if done:
        connection.execute(DELETE, (json.dumps(done),))
    taken: list[tuple[int, str]] = connection.execute(FIND, (batch,)).fetchall()
    if taken:
        ids = json.dumps([job_id for job_id, _text in taken])
        connection.execute(TAKE, (time.time(), ids))
    connection.execute("COMMIT")
    return taken


TASKS: Mapping[str, Callable[[Any, Request], Outcome]] = {"fill": fill, "drain": drain}


if __name__ == "__main__":
    request = receive()
    outcome = TASKS[request.task](connect(request), request)
    outcome.versions = {"sqlite": driver.choose().name}
    send(outcome)
