"""A census of Python's standard library: every .py file of it becomes one job.

Run it with `make demo`, or `python examples/stdlib_census.py`; a folder that is given takes the
library's place. Ctrl-C stops it at any moment; the next run goes on from there. What happens, in
the order of this file:

1. `census` is the job's function: it parses one file and writes what it counted to the report.
2. `main` enqueues the files, starts two worker processes, watches them, and tells the outcome.
"""

import ast
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from queue_max import Permanent, Queue

HOME = Path(__file__).resolve().parents[1] / ".demo"
REPORT = HOME / "report.db"
STANDARD = Path(sysconfig.get_path("stdlib"))
LIBRARY = Path(sys.argv[1]) if __name__ == "__main__" and sys.argv[1:] else STANDARD
WORKERS = 2  # processes, of four threads each

# The workers inherit these. A census needs no limit, and files that do not parse, of which the
# library's own tests have many, are no reason to stop: so neither limit nor circuit breaker.
ENVIRONMENT = {
    "DATA_DIR": str(HOME / "queue"),
    "RATE_LIMIT_MAX": "none",
    "CIRCUIT_FAILURE_THRESHOLD": "none",
}

console = Console()


def census(payload: dict[str, Any]) -> None:
    """Count the lines, functions and classes of one file; this is what the workers call."""
    path = payload["path"]
    with report() as db:
        db.execute("INSERT INTO starts (path) VALUES (?)", (path,))
    source = Path(path).read_bytes()  # an error here is worth another attempt
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # It would not parse the next time either: to the dead letters, at once.
        raise Permanent(f"{type(error).__name__}: {error}") from error
    nodes = list(ast.walk(tree))
    functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)
    classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    with report() as db:
        # A worker may die between this line and the end of its job, which then runs again: the
        # path is the primary key, so that no file is counted twice.
        db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            (path, source.count(b"\n"), functions, classes),
        )


def main() -> None:
    """Run the census, or what is left of it."""
    os.environ.update(ENVIRONMENT)
    files = library_files()
    prepare_report(files)
    with Queue() as queue:
        queue.enqueue_batch(
            {"payload": {"path": path}, "retry_delay": 1} for path in files - known_files(queue)
        )
        begun, done_before = time.monotonic(), finished(queue)
        workers: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(WORKERS):
                workers.append(start_worker())
            watch(queue, workers, len(files))
        finally:
            for worker in workers:
                worker.terminate()  # SIGTERM: running jobs may end
            for worker in workers:
                worker.wait()
        tell(queue, files, finished(queue) - done_before, time.monotonic() - begun)


def library_files() -> set[str]:
    """Find the files of the standard library; what was installed beside it is left out."""
    if LIBRARY == STANDARD and not (LIBRARY / "test").is_dir():
        console.print(f"{LIBRARY} has no folder of tests: the census goes without it.")
    strangers = {"site-packages", "dist-packages"}
    return {str(path) for path in LIBRARY.rglob("*.py") if not strangers & set(path.parts)}


def prepare_report(files: set[str]) -> None:
    """Make the report; begin a new census where the last one came to its end."""
    make_tables()
    with Queue() as queue:
        is_over = files <= known_files(queue) and queue.wait_until_empty(timeout=0)
    if is_over:
        shutil.rmtree(HOME)
        make_tables()


def make_tables() -> None:
    """Make the report's tables, unless they are there."""
    with report() as db:
        db.execute("CREATE TABLE IF NOT EXISTS starts (path TEXT)")
        db.execute(
            "CREATE TABLE IF NOT EXISTS files "
            "(path TEXT PRIMARY KEY, lines INTEGER, functions INTEGER, classes INTEGER)"
        )


def known_files(queue: Queue) -> set[str]:
    """Tell which files have a job, or had one: nothing is enqueued twice after a Ctrl-C."""
    with report() as db:
        counted = {path for (path,) in db.execute("SELECT path FROM files")}
    return counted | {job.payload["path"] for job in queue.list_jobs(limit=None)}


def finished(queue: Queue) -> int:
    """Count the jobs that are done or failed for good."""
    stats = queue.get_stats()
    return int(stats["completed"] + stats["failed"])


def start_worker() -> "subprocess.Popen[bytes]":
    """Start a worker process through the command line, as one would by hand."""
    command = "worker --function stdlib_census:census --workers 4"
    return subprocess.Popen(
        [sys.executable, "-m", "queue_max", *command.split()],
        cwd=Path(__file__).parent,  # where the module of the function lies
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; they are told to end below
    )


def watch(queue: Queue, workers: "list[subprocess.Popen[bytes]]", total: int) -> None:
    """Draw the progress until no job waits or runs."""
    with Progress(
        TextColumn("Census of the standard library"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=total)
        while not queue.wait_until_empty(timeout=0.1):
            progress.update(bar, completed=finished(queue))
            if any(worker.poll() is not None for worker in workers):
                raise SystemExit("a worker process has ended; see `queue-max stats`")
        progress.update(bar, completed=finished(queue))


def tell(queue: Queue, files: set[str], jobs: int, seconds: float) -> None:
    """Print the totals, and the dead letters."""
    with report() as db:
        sums = "count(*), sum(lines), sum(functions), sum(classes)"
        parsed, lines, functions, classes = db.execute(f"SELECT {sums} FROM files").fetchone()  # noqa: S608
        (retries,) = db.execute("SELECT count(*) - count(DISTINCT path) FROM starts").fetchone()
    letters = [
        letter
        for shard_id in range(queue.num_shards)
        for letter in queue.shard_manager.get_dead_letter_queue(shard_id, limit=len(files))
    ]
    dead = Table("File that failed for good", "Why", title=f"{len(letters)} dead letters")
    for path, error in sorted(
        (json.loads(letter["payload"])["path"], letter["error"]) for letter in letters
    ):
        dead.add_row(os.path.relpath(path, LIBRARY), error)
    console.print(dead)
    totals = Table("", "", show_header=False, title="Census of the standard library")
    for name, value in {
        "files": len(files),
        "parsed": parsed,
        "lines": lines,
        "functions": functions,
        "classes": classes,
        "failed for good": len(letters),
        "retries": retries,
        "jobs in this run": jobs,
        "seconds": round(seconds, 1),
        "jobs a second": round(jobs / seconds),
    }.items():
        totals.add_row(name, f"{value or 0:,}")
    console.print(totals)
    console.print(f"The report: {REPORT}")


@contextmanager
def report() -> Iterator[sqlite3.Connection]:
    """Open the report for one transaction."""
    HOME.mkdir(exist_ok=True)
    with closing(sqlite3.connect(REPORT, timeout=60)) as db, db:
        yield db


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        console.print("Stopped. The next run goes on from here.")
        raise SystemExit(128 + signal.SIGINT) from None
