"""Our commands, run by `manage.py` on the project's queue."""

import sys
from argparse import SUPPRESS
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from queue_max.cli.base import Host
from queue_max.cli.hosting import Command, HostedError, Option, options_of, run
from queue_max.contrib.django.conf import get_queue, load_settings
from queue_max.queue import Queue


class HostedCommand(BaseCommand):
    """A management command that is one of ours, with the same options and exit codes."""

    command: Command

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the options of our command, but for those that say which queue."""
        for option in options_of(self.command):
            parser.add_argument(*option.words, **_arguments_of(option))

    def handle(self, *args: Any, **options: Any) -> None:
        """Run our command; an expected fault is a CommandError with our exit code."""
        try:
            code = run(self.command, self.host(options), options)
        except HostedError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error
        if code:
            sys.exit(code)

    def host(self, options: Mapping[str, Any]) -> Host:
        """Tell our command of the project."""
        return Host(open_queue, load_settings, ())


class PrintingCommand(HostedCommand):
    """A command that prints, and ends."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Run our command; what it prints goes where this one is told to write."""
        is_told = self.stdout._out is not sys.stdout
        with redirect_stdout(self.stdout._out) if is_told else nullcontext():
            super().handle(*args, **options)


def open_queue(create: bool) -> Queue:
    """Open the project's queue, made if need be where it is told so."""
    return get_queue(create=create)


def _arguments_of(option: Option) -> dict[str, Any]:
    found: dict[str, Any] = {"dest": option.name, "help": option.help.replace("%", "%%")}
    if option.is_hidden:
        found["help"] = SUPPRESS
    if option.is_flag:
        return found | {"action": "store_true"}
    return found | {
        "metavar": option.metavar,
        "action": "append" if option.is_multiple else "store",
    }
