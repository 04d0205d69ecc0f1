"""`queue-max events`: what has happened in all processes that keep a log of it."""

import time
from collections.abc import Sequence

import click

from queue_max.cli import output
from queue_max.cli.base import json_option, open_queue, queue_options
from queue_max.domain.clock import to_text
from queue_max.domain.events import StoredEvent
from queue_max.queue import Queue

LOOK_EVERY = 0.5
"""Seconds between two looks for events to come."""

_HEADERS = ("Id", "At", "Event", "Facts")


@click.command()
@click.option("--since", type=click.IntRange(min=0), metavar="ID", help="Only later ones than ID.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="So many at most; with --follow, at a time.",
)
@click.option("--follow", is_flag=True, help="Go on with those to come, until interrupted.")
@json_option
@queue_options
@click.pass_context
def events(
    ctx: click.Context, /, since: int | None, limit: int, follow: bool, as_json: bool
) -> None:
    """Show the log of events, the newest ones without --since.

    Processes write it that have QUEUE_MAX_EVENT_LOG set to the number of events to be kept. With
    --follow, --json prints one object a line.
    """
    queue = open_queue(ctx)
    if follow:
        _follow(queue, since, limit, as_json)
        return
    found = queue.events(since, limit)
    if as_json:
        output.as_json([event.to_dict() for event in found], indent=2)
    elif not found:
        output.say("  No events; they are kept where QUEUE_MAX_EVENT_LOG is set.")
    else:
        output.table(_HEADERS, [_row(event) for event in found])


def _follow(queue: Queue, since: int | None, limit: int, as_json: bool) -> None:
    """Print events as they come, until interrupted."""
    while True:
        found = queue.events(since, limit)
        _print(found, as_json)
        since = found[-1].id if found else since or 0
        if len(found) < limit:
            time.sleep(LOOK_EVERY)


def _print(found: Sequence[StoredEvent], as_json: bool) -> None:
    for event in found:
        if as_json:
            output.as_json(event.to_dict())
        else:
            output.row(_row(event))
    output.flush()


def _row(event: StoredEvent) -> tuple[str, ...]:
    facts = ", ".join(f"{name}={value}" for name, value in event.facts.items())
    return str(event.id), to_text(event.at), event.event, output.cut(facts)
