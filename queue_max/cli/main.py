"""The group of all commands, and where the program starts."""

import click

from queue_max import __version__
from queue_max.cli.base import Commands, queue_options
from queue_max.cli.db import db
from queue_max.cli.jobs import enqueue, list_jobs, purge, retry
from queue_max.cli.stats import stats
from queue_max.cli.workers import worker


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@queue_options
@click.version_option(__version__, prog_name="queue-max")
@click.pass_context
def commands(ctx: click.Context, /) -> None:
    """A task queue that needs no broker.

    Options of the queue may stand before the command or after it. Data goes to stdout, words to
    stderr. Exit codes: 0 done, 1 failure, 2 usage, 3 database or schema, 4 not found, 5 unhealthy.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (stats, worker, enqueue, list_jobs, retry, purge, db):
    commands.add_command(command)


def main() -> None:
    """Run the program."""
    commands()
