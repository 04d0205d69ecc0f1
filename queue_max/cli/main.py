"""The group of all commands, and where the program starts."""

import sys
from contextlib import suppress

import click

from queue_max import __version__
from queue_max.cli import output
from queue_max.cli.base import FAILURE, INTERRUPTED, Commands, queue_options
from queue_max.cli.db import db
from queue_max.cli.dlq import dlq
from queue_max.cli.events import events
from queue_max.cli.health import doctor, health
from queue_max.cli.jobs import cancel, enqueue, list_jobs, purge, retry, show
from queue_max.cli.limits import breakers, limits, pause, queues, resume, why
from queue_max.cli.schedules import schedules
from queue_max.cli.stats import stats
from queue_max.cli.workers import worker

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(cls=Commands, invoke_without_command=True, context_settings=_HELP)
@queue_options
@click.version_option(__version__, prog_name="queue-max")
@click.pass_context
def commands(ctx: click.Context, /) -> None:
    """A task queue that needs no broker.

    Options of the queue may stand before the command or after it. Data goes to stdout, words to
    stderr. Exit codes: 0 done, 1 failure, 2 usage, 3 database or schema, 4 not found,
    5 unhealthy, 6 a worker's grace was over, 130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


_ALL = (
    *(worker, enqueue, list_jobs, show, cancel, retry, purge, dlq, schedules),
    *(queues, pause, resume, limits, breakers, why),
    *(stats, events, health, doctor, db),
)

for command in _ALL:
    # Each by itself: it keeps the words it was first asked with, by whatever program.
    command.context_settings = {**command.context_settings, **_HELP}
    commands.add_command(command)


def main() -> None:
    """Run the program, and end it with an exit code; nothing ends in a traceback but a bug."""
    code = _run()
    output.let_go()
    sys.exit(code)


def _run() -> int:
    try:
        code = commands(standalone_mode=False) or 0
        output.flush()
    except click.ClickException as error:
        with suppress(OSError):  # nobody may read the words; the exit code counts all the same
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # its reader has seen enough
        return FAILURE
    except OSError as error:
        output.say(f"Error: {error.filename or 'stdout'}: {error.strerror or error}")
        return FAILURE
    return code
