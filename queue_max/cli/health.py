"""`queue-max health` and `queue-max doctor`: what is wrong, and what helps."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta

import click

from queue_max.assembly import open_directory
from queue_max.cli import output
from queue_max.cli.base import UNHEALTHY, Fault, json_option, load_settings, queue_options
from queue_max.services.diagnosis import Diagnosis, Finding, Level


@click.command()
@json_option
@queue_options
@click.pass_context
def health(ctx: click.Context, /, as_json: bool) -> None:
    """Tell in a moment whether all shards can serve; exit code 5 if not."""
    _report(_diagnosis(ctx).health(), as_json)


@click.command()
@json_option
@queue_options
@click.pass_context
def doctor(ctx: click.Context, /, as_json: bool) -> None:
    """Read every file of the queue and tell what is wrong, and what helps; exit code 5 if any is.

    Looks at the SQLite library, the file system, permissions, free room, tables, logs, the
    structure of each file, the checksum of each job, and the leases. Repairs nothing.
    """
    _report(_diagnosis(ctx).examine(), as_json)


def _diagnosis(ctx: click.Context) -> Diagnosis:
    settings = load_settings(ctx)
    directory = open_directory(settings)
    ctx.call_on_close(directory.close)
    return Diagnosis(directory, timedelta(milliseconds=settings.stuck_timeout_ms))


def _report(findings: Iterable[Finding], as_json: bool) -> None:
    found = list(findings)
    if as_json:
        output.as_json([asdict(each) for each in found], indent=2)
    else:
        rows = [(each.subject, each.level, each.what) for each in found]
        output.table(("Subject", "State", "Found"), rows)
        for subject, remedy in {(each.subject, each.remedy): None for each in found if each.remedy}:
            click.echo(f"  {subject}: {remedy}.")
    errors = sum(each.level is Level.ERROR for each in found)
    if errors:
        raise Fault(f"{errors} thing(s) are wrong.", UNHEALTHY)
