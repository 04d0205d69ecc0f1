"""Importing what `queue-max worker` is told to run."""

import importlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import click

import queue_max
from queue_max.exceptions import ConfigurationError
from queue_max.workers.repertoire import ProcessFunction, check_function, tasks

_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_FUNCTION = re.compile(f"{_MODULE.pattern}:{_MODULE.pattern}")

_LIBRARIES = (
    str(Path(queue_max.__file__).parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""Where what fails is called wrongly, more likely than wrong."""


def load(function: str | None, apps: Sequence[str]) -> ProcessFunction | None:
    """Import the modules that define tasks, and the function for all other jobs, if one is named.

    A module may lie in the current folder. Raises click's errors for what cannot be loaded.
    """
    for app in apps:
        _import(app, app, "--app")
    if function is None and not tasks.gates():
        raise click.BadParameter(f"no task is defined in {', '.join(apps)}", param_hint="--app")
    return None if function is None else _function(function)


def modules_of(function: str | None, apps: Sequence[str]) -> list[str]:
    """Name the modules that `load` imports; raises click's errors for names that are none."""
    if function is None and not apps:
        raise click.UsageError(
            "nothing to run: give --app MODULE for its tasks, --function MODULE:FUNCTION, or both"
        )
    for app in apps:
        if not _MODULE.fullmatch(app):
            raise click.BadParameter(f"{app!r} should be a module", param_hint="--app")
    if function is not None and not _FUNCTION.fullmatch(function):
        raise click.BadParameter(f"{function!r} should be MODULE:FUNCTION", param_hint="--function")
    of_function = [] if function is None else [function.partition(":")[0]]
    return [*apps, *of_function]


def _function(name: str) -> ProcessFunction:
    module, _, path = name.partition(":")
    found: Any = _import(module, name, "--function")
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise _refusal(name, error, "--function") from error
    try:
        return check_function(name, found)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--function") from error


def _import(module: str, name: str, option: str) -> ModuleType:
    with suppress(FileNotFoundError):  # the current folder may be gone
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the module is the user's: it may even leave the program
        raise _refusal(name, error, option) from error


def _refusal(name: str, error: BaseException, option: str) -> click.BadParameter:
    return click.BadParameter(f"cannot load {name}: {_words(error)}", param_hint=option)


def _words(error: BaseException) -> str:
    """Tell an error of an import, with the file and line of the statement that failed."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{kind}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)[2:]  # beyond ours, and importlib's
    # Frozen modules, and what dataclasses write.
    frames = [each for each in frames if not each.filename.startswith("<")]
    frames = [each for each in frames if not each.filename.startswith(_LIBRARIES)] or frames
    return f"{kind}: {error}" + "".join(
        f" ({each.filename}, line {each.lineno})" for each in frames[-1:]
    )
