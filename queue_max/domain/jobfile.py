"""Files of jobs: one a line, as JSON or CSV, read without holding more than a line."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from queue_max import forking
from queue_max.domain.payload import MAX_BYTES
from queue_max.exceptions import InvalidJobError

_NO_UTF_8 = re.compile("[\udc80-\udcff]")
"""What bytes become that are not UTF-8: they make one line bad, and leave the others alone."""

_csv_limit = forking.lock()


class Format(StrEnum):
    """How a file of jobs is written."""

    JSONL = "jsonl"
    """Each line is an object of arguments of `enqueue`; empty lines are passed over."""

    CSV = "csv"
    """Each row is a payload of strings, by the header; a column `priority` counts as such."""


Item = dict[str, Any] | InvalidJobError


def read_jobs(path: Path, file_format: Format) -> Iterator[tuple[int, Item]]:
    """Read a file's jobs with their line numbers; what cannot be read comes as an error.

    Raises InvalidJobError at a line after which nothing can be read, as of CSV a row with a
    wrong quote: where the next row begins, nobody knows.
    """
    # utf-8-sig: spreadsheets write a mark in front that is none of the first name.
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        if file_format is Format.CSV:
            yield from _read_csv(csv.DictReader(file, strict=True))
        else:
            yield from _read_jsonl(file)


def _read_jsonl(lines: Iterator[str]) -> Iterator[tuple[int, Item]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _from_line(line)


def _from_line(line: str) -> Item:
    if bad := _bad_byte(line):
        return InvalidJobError(bad)
    try:
        item: Item = json.loads(line)
    except (ValueError, RecursionError) as error:
        return InvalidJobError(f"not JSON: {error}")
    return item


def _read_csv(rows: "csv.DictReader[str]") -> Iterator[tuple[int, Item]]:
    read = 0
    try:
        _check_header(rows.fieldnames or [])
        while (row := _next(rows)) is not None:
            read = rows.line_num
            yield read, _from_row(row)
    except csv.Error as error:
        # Only the reader beneath knows how far it came.
        raise InvalidJobError(
            f"line {rows.reader.line_num}: not CSV: {error}; "
            f"from line {read + 1} on nothing was read"
        ) from error


def _check_header(names: Sequence[str]) -> None:
    if bad := _bad_byte("".join(names)):
        raise csv.Error(bad)
    if len(set(names)) < len(names):
        raise csv.Error(f"two columns of one name: {', '.join(names)}")


def _next(rows: "csv.DictReader[str]") -> dict[str | Any, str | Any] | None:
    """Read a row, of cells as long as a payload may be.

    The limit is the whole process's: so it is raised for no longer than this takes.
    """
    with _csv_limit:
        usual = csv.field_size_limit(MAX_BYTES)
        try:
            return next(rows, None)
        finally:
            csv.field_size_limit(usual)


def _from_row(row: dict[str | Any, str | Any]) -> Item:
    if None in row or None in row.values():
        return InvalidJobError("has not as many columns as the header")
    if bad := _bad_byte("".join(row.values())):
        return InvalidJobError(bad)
    priority = row.get("priority") or "0"
    try:
        return {"payload": row, "priority": int(priority)}
    except ValueError:
        return InvalidJobError(f"priority={priority!r}: should be 0, 1 or 2")


def _bad_byte(text: str) -> str | None:
    found = _NO_UTF_8.search(text)
    return f"is not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x}" if found else None
