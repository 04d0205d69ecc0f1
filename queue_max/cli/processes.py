"""`queue-max worker` as several processes: the options, and the supervisor they ask for."""

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import click

from queue_max import checks
from queue_max.cli import output
from queue_max.cli.base import Command, load_settings, repeated
from queue_max.cli.endings import MB, Endings, resident_memory
from queue_max.cli.lifeline import Lifeline
from queue_max.cli.reloading import Changes, folders_of
from queue_max.cli.signals import Signals
from queue_max.cli.supervisor import Supervisor

RELOAD_GRACE = 2
"""Seconds that running jobs have where `--reload` is given and `--grace` is not."""


def _grace(_ctx: click.Context, _parameter: click.Parameter, value: float | None) -> float:
    if value is None or value == math.inf:
        return math.inf
    return checks.seconds("--grace", value, zero=True)


_OPTIONS = (
    click.option(
        "--processes",
        metavar="N",
        type=click.IntRange(min=1),
        help="Run so many processes, each with workers of its own; replace those that die.",
    ),
    click.option(
        "--max-jobs-per-process",
        metavar="N",
        type=click.IntRange(min=1),
        help="Replace a process that has begun N jobs. Needs --processes.",
    ),
    click.option(
        "--max-memory-per-process",
        metavar="MB",
        type=click.IntRange(min=1),
        help="Replace a process that takes as much memory. Needs --processes, and Linux.",
    ),
    click.option(
        "--max-jobs",
        metavar="N",
        type=click.IntRange(min=1),
        help="End when N jobs have run; a few more where several workers run.",
    ),
    click.option(
        "--burst",
        is_flag=True,
        help="End when no job is due and none runs. What waits for the rate limit or an open "
        "circuit is due; what is scheduled for later is not.",
    ),
    click.option(
        "--grace",
        metavar="SECONDS",
        type=float,
        callback=_grace,
        help="Take running jobs back so long after the first signal. [for ever; 2 with --reload]",
    ),
    click.option(
        "--reload",
        is_flag=True,
        help="Begin anew when a Python file below the current folder or in the package of the "
        "function changes; for development.",
    ),
    click.option("--supervised", metavar="DESCRIPTOR", type=int, hidden=True),
)


def process_options(command: Command) -> Command:
    """Add the options that `ProcessOptions` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How many processes run, and when they end."""

    processes: int | None
    max_jobs_per_process: int | None
    max_memory_per_process: int | None
    max_jobs: int | None
    burst: bool
    grace: float
    reload: bool
    supervised: int | None
    """The number under which a worker process has inherited its end of the line."""

    @property
    def need_supervisor(self) -> bool:
        """Whether this process is to run no jobs, but to start others that do."""
        return self.supervised is None and (self.processes is not None or self.reload)

    def check(self) -> None:
        """Refuse what does not go together."""
        if self.processes is None:
            for name in ("max_jobs_per_process", "max_memory_per_process"):
                if getattr(self, name) is not None:
                    raise click.UsageError(
                        f"--{name.replace('_', '-')} needs --processes (1 will do): "
                        "a process that ends is replaced by its supervisor"
                    )
        elif self.max_jobs is not None:
            raise click.UsageError(
                "--max-jobs does not go with --processes; --max-jobs-per-process does, and the "
                "process is then replaced"
            )
        if self.reload and (self.burst or self.max_jobs is not None):
            raise click.UsageError(
                "--reload runs until a signal: it does not go with --burst and --max-jobs"
            )

    def check_memory(self) -> None:
        """Refuse a limit that this process exceeds before its first job."""
        if self.max_memory_per_process is None:
            return
        try:
            taken = resident_memory()
        except OSError as error:
            raise click.BadParameter(
                f"this system does not tell how much a process takes: {error}",
                param_hint="--max-memory-per-process",
            ) from error
        if taken >= self.max_memory_per_process * MB:
            raise click.BadParameter(
                f"{self.max_memory_per_process} MB is too little: a process takes "
                f"{math.ceil(taken / MB)} MB before its first job",
                param_hint="--max-memory-per-process",
            )

    def endings(self) -> Endings:
        """Tell when a process that runs jobs is to end by itself."""
        given = [each for each in (self.max_jobs, self.max_jobs_per_process) if each is not None]
        memory = self.max_memory_per_process
        return Endings(
            jobs=min(given, default=math.inf),
            memory=math.inf if memory is None else memory * MB,
            burst=self.burst,
        )

    def line(self) -> Lifeline | None:
        """Take the line to the supervisor, where there is one."""
        return None if self.supervised is None else Lifeline(self.supervised)


def supervise(
    ctx: click.Context,
    options: ProcessOptions,
    *,
    load: Callable[[], object],
    modules: Iterable[str],
) -> int:
    """Run worker processes until all is over; gives the exit code.

    What is wrong with the settings, or with what `load` imports, is found before any is started.
    With `--reload` the latter may become right: the worker processes alone import, and say it.
    """
    load_settings(ctx)
    changes, defaults = None, []
    if options.reload:
        changes, defaults = Changes(folders_of(modules)), [f"--grace={RELOAD_GRACE}"]
    else:
        load()
    options.check_memory()
    places = options.processes or 1
    supervisor = Supervisor(
        lambda line: repeated(ctx, _program(), f"--supervised={line}", *defaults),
        places,
        say=lambda words: output.say(f"  {words}"),
        until_done=options.burst,
        has_changed=None if changes is None else changes.have_come,
    )
    signals = Signals()
    output.say(f"  Starting {places} process(es). Press Ctrl+C to stop.")
    return supervisor.run(signals)


def _program() -> list[str]:
    """Give the words that start this program afresh.

    Unlike a module that is run by its name, a script does not look for modules in the current
    folder first, where one may hide a library's.
    """
    is_script = getattr(sys.modules["__main__"], "__spec__", None) is None
    safe_path = ["-P"] if is_script or sys.flags.safe_path else []
    return [sys.executable, *safe_path, "-m", "queue_max"]
