"""`queue-max schedules`: jobs that come by themselves, at regular times."""

import json
from collections.abc import Callable
from typing import Any

import click

from queue_max.cli import details, output
from queue_max.cli.base import (
    Commands,
    json_array,
    json_object,
    json_option,
    open_queue,
    queue_options,
)
from queue_max.domain.clock import to_text
from queue_max.domain.schedules import DEFAULT_CAP, Misfire, Overlap, Schedule

_HEADERS = ("Name", "Task", "Rhythm", "Next at", "Last at")


def _json(read: Callable[[str], Any]) -> Callable[..., Any]:
    """Let an option be read as JSON."""

    def callback(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
        return None if text is None else read(text)

    return callback


@click.group(cls=Commands)
@queue_options
@click.pass_context
def schedules(ctx: click.Context, /) -> None:
    """Jobs that come by themselves: list, add, pause, remove schedules.

    Workers store the jobs, each tick once, however many of them run.
    """


@schedules.command("list")
@json_option
@queue_options
@click.pass_context
def list_schedules(ctx: click.Context, /, as_json: bool) -> None:
    """Show all schedules, by name."""
    found = open_queue(ctx).schedules.list()
    if as_json:
        output.as_json([schedule.to_dict() for schedule in found], indent=2)
    elif not found:
        output.say("  No schedules.")
    else:
        output.table(_HEADERS, [_row(schedule) for schedule in found])


@schedules.command()
@click.argument("name")
@json_option
@queue_options
@click.pass_context
def show(ctx: click.Context, /, name: str, as_json: bool) -> None:
    """Show all that is known of the schedule NAME, and its next ten times."""
    queue = open_queue(ctx)
    schedule = queue.schedules.get(name)
    following = [to_text(tick) for tick in queue.schedules.preview(name)]
    if as_json:
        output.as_json(schedule.to_dict() | {"next": following}, indent=2)
        return
    _show_facts(schedule)
    title = "Next times, once it is resumed" if schedule.is_paused else "Next times"
    output.block(title, "\n".join(following))


@schedules.command()
@click.argument("name")
@click.option("--task", required=True, metavar="TASK", help="The name of the task to run.")
@click.option("--interval", type=float, metavar="S", help="Seconds from one job to the next.")
@click.option("--cron", metavar="FIELDS", help="Such as '30 2 * * MON-FRI', or @daily.")
@click.option("--tz", default="UTC", show_default=True, help="The time zone of --cron.")
@click.option("--args", metavar="JSON", callback=_json(json_array), help="A list, for the task.")
@click.option(
    "--kwargs", metavar="JSON", callback=_json(json_object), help="An object, for the task."
)
@click.option(
    "--payload", metavar="JSON", callback=_json(json_object), help="In place of --args, --kwargs."
)
@click.option(
    "--misfire",
    type=click.Choice([*map(str, Misfire)]),
    default=str(Misfire.ONCE),
    show_default=True,
    help="What becomes of times that were missed.",
)
@click.option(
    "--misfire-cap",
    type=int,
    default=DEFAULT_CAP,
    show_default=True,
    metavar="N",
    help="How many of them are made up for at most, with --misfire all.",
)
@click.option(
    "--overlap",
    type=click.Choice([*map(str, Overlap)]),
    default=str(Overlap.ALLOW),
    show_default=True,
    help="Whether a job comes while the last one has not ended.",
)
@click.option("--priority", type=click.IntRange(0, 2), help="Of its jobs [0].")
@click.option("--pagina-id", type=int, metavar="N", help="Jobs of one N share a shard.")
@click.option("--max-retries", type=int, metavar="N", help="Attempts after the first.")
@click.option("--retry-delay", type=int, metavar="S", help="Seconds, the base of the waits.")
@click.option("--timeout", type=float, metavar="S", help="Seconds that an attempt may take.")
@click.option("--keep-result", type=float, metavar="S", help="Seconds a result is kept.")
@queue_options
@click.pass_context
def add(ctx: click.Context, /, name: str, **declared: Any) -> None:
    """Add the schedule NAME, or change it to be as the options say."""
    given = {option: value for option, value in declared.items() if value is not None}
    schedule = open_queue(ctx, create=True).schedules.put(name, **given)
    click.echo(f"  Schedule {schedule.name}: {_rhythm(schedule)}, {_outlook(schedule)}.")


@schedules.command()
@click.argument("name")
@queue_options
@click.pass_context
def remove(ctx: click.Context, /, name: str) -> None:
    """Delete the schedule NAME; jobs that it has stored stay."""
    open_queue(ctx).schedules.remove(name)
    click.echo(f"  Removed schedule {name}.")


@schedules.command()
@click.argument("name")
@queue_options
@click.pass_context
def pause(ctx: click.Context, /, name: str) -> None:
    """Let the schedule NAME store no jobs until it is resumed."""
    open_queue(ctx).schedules.pause(name)
    click.echo(f"  Paused schedule {name}.")


@schedules.command()
@click.argument("name")
@queue_options
@click.pass_context
def resume(ctx: click.Context, /, name: str) -> None:
    """Let the schedule NAME go on; times that it missed meanwhile are not made up for."""
    schedule = open_queue(ctx).schedules.resume(name)
    click.echo(f"  Resumed schedule {name}, {_outlook(schedule)}.")


@schedules.command()
@click.argument("name")
@json_option
@queue_options
@click.pass_context
def run(ctx: click.Context, /, name: str, as_json: bool) -> None:
    """Store one job of the schedule NAME now, outside of its rhythm."""
    handle = open_queue(ctx).schedules.run_now(name)
    if as_json:
        output.as_json(handle)
    else:
        click.echo(f"  Job enqueued: id={handle['id']}, shard={handle['shard_id']}")


def _rhythm(schedule: Schedule) -> str:
    if schedule.interval is not None:
        is_whole = schedule.interval.is_integer()
        return f"every {int(schedule.interval) if is_whole else schedule.interval} s"
    return str(schedule.cron) if schedule.tz == "UTC" else f"{schedule.cron} ({schedule.tz})"


def _outlook(schedule: Schedule) -> str:
    return "paused" if schedule.is_paused else f"next at {to_text(schedule.next_at)}"


def _row(schedule: Schedule) -> tuple[object, ...]:
    next_at = "paused" if schedule.is_paused else to_text(schedule.next_at)
    last_at = "-" if schedule.last_at is None else to_text(schedule.last_at)
    return schedule.name, schedule.task, _rhythm(schedule), next_at, last_at


def _show_facts(schedule: Schedule) -> None:
    facts = schedule.to_dict()
    details.facts(
        {
            "Name": schedule.name,
            "Task": schedule.task,
            "Rhythm": _rhythm(schedule),
            "Next at": "paused" if schedule.is_paused else facts["next_at"],
            "Last at": facts["last_at"],
            "Last job": schedule.last_job,
            "Misfire": _misfire(schedule),
            "Overlap": schedule.overlap,
            "Created at": facts["created_at"],
            "Updated at": facts["updated_at"],
        }
    )
    details.json_text("Payload", json.dumps(schedule.payload))
    if schedule.options:
        details.json_text("Options", json.dumps(schedule.options))


def _misfire(schedule: Schedule) -> str:
    if schedule.misfire is Misfire.ALL:
        return f"{schedule.misfire}, at most {schedule.misfire_cap}"
    return schedule.misfire
