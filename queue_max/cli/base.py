"""What all commands share: the options of the queue, and how faults become exit codes."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from queue_max.exceptions import (
    ConfigurationError,
    InvalidJobError,
    JobNotFoundError,
    QueueError,
    QueueNotFoundError,
    ScheduleNotFoundError,
    ShardError,
    ShardNotFoundError,
)
from queue_max.queue import Queue
from queue_max.settings import Settings, misspelt

FAILURE, USAGE, DATABASE, NOT_FOUND, UNHEALTHY, GRACE_OVER, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

logger = logging.getLogger(__name__)

_CODES: dict[type[QueueError], int] = {
    QueueNotFoundError: NOT_FOUND,
    ShardNotFoundError: NOT_FOUND,
    JobNotFoundError: NOT_FOUND,
    ScheduleNotFoundError: NOT_FOUND,
    ShardError: DATABASE,
    ConfigurationError: USAGE,
    InvalidJobError: USAGE,
}

_META = "queue_max.options"
_WORDS = "queue_max.words"

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Host:
    """Another program that has our commands among its own, given as the `obj` of their context."""

    open_queue: Callable[[bool], Queue]
    """Gives its queue, made if need be where it is told so; closing it is for the host."""
    load_settings: Callable[[], Settings]
    program: Sequence[str]
    """The words that have another process run the same command."""


class Fault(click.ClickException):
    """An expected fault: one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class Commands(click.Group):
    """The commands; an error of the library ends them in words, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        try:
            return super().invoke(ctx)
        except QueueError as error:
            raise Fault(str(error), exit_code_of(error)) from error


class RepeatableCommand(click.Command):
    """A command that another process can be told in the same words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as they were given."""
        ctx.meta[_WORDS] = tuple(args)
        return super().parse_args(ctx, args)


def repeated(ctx: click.Context, program: Sequence[str], *more: str) -> list[str]:
    """Give the command line of a RepeatableCommand; what it was told beats `more` options.

    It begins with the words that start our program, unless it was run by another one.
    """
    if (host := ctx.find_object(Host)) is not None:
        return [*host.program, *more, *ctx.meta[_WORDS]]
    before = [
        f"--{name.replace('_', '-')}={value}" for name, value in ctx.meta.get(_META, {}).items()
    ]
    return [*program, *before, str(ctx.info_name), *more, *ctx.meta[_WORDS]]


def _remember(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    """Keep an option of the queue, if it was given, for commands further right."""
    if value is not None:
        ctx.meta.setdefault(_META, {})[parameter.name] = value


def queue_options(command: Command) -> Command:
    """Let the options of the queue stand before the command or after it; the latter wins."""
    for name, kind, metavar, words in (
        ("--data-dir", str, "DIR", "Where the files lie [DATA_DIR, ./data]."),
        ("--rate-limit", str, "N", "Jobs started a minute, or none [RATE_LIMIT_MAX, 160]."),
        ("--shards", int, "N", "Number of shards [NUM_SHARDS, the stored one, 6 for a new queue]."),
    ):
        command = click.option(
            name, type=kind, metavar=metavar, help=words, callback=_remember, expose_value=False
        )(command)
    return command


def of_queue(option: click.Parameter) -> bool:
    """Tell whether it is one of the options of the queue."""
    return option.callback is _remember


def json_object(text: str, param_hint: str | None = None) -> dict[str, Any]:
    """Read a JSON object from the command line."""
    value = _json(text, param_hint)
    if not isinstance(value, dict):
        raise click.BadParameter("should be a JSON object", param_hint=param_hint)
    return value


def json_array(text: str) -> list[Any]:
    """Read a JSON array from the command line."""
    value = _json(text)
    if not isinstance(value, list):
        raise click.BadParameter("should be a JSON array")
    return value


def _json(text: str, param_hint: str | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint=param_hint) from error


def open_queue(ctx: click.Context, *, create: bool = False) -> Queue:
    """Open the queue that the options name; it is closed when the command ends."""
    if (host := ctx.find_object(Host)) is not None:
        return host.open_queue(create)
    load_settings(ctx)
    queue = Queue(**ctx.meta.get(_META, {}), create=create)
    ctx.call_on_close(queue.close)
    return queue


def load_settings(ctx: click.Context) -> Settings:
    """Read the settings beneath the options, once a command; warn of variables that are none."""
    if (host := ctx.find_object(Host)) is not None:
        return host.load_settings()
    settings = Settings.load(**ctx.meta.get(_META, {}))
    logging.getLogger().setLevel(settings.log_level)
    for name, nearest in misspelt().items():
        logger.warning("%s is no setting; did you mean %s?", name, nearest)
    return settings


def exit_code_of(error: QueueError) -> int:
    """Tell by which exit code a program ends that an error of the library ends."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAILURE)
