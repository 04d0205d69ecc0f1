"""Seeing that Python files change, for worker processes that are to follow their code."""

import os
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from queue_max.cli.base import USAGE, Fault

LATEST = 200
"""Milliseconds after which changes count, however many still come."""


class Changes:
    """Looks for changes of Python files in some folders, from now on."""

    def __init__(self, folders: Iterable[Path]) -> None:
        try:
            from watchfiles import PythonFilter, watch
        except ImportError as error:
            raise Fault(
                "--reload needs watchfiles: pip install 'queue-max[reload]'", USAGE
            ) from error
        self._seen: Iterator[set[Any]] = watch(
            *folders,
            watch_filter=PythonFilter(),
            debounce=LATEST,
            rust_timeout=1,
            yield_on_timeout=True,
        )
        try:
            next(self._seen)  # it watches from here on
        except OSError as error:
            raise Fault(f"--reload: files cannot be watched: {error}", USAGE) from error

    def have_come(self) -> bool:
        """Tell whether there were any since the last look; that takes a moment."""
        return bool(next(self._seen))


def folders_of(modules: Iterable[str]) -> list[Path]:
    """Give the current folder, and those outside of it from which the modules come."""
    here = Path.cwd()
    found = {here}
    for module in modules:
        spec = PathFinder.find_spec(module.partition(".")[0])  # which runs nothing of it
        if spec is None:
            continue
        of_module = spec.submodule_search_locations or [os.path.dirname(spec.origin or here)]
        found |= {Path(each) for each in of_module if not Path(each).is_relative_to(here)}
    return sorted(found)
