"""`queue-max worker`: workers in this process, until a signal."""

import importlib
import os
import re
import signal
import socket
import sys
import threading
from typing import Any

import click

from queue_max.cli import output
from queue_max.cli.base import FAILURE, Fault, open_queue, queue_options
from queue_max.workers.execution import ProcessFunction
from queue_max.workers.pool import WorkerPool
from queue_max.workers.worker import Worker, WorkerState

STATS_EVERY = 60.0  # seconds

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

    The first signal lets running jobs end; a second one gives them back to the queue and leaves
    at once.
    """
    function = _load(name)
    queue = open_queue(ctx, create=True)
    me = f"{socket.gethostname()}-{os.getpid()}"
    pool = WorkerPool(
        [Worker(f"{me}-worker-{number}", function, queue) for number in range(1, workers + 1)]
    )
    output.say(f"  Started {workers} worker(s) processing {name}")
    output.say(f"  Queue: {queue.num_shards} shards, {queue.rate_limiter.rate_limit} req/min")
    output.say("  Press Ctrl+C to stop.")
    _run_until_signalled(pool)
    if any(each.state == WorkerState.ERROR for each in pool.workers):
        raise Fault("A worker ended by an error of its own; see the log.", FAILURE)


def _run_until_signalled(pool: WorkerPool) -> None:
    signalled = [threading.Event(), threading.Event()]
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signalled[min(len(received), 2) - 1].set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    pool.start_all()
    while not signalled[0].wait(STATS_EVERY):
        output.say(_stats(pool))
    output.say("  Stopping: running jobs may end. A second signal gives them back.")
    drained = threading.Thread(target=pool.stop_all, args=(None,), daemon=True)
    drained.start()
    while drained.is_alive():
        if signalled[1].wait(0.05):
            _leave(pool, received[-1])
    output.say(_stats(pool))


def _leave(pool: WorkerPool, number: int) -> None:
    """End the process although jobs run: their threads cannot be ended otherwise."""
    given_back = sum(each.hand_back() for each in pool.workers)
    output.say(f"  Gave {given_back} running job(s) back.")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)


def _stats(pool: WorkerPool) -> str:
    totals, queue = pool.get_stats(), pool.workers[0].queue.get_stats()
    return (
        f"  [Stats] Pending: {queue['pending']} | Processed: {totals['total_processed']} | "
        f"Failed: {totals['total_failed']} | Circuit: {queue['circuit_state']}"
    )


def _load(name: str) -> ProcessFunction:
    """Import the function that the operator named; its module may lie in the current folder."""
    if not _FUNCTION.fullmatch(name):
        raise click.BadParameter(f"{name!r} should be MODULE:FUNCTION", param_hint="--function")
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # the module is the user's: anything may happen in it
        raise click.BadParameter(
            f"cannot load {name}: {type(error).__name__}: {error}", param_hint="--function"
        ) from error
    if not callable(found):
        raise click.BadParameter(f"{name} cannot be called", param_hint="--function")
    return found  # type: ignore[no-any-return]
