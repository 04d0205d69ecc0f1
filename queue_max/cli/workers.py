"""`queue-max worker`: which function runs, and in how many threads and processes."""

import importlib
import math
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from queue_max.cli.base import RepeatableCommand, open_queue, queue_options
from queue_max.cli.process import WorkerProcess
from queue_max.cli.processes import ProcessOptions, process_options, supervise
from queue_max.queue import Queue
from queue_max.workers.pool import WorkerPool
from queue_max.workers.repertoire import ProcessFunction
from queue_max.workers.worker import Worker

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@click.command(cls=RepeatableCommand)
@click.option(
    "--function", "name", required=True, metavar="MODULE:FUNCTION", help="Is given each payload."
)
@click.option(
    "--workers",
    metavar="M",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Run so many jobs at a time, in threads of each process.",
)
@process_options
@queue_options
@click.pass_context
def worker(ctx: click.Context, /, name: str, workers: int, **options: Any) -> None:
    """Run jobs until SIGTERM or SIGINT.

    The first signal lets running jobs end, for as long as --grace says; a second one takes them
    back and leaves at once: they run again, or have failed where no attempt is left.

    With --processes, a supervisor starts the processes that run jobs; it imports the function,
    too, to find what is wrong before it starts any.

    Exit codes: 0 when all jobs ended by themselves, 6 when running ones were taken back because
    their grace was over, 130 or 143 when a second signal took them back. Of several processes,
    the highest.
    """
    chosen = ProcessOptions(**options)
    chosen.check()
    if chosen.need_supervisor:
        module, _ = _split(name)
        ctx.exit(supervise(ctx, chosen, load=lambda: _load(name), modules=[module]))
    function = _load(name)
    queue = open_queue(ctx, create=True)
    chosen.check_memory()
    me = f"{socket.gethostname()}-{os.getpid()}"
    endings = chosen.endings()
    on_start = endings.note_start if endings.are_possible else None
    pool = WorkerPool(
        [
            Worker(f"{me}-worker-{number}", function, queue, on_job_start=on_start)
            for number in range(1, workers + 1)
        ]
    )
    endings.concern(pool.workers)
    process = WorkerProcess(pool, endings, grace=chosen.grace, line=chosen.line())
    process.say(f"Started {workers} worker(s) processing {name}")
    process.say(f"Queue: {_place(queue)}, {queue.num_shards} shards, {_rate(queue)}")
    if chosen.supervised is None:
        process.say("Press Ctrl+C to stop.")
    process.run()


def _place(queue: Queue) -> Path:
    return Path(queue.data_dir).expanduser().absolute()


def _rate(queue: Queue) -> str:
    limit = queue.rate_limiter.rate_limit
    return "no limit" if limit == math.inf else f"{limit} req/min"


def _split(name: str) -> tuple[str, str]:
    """Give the names of the module, and of the function in it."""
    if not _FUNCTION.fullmatch(name):
        raise click.BadParameter(f"{name!r} should be MODULE:FUNCTION", param_hint="--function")
    module_name, _, path = name.partition(":")
    return module_name, path


def _load(name: str) -> ProcessFunction:
    """Import the function that the operator named; its module may lie in the current folder."""
    module_name, path = _split(name)
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
