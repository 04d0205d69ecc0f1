"""`queue-max worker`: what runs, and in how many threads and processes."""

import math
import os
import socket
from typing import Any

import click

from queue_max.cli.base import RepeatableCommand, open_queue, queue_options
from queue_max.cli.loading import load, modules_of
from queue_max.cli.process import WorkerProcess
from queue_max.cli.processes import ProcessOptions, process_options, supervise
from queue_max.domain.queues import QueueChoice
from queue_max.limits.scopes import paused_in_words, resuming
from queue_max.queue import Queue
from queue_max.tasks.binding import default_queue_of_block
from queue_max.workers.async_worker import AsyncWorker
from queue_max.workers.base import BaseWorker
from queue_max.workers.isolation import Isolation
from queue_max.workers.pool import WorkerPool
from queue_max.workers.worker import Worker


@click.command(cls=RepeatableCommand)
@click.option(
    "--app",
    "apps",
    metavar="MODULE",
    multiple=True,
    help="Run the tasks that this module defines; may be given several times.",
)
@click.option(
    "--function",
    metavar="MODULE:FUNCTION",
    help="Give this function the payloads of jobs without a task.",
)
@click.option(
    "--queues",
    metavar="NAMES",
    help="Take jobs of these queues, the first one first: mail,default; or by weight: "
    "mail=3,default=1. Without it, of the one called default and those that tasks name.",
)
@click.option(
    "--workers",
    metavar="M",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Run so many jobs at a time, in threads of each process.",
)
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(min=1, max=10_000),
    help="Run so many coroutines at a time in each worker, on one event loop.",
)
@click.option(
    "--isolation",
    type=click.Choice([str(each) for each in Isolation]),
    default=str(Isolation.THREAD),
    show_default=True,
    help="Where each job runs: in its worker's thread, or in a child process, which is killed "
    "when the job takes too long.",
)
@process_options
@queue_options
@click.pass_context
def worker(
    ctx: click.Context,
    /,
    apps: tuple[str, ...],
    function: str | None,
    queues: str | None,
    workers: int,
    concurrency: int | None,
    isolation: str,
    **options: Any,
) -> None:
    """Run jobs until SIGTERM or SIGINT.

    The first signal lets running jobs end, for as long as --grace says; a second one takes them
    back and leaves at once: they run again, or have failed where no attempt is left.

    With --processes, a supervisor starts the processes that run jobs; it imports what runs,
    too, to find what is wrong before it starts any.

    Exit codes: 0 when all jobs ended by themselves, 6 when running ones were taken back because
    their grace was over, 130 or 143 when a second signal took them back. Of several processes,
    the highest.
    """
    chosen = ProcessOptions(**options)
    chosen.check()
    choice = None if queues is None else QueueChoice.of(queues)
    if concurrency is not None and isolation != Isolation.THREAD:
        raise click.UsageError("--concurrency and --isolation: give one of them, not both")
    modules = modules_of(function, apps)
    if chosen.need_supervisor:
        ctx.exit(supervise(ctx, chosen, load=lambda: load(function, apps), modules=modules))
    process_function = load(function, apps)
    queue = open_queue(ctx, create=True)
    chosen.check_memory()
    ctx.with_resource(default_queue_of_block(queue))
    me = f"{socket.gethostname()}-{os.getpid()}"
    endings = chosen.endings()
    on_start = endings.note_start if endings.are_possible else None

    def make(number: int) -> BaseWorker:
        arguments = (f"{me}-worker-{number}", process_function, queue, on_start)
        if concurrency is None:
            return Worker(*arguments, isolation=isolation, queues=choice)
        return AsyncWorker(*arguments, concurrency=concurrency, queues=choice)

    pool = WorkerPool([make(number) for number in range(1, workers + 1)])
    endings.concern(pool.workers)
    process = WorkerProcess(pool, endings, grace=chosen.grace, line=chosen.line())
    process.say(
        f"Started {workers} worker(s) processing {', '.join([*apps, *filter(None, [function])])}"
    )
    process.say(f"Queue: {queue.services.folder}, {queue.num_shards} shards, {_rate(queue)}")
    process.say(f"Takes jobs of: {pool.workers[0].chosen_queues()}")
    for scope, reason in queue.paused().items():
        process.say(f"{paused_in_words(scope, reason)}; `{resuming(scope)}` lets it go on")
    if chosen.supervised is None:
        process.say("Press Ctrl+C to stop.")
    process.run()


def _rate(queue: Queue) -> str:
    limit = queue.rate_limiter.rate_limit
    return "no limit" if limit == math.inf else f"{limit} req/min"
