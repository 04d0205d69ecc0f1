"""Running our commands from another program, which has its own way to read options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from queue_max.cli.base import INTERRUPTED, Host, exit_code_of, of_queue
from queue_max.exceptions import QueueError

Command = click.Command


class HostedError(Exception):
    """A command ended by an expected fault: its words, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a command, for any parser of command lines."""

    name: str
    words: Sequence[str]
    help: str
    metavar: str | None
    is_flag: bool
    is_multiple: bool
    is_hidden: bool


def options_of(command: click.Command) -> list[Option]:
    """Give the options of a command, but for those that say which queue: that is the host's."""
    options = [each for each in command.params if isinstance(each, click.Option)]
    return [_described(each) for each in options if not of_queue(each)]


def run(command: click.Command, host: Host, given: Mapping[str, Any]) -> int:
    """Run a command with options by name; gives its exit code, or raises HostedError."""
    words = [word for each in options_of(command) for word in _words(each, given.get(each.name))]
    try:
        return int(command.main(words, standalone_mode=False, obj=host) or 0)
    except click.ClickException as error:
        raise HostedError(error.format_message(), error.exit_code) from error
    except click.Abort:
        return INTERRUPTED
    except QueueError as error:
        raise HostedError(str(error), exit_code_of(error)) from error


def _described(option: click.Option) -> Option:
    default = f" [{option.default}]" if option.show_default else ""
    choices = "|".join(option.type.choices) if isinstance(option.type, click.Choice) else None
    return Option(
        name=str(option.name),
        words=option.opts,
        help=f"{option.help or ''}{default}",
        metavar=option.metavar or choices,
        is_flag=option.is_flag,
        is_multiple=option.multiple,
        is_hidden=option.hidden,
    )


def _words(option: Option, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    if option.is_flag:
        return [option.words[0]]
    values = value if option.is_multiple else [value]
    return [f"{option.words[0]}={each}" for each in values]
