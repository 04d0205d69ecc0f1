"""`queue-max worker`: workers in this process, until a signal."""

import importlib
import math
import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from queue_max.cli import output
from queue_max.cli.base import FAILURE, Fault, open_queue, queue_options
from queue_max.exceptions import QueueError
from queue_max.queue import Queue
from queue_max.workers.pool import WorkerPool
from queue_max.workers.repertoire import ProcessFunction
from queue_max.workers.worker import Worker, WorkerState

STATS_EVERY = 60.0  # seconds
SIGNALS_EVERY = 0.05

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@click.command()
@click.option(
    "--function", "name", required=True, metavar="MODULE:FUNCTION", help="Is given each payload."
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@queue_options
@click.pass_context
def worker(ctx: click.Context, /, name: str, workers: int) -> None:
    """Run jobs until SIGTERM or SIGINT.

    The first signal lets running jobs end; a second one takes them back and leaves at once: they
    run again, or have failed where no attempt is left.
    """
    function = _load(name)
    queue = open_queue(ctx, create=True)
    me = f"{socket.gethostname()}-{os.getpid()}"
    pool = WorkerPool(
        [Worker(f"{me}-worker-{number}", function, queue) for number in range(1, workers + 1)]
    )
    signals = _Signals()
    output.say(f"  Started {workers} worker(s) processing {name}")
    output.say(f"  Queue: {_place(queue)}, {queue.num_shards} shards, {_rate(queue)}")
    output.say("  Press Ctrl+C to stop.")
    _run_until_signalled(pool, signals)
    if any(each.state == WorkerState.ERROR for each in pool.workers):
        raise Fault("A worker ended by an error of its own; see the log.", FAILURE)


def _place(queue: Queue) -> Path:
    return Path(queue.data_dir).expanduser().absolute()


def _rate(queue: Queue) -> str:
    limit = queue.rate_limiter.rate_limit
    return "no limit" if limit == math.inf else f"{limit} req/min"


class _Signals:
    """Notes SIGINT and SIGTERM from now on.

    Nothing is locked for it: a handler runs in the midst of what the main thread does, and would
    wait for ever for a lock that thread holds.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self.received.append(number))

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until that many have come; False when `timeout` seconds are over before."""
        deadline = time.monotonic() + timeout
        while len(self.received) < count and time.monotonic() < deadline:
            time.sleep(SIGNALS_EVERY)
        return len(self.received) >= count


def _run_until_signalled(pool: WorkerPool, signals: _Signals) -> None:
    pool.start_all()
    while not signals.wait_for(1, STATS_EVERY):
        _say_stats(pool)
    for each in pool.workers:
        each.request_stop()
    output.say("  Stopping: running jobs may end. A second signal takes them back.")
    while any(each.is_running for each in pool.workers):
        if signals.wait_for(2, SIGNALS_EVERY):
            _leave(pool, signals.received[-1])
    pool.stop_all(timeout=None)  # what was claimed and not begun goes back
    _say_stats(pool)


def _leave(pool: WorkerPool, number: int) -> None:
    """End the process although jobs run: their threads cannot be ended otherwise."""
    taken = 0
    for each in pool.workers:
        try:
            taken += each.hand_back()
        except QueueError as error:
            output.say(f"  Not taken back, the job is free when its lease is over: {error}")
    output.say(f"  Took {taken} running job(s) back; what had no attempt left has failed.")
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be closed, or nobody reads it any more
            stream.flush()
    os._exit(128 + number)


def _say_stats(pool: WorkerPool) -> None:
    try:
        queue = pool.workers[0].queue.get_stats()
    except QueueError as error:
        output.say(f"  [Stats] {error}")
        return
    totals = pool.get_stats()
    output.say(
        f"  [Stats] Pending: {queue['pending']} | Processed: {totals['total_processed']} | "
        f"Failed: {totals['total_failed']} | Circuit: {queue['circuit_state']}"
    )


def _load(name: str) -> ProcessFunction:
    """Import the function that the operator named; its module may lie in the current folder."""
    if not _FUNCTION.fullmatch(name):
        raise click.BadParameter(f"{name!r} should be MODULE:FUNCTION", param_hint="--function")
    module_name, _, path = name.partition(":")
    with suppress(FileNotFoundError):  # the current folder may be gone
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the module is the user's: it may even leave the program
        raise click.BadParameter(
            f"cannot load {name}: {type(error).__name__}: {error}", param_hint="--function"
        ) from error
    if not callable(found):
        raise click.BadParameter(f"{name} cannot be called", param_hint="--function")
    return found  # type: ignore[no-any-return]
