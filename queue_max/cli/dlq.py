"""`queue-max dlq`: the dead letters, which are the evidence of jobs that failed for good."""

import os
import sys
from collections.abc import Iterable
from typing import IO, Any

import click

from queue_max.cli import details, output
from queue_max.cli.base import (
    Command,
    Commands,
    Fault,
    json_object,
    json_option,
    open_queue,
    queue_options,
)
from queue_max.domain.dead_letters import DeadLetter

_LETTERS = ("Key", "Failed at", "Error", "Reason")
_all = click.option("--all", "everything", is_flag=True, help="All that the options choose.")
_shard = click.option("--shard", "shard_id", type=int, metavar="N", help="Only those of a shard.")


def _filters(command: Command) -> Command:
    """Let options choose among the dead letters, by the names that the library has for them."""
    for name, metavar, words in (
        ("--before", "MOMENT", "Only those that failed before it, such as 2026-01-31T08:00:00Z."),
        ("--error-type", "TYPE", "Only those of this type of error, such as ValueError."),
    ):
        command = click.option(name, metavar=metavar, help=words)(command)
    return _shard(command)


def _payload(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    return None if text is None else json_object(text)


@click.group(cls=Commands)
@queue_options
@click.pass_context
def dlq(ctx: click.Context, /) -> None:
    """Read dead letters; requeue or discard their jobs.

    KEY names a job: <shard>-<uid>, as `dlq list` shows it, or <shard>-<id>.
    """


@dlq.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@_filters
@json_option
@queue_options
@click.pass_context
def list_letters(ctx: click.Context, /, limit: int, as_json: bool, **filters: Any) -> None:
    """Show dead letters, the newest first."""
    letters = open_queue(ctx).dead_letters.list(limit, **filters)
    if as_json:
        output.as_json([_without_attempts(letter) for letter in letters], indent=2)
    elif not letters:
        output.say("  No dead letters.")
    else:
        output.table(_LETTERS, [_row(letter) for letter in letters])


@dlq.command()
@click.argument("key")
@details.traceback_option
@json_option
@queue_options
@click.pass_context
def show(ctx: click.Context, /, key: str, traceback: bool, as_json: bool) -> None:
    """Show all that is known of the job KEY, and of its failed attempts."""
    letter = open_queue(ctx).dead_letters.get(key)
    if as_json:
        output.as_json(letter.to_dict(), indent=2)
        return
    _show_letter(letter)
    details.attempts(letter.attempts, traceback)


@dlq.command()
@click.argument("key", required=False)
@_all
@_filters
@click.option("--payload", metavar="JSON", callback=_payload, help="Takes the old one's place.")
@queue_options
@click.pass_context
def requeue(
    ctx: click.Context,
    /,
    key: str | None,
    everything: bool,
    payload: dict[str, Any] | None,
    **filters: Any,
) -> None:
    """Give the job KEY another life, or --all jobs that the options choose.

    Jobs with a damaged payload stay, but for one that is given another payload.
    """
    _check_choice(key, everything, filters)
    if key is None and payload is not None:
        raise click.UsageError("--payload needs KEY: it is the payload of one job.")
    letters = open_queue(ctx).dead_letters
    if key is None:
        number = letters.requeue_all(**filters)
    else:
        letters.requeue(key, payload)
        number = 1
    click.echo(f"  Requeued {number} job(s).")


@dlq.command()
@click.argument("key", required=False)
@_all
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@queue_options
@click.pass_context
def discard(
    ctx: click.Context, /, key: str | None, everything: bool, yes: bool, **filters: Any
) -> None:
    """Delete the dead letter of the job KEY and the job, or --all that the options choose."""
    _check_choice(key, everything, filters)
    letters = open_queue(ctx).dead_letters
    if key is None:
        # A look first: bad options are told, and nothing is asked where there is nothing.
        if not yes and letters.list(1, **filters):
            _confirm(f"Delete {_meant(**filters)}, and their jobs, for good?")
        number = letters.discard_all(**filters)
    else:
        letters.discard(key)
        number = 1
    click.echo(f"  Discarded {number} dead letter(s).")


@dlq.command()
@click.argument("path", metavar="[FILE]", required=False, type=click.Path())
@_shard
@queue_options
@click.pass_context
def export(ctx: click.Context, /, path: str | None, shard_id: int | None) -> None:
    """Write dead letters with their attempts as JSON Lines, to stdout or to a new FILE.

    FILE can be read by its owner only, for payloads may hold secrets.
    """
    letters = open_queue(ctx).dead_letters.export(shard_id=shard_id)
    if path is None:
        _write(letters, None)
    else:
        click.echo(f"  Exported {_write_file(letters, path)} dead letter(s) to {path}")


def _check_choice(key: str | None, everything: bool, filters: dict[str, Any]) -> None:
    """Refuse what names no job, or names jobs twice: to guess would change the wrong ones."""
    if (key is None) != everything:
        raise click.UsageError("Give either KEY or --all.")
    if key is not None and any(value is not None for value in filters.values()):
        raise click.UsageError("KEY names one job: give --all instead to choose by options.")


def _meant(*, shard_id: int | None, error_type: str | None, before: str | None) -> str:
    """Tell in words what the options choose."""
    words = ["all dead letters"]
    if shard_id is not None:
        words.append(f"of shard {shard_id}")
    if error_type is not None:
        words.append(f"with error type {error_type!r}")
    if before is not None:
        words.append(f"from before {before}")
    return " ".join(words)


def _confirm(question: str) -> None:
    is_agreed = sys.stdin is not None and click.confirm(f"  {question}", err=True)
    if not is_agreed:
        raise Fault("Nothing was discarded. With --yes nobody is asked.")


def _without_attempts(letter: DeadLetter) -> dict[str, Any]:
    """Leave out what a list does not read; an empty list would say that there were none."""
    return {name: value for name, value in letter.to_dict().items() if name != "attempts"}


def _row(letter: DeadLetter) -> tuple[object, ...]:
    error = output.failure(letter.error_type, letter.error)
    return letter.key, letter.failed_at, error, output.cut(letter.reason or "")


def _show_letter(letter: DeadLetter) -> None:
    details.facts(
        {
            "Key": letter.key,
            "Shard": letter.shard_id,
            "Job ID": letter.job_id,
            "Failed at": letter.failed_at,
            "Reason": letter.reason,
            "Error type": letter.error_type,
        }
    )
    details.json_text("Payload", letter.payload)
    details.failure(letter.error, letter.error_stack)


def _write(letters: Iterable[dict[str, Any]], file: IO[str] | None) -> int:
    number = 0
    for letter in letters:
        output.as_json(letter, file=file)
        number += 1
    return number


def _write_file(letters: Iterable[dict[str, Any]], path: str) -> int:
    """Write a new file, whole or not at all; gives the number of letters."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise click.BadParameter(f"{path} exists; name a new file", param_hint="FILE") from error
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            number = _write(letters, file)
            os.fsync(descriptor)  # what was exported is often discarded next
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise Fault(f"{path}: {error.strerror or error}") from error
        raise
    return number
