"""Files of jobs: one a line, as JSON or CSV, read without holding more than a line."""

import csv
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from queue_max.exceptions import InvalidJobError


class Format(StrEnum):
    """How a file of jobs is written."""

    JSONL = "jsonl"
    """Each line is an object of arguments of `enqueue`; empty lines are passed over."""

    CSV = "csv"
    """Each row is a payload of strings, by the header; a column `priority` counts as such."""


Item = dict[str, Any] | InvalidJobError


def read_jobs(path: Path, file_format: Format) -> Iterator[tuple[int, Item]]:
    """Read a file's jobs with their line numbers; what cannot be read comes as an error."""
    # utf-8-sig: spreadsheets write a mark in front that is none of the first name.
    with path.open(encoding="utf-8-sig", newline="", errors="strict") as file:
        try:
            if file_format is Format.CSV:
                yield from _read_csv(csv.DictReader(file, strict=True))
            else:
                yield from _read_jsonl(file)
        except UnicodeDecodeError as error:
            raise InvalidJobError(f"{path} is not UTF-8: {error}") from error


def _read_jsonl(lines: Iterator[str]) -> Iterator[tuple[int, Item]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, InvalidJobError(f"not JSON: {error}")
        else:
            yield number, item


def _read_csv(rows: "csv.DictReader[str]") -> Iterator[tuple[int, Item]]:
    try:
        names = rows.fieldnames or []
    except csv.Error as error:
        yield 1, InvalidJobError(f"not CSV: {error}")
        return
    if len(set(names)) < len(names):
        yield 1, InvalidJobError(f"two columns of one name: {', '.join(names)}")
        return
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            # Only the reader beneath knows how far it came.
            yield rows.reader.line_num, InvalidJobError(f"not CSV: {error}")
            continue
        if row is None:
            return
        yield rows.line_num, _from_row(row)


def _from_row(row: dict[str | Any, str | Any]) -> Item:
    if None in row or None in row.values():
        return InvalidJobError("has not as many columns as the header")
    priority = row.get("priority") or "0"
    try:
        return {"payload": row, "priority": int(priority)}
    except ValueError:
        return InvalidJobError(f"priority={priority!r}: should be 0, 1 or 2")
