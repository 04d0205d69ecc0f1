"""Showing one job: facts, texts, and its failed attempts."""

import json
from collections.abc import Mapping, Sequence

import click

from queue_max.cli import output
from queue_max.domain.attempts import Attempt

_ATTEMPTS = ("Attempt", "Worker", "Started", "Ended", "Error")

traceback_option = click.option(
    "--traceback", is_flag=True, help="Print that of each attempt, not the last only."
)


def facts(named: Mapping[str, object]) -> None:
    """Print facts by their names."""
    output.table(("Fact", "Value"), [(name, _told(value)) for name, value in named.items()])


def json_text(title: str, text: str) -> None:
    """Print JSON text, set out in lines; what is damaged stays as it is."""
    output.block(title, _pretty(text))


def failure(message: str | None, stack: str | None) -> None:
    """Print the words and the traceback of the last failure, as far as there are any."""
    if message is not None:
        output.block("Error", message)
    if stack:
        output.block("Traceback", stack)


def attempts(failed: Sequence[Attempt], with_tracebacks: bool) -> None:
    """Print failed attempts, the first one first."""
    if not failed:
        return
    click.echo()
    output.table(_ATTEMPTS, [_attempt_row(attempt) for attempt in failed])
    for attempt in failed:
        if with_tracebacks and attempt.error_stack:
            title = f"Traceback of attempt {attempt.number}, ended {attempt.ended_at}"
            output.block(title, attempt.error_stack)


def _attempt_row(attempt: Attempt) -> tuple[object, ...]:
    times = _told(attempt.started_at), attempt.ended_at
    error = output.failure(attempt.error_type, attempt.error)
    return attempt.number, _told(attempt.worker_id), *times, error


def _told(value: object) -> object:
    return "-" if value is None else value


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
