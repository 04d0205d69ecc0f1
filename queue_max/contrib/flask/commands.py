"""`flask queue-max`: the commands of `queue-max`, on the queue of the app."""

import copy
import logging
import sys
from typing import Any, TypeVar

import click
from flask import current_app
from flask.cli import ScriptInfo, with_appcontext

from queue_max.cli import base
from queue_max.cli.main import commands
from queue_max.cli.workers import worker
from queue_max.contrib.flask.app_queue import queue_of

Command = TypeVar("Command", bound=click.Command)

_SAID_BY_THE_APP = {"data_dir", "rate_limit", "shards"}


@click.group("queue-max", cls=base.Commands)
@click.pass_context
@with_appcontext
def queue_commands(ctx: click.Context, /) -> None:
    """The app's queue: run workers, enqueue and look at jobs.

    Exit codes: 0 done, 1 failure, 2 usage, 3 database or schema, 4 not found,
    5 unhealthy, 6 a worker's grace was over, 130 interrupted.
    """
    ours = queue_of(current_app)
    logging.getLogger("queue_max").setLevel(ours.load_settings().log_level)
    ctx.call_on_close(ours.close)
    ctx.obj = base.Host(
        open_queue=lambda create: ours.open(create=create),
        load_settings=ours.load_settings,
        program=_program(ctx),
    )


def _program(ctx: click.Context) -> list[str]:
    """Give the words that have another process run a worker of the same app."""
    path = ctx.ensure_object(ScriptInfo).app_import_path
    chosen = [] if path is None else ["--app", path]
    # -P: Flask itself puts the app's folder where modules are looked for.
    return [sys.executable, "-P", "-m", "flask", *chosen, "queue-max", "worker"]


def _without(command: Command, names: set[str]) -> Command:
    """Give a command, and those beneath it, without some of the options."""
    made = copy.copy(command)
    made.params = [each for each in command.params if each.name not in names]
    if isinstance(made, click.Group):
        made.commands = {name: _without(each, names) for name, each in made.commands.items()}
    return made


def _worker() -> click.Command:
    """Give the command that runs workers, for the tasks of the app."""

    def run(**options: Any) -> Any:
        assert worker.callback is not None  # noqa: S101 - for the type checker
        return worker.callback(apps=(current_app.import_name,), **options)

    made = _without(worker, {*_SAID_BY_THE_APP, "apps"})
    made.callback = run
    return made


for _each in (*commands.commands.values(), _worker()):
    queue_commands.add_command(_without(_each, _SAID_BY_THE_APP))
