"""`queue-max db`: the tables of all databases, one after the other."""

from collections import Counter
from typing import Any

import click

from queue_max.assembly import open_directory
from queue_max.cli import output
from queue_max.cli.base import (
    DATABASE,
    Commands,
    Fault,
    json_option,
    load_settings,
    queue_options,
)
from queue_max.exceptions import ShardError
from queue_max.settings import Settings
from queue_max.storage.directory import Directory
from queue_max.storage.migrations import CONTROL, SHARD, revision


@click.group(cls=Commands)
@queue_options
@click.pass_context
def db(ctx: click.Context, /) -> None:
    """Make, upgrade and check the databases."""


@db.command()
@queue_options
@click.pass_context
def upgrade(ctx: click.Context, /) -> None:
    """Make what is missing and bring all tables up to date; one bad shard stops no other."""
    settings = load_settings(ctx)
    failed = 0
    for database, error in _directory(ctx, settings).upgrade(settings.shards):
        if error is None:
            click.echo(f"  {database.label}: at revision {SHARD.head}")
        else:
            failed += 1
            output.say(f"  Error: {error}")
    if failed:
        raise Fault(f"{failed} shard(s) not upgraded.", DATABASE)


@db.command()
@json_option
@queue_options
@click.pass_context
def current(ctx: click.Context, /, as_json: bool) -> None:
    """Tell at which revision each database is."""
    _report(_look(_directory(ctx, load_settings(ctx))), as_json)


@db.command()
@json_option
@queue_options
@click.pass_context
def check(ctx: click.Context, /, as_json: bool) -> None:
    """Tell whether each database is at the newest revision; exit code 3 if not."""
    found = _look(_directory(ctx, load_settings(ctx)))
    _report(found, as_json)
    faults = Counter(_fault(each) for each in found if not each["is_current"])
    if faults:
        words = (f"{number} database(s) {fault}." for fault, number in faults.items())
        raise Fault(" ".join(words), DATABASE)


def _directory(ctx: click.Context, settings: Settings) -> Directory:
    directory = open_directory(settings)
    ctx.call_on_close(directory.close)
    return directory


def _look(directory: Directory) -> list[dict[str, Any]]:
    found = []
    for history in (CONTROL, SHARD):
        for database in directory.existing(history):
            state: dict[str, Any] = {"database": database.label, "head": history.head}
            try:
                state["revision"] = revision(database, history)
            except ShardError as error:
                state |= {"revision": None, "error": error.what}
            found.append(state | {"is_current": state["revision"] == history.head})
    return found


def _fault(state: dict[str, Any]) -> str:
    """Tell what is wrong with a database, and what helps."""
    if "error" in state:
        return "cannot be used; what is said of each tells why"
    if (state["revision"] or "") > state["head"]:
        return "are newer than this program; upgrade queue-max"
    return "are not up to date; run `queue-max db upgrade`"


def _report(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.as_json(found, indent=2)
        return
    for state in found:
        is_at = state.get("error") or state["revision"] or "no revision (0.1 or 0.2, or new)"
        mark = " (head)" if state["is_current"] else ""
        click.echo(f"  {state['database']}: {is_at}{mark}")
