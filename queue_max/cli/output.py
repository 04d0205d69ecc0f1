"""Printing: data on stdout, words on stderr."""

import json
import math
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import click

_WIDTH = 60  # of a text in a cell
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def as_json(value: Any, *, indent: int | None = None, file: IO[str] | None = None) -> None:
    """Print a value as strict JSON, infinity as null; to a file, if one is given."""
    value = _finite(value)
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    if _showable(text, file) != text:
        text = json.dumps(value, indent=indent, allow_nan=False)
    click.echo(text, file=file)


def say(words: str) -> None:
    """Tell the person at the terminal something that is no data; nobody need be there."""
    with suppress(OSError):
        click.echo(words, err=True)


def number(value: float) -> str:
    """Write a number, infinity in words."""
    return "no limit" if value == math.inf else str(value)


def cut(text: str) -> str:
    """Cut a text to what a cell of a table has room for."""
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def failure(error_type: str | None, message: str | None) -> str:
    """Tell in one line of a table what went wrong."""
    first_line = (message or "").partition("\n")[0]
    return cut(": ".join(filter(None, (error_type, first_line))))


def block(title: str, text: str) -> None:
    """Print a text of several lines beneath its title."""
    click.echo(f"\n  {title}:")
    for line in text.rstrip("\n").expandtabs(4).split("\n"):
        click.echo(f"    {_showable(_escaped(line))}".rstrip())


def item(text: str) -> None:
    """Print a text as one item of a list."""
    click.echo(f"    - {_showable(_escaped(text))}")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: drawn by rich for a person, where it is installed, plain text else."""
    cells = [[_showable(_escaped(str(cell))) for cell in row] for row in rows]
    is_watched = sys.stdout is not None and sys.stdout.isatty()
    if not (is_watched and _draw(headers, cells)):
        _print_plainly(headers, cells)


def row(cells: Sequence[object]) -> None:
    """Print one row as that of a table to which others are still to come."""
    click.echo("  " + "  ".join(_showable(_escaped(str(cell))) for cell in cells))


def flush() -> None:
    """Write what is buffered for stdout; OSError when it cannot be."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def let_go() -> None:
    """Drop what cannot be written: the interpreter would try again, and end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _draw(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text
    except ImportError:
        return False
    first, *others = headers
    drawn = Table(Column(first, no_wrap=True), *others)  # it names the row, and is to be copied
    for row in rows:
        drawn.add_row(*map(Text, row))  # as Text: a payload may hold what rich takes for markup
    Console().print(drawn)
    return True


def _print_plainly(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, ["-" * width for width in widths], *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(f"  {line}".rstrip())


def _escaped(text: str) -> str:
    """Escape what would steer a terminal, or end the row."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _showable(text: str, file: IO[str] | None = None) -> str:
    """Escape what stdout, or a file, has no form for, such as lone surrogates."""
    encoding = getattr(file or sys.stdout, "encoding", None) or "utf-8"  # it may be closed
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list():
            return [_finite(item) for item in value]
        case _:
            return value
