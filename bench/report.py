"""What people and programs are told: a table as text, in Markdown, and all figures as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.rounds import Results, Row, requests
from bench.scenarios import Scenario, Target

HEADINGS = ("scenario", "ours", "peer", "ratio", "required", "reached")

_FORMS = {
    "jobs_per_second": "{:,.0f} jobs/s",
    "claim_us": "claim {:,.0f} us",
    "settle_us": "settle {:,.0f} us",
    "p50_ms": "p50 {:,.1f} ms",
    "p99_ms": "p99 {:,.1f} ms",
    "cpu_percent": "{:.2f} % of a core",
    "files_written": "{:.0f} files written",
    "writing_statements": "{:.0f} writing statements",
    "peak_mb": "{:,.0f} MB",
    "files_mb": "files {:,.0f} MB",
    "last_to_first": "last tenth {:.2f} of the first",
    "memory_growth": "memory x{:.2f}",
}
"""How each figure is shown, with its unit."""


def cells(row: Row) -> tuple[str, ...]:
    """Give the texts of one line, in the order of the headings."""
    reached = {True: "yes", False: "no", None: row.trouble or "?"}[row.is_reached]
    return (
        row.scenario.title,
        _shown(row.target.figure, row.ours),
        _shown_peer(row),
        "-" if row.ratio is None else f"{row.ratio:.2f}x",
        _required(row.target, is_ratio=row.scenario.peer is not None),
        reached,
    )


def table(rows: Sequence[Row]) -> str:
    """Draw the table for a terminal."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    drawn = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([drawn[0], "  ".join("-" * width for width in widths), *drawn[1:]])


def markdown(rows: Sequence[Row], conditions: str) -> str:
    """Draw the table in Markdown, below the conditions it was measured under."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return "\n".join([conditions, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def conditions(results: Results, rounds: int, scale: float) -> str:
    """Say in a few lines what the figures were measured on, and how."""
    size = "" if scale == 1 else f", at scale {scale:g}: no figure to quote"
    machine = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"
    versions = (f"{name}: {', '.join(parts)}" for name, parts in _versions(results).items())
    return "\n".join([f"Medians of {rounds} interleaved rounds{size}.", machine, *versions])


def as_json(
    scenarios: Sequence[Scenario], rows: Sequence[Row], results: Results, rounds: int, scale: float
) -> str:
    """Give all there is to know, each round of each request included."""
    facts: dict[str, Any] = {
        "rounds": rounds,
        "scale": scale,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
        "python": platform.python_version(),
        "versions": _versions(results),
        "missing": results.missing,
        "rows": [_row_facts(row) for row in rows],
        "measurements": [
            {
                "request": asdict(request),
                "rounds": [dict(each.figures) for each in results.measured[request]],
                "trouble": results.trouble(request),
            }
            for request in requests(scenarios)
        ],
    }
    return json.dumps(facts, indent=2) + "\n"


def _row_facts(row: Row) -> dict[str, Any]:
    return {
        "scenario": row.scenario.name,
        "title": row.scenario.title,
        "figure": row.target.figure,
        "ours": row.ours,
        "peer": row.peer,
        "ratio": row.ratio,
        "required": row.target.limit,
        "is_ceiling": row.target.is_ceiling,
        "reached": row.is_reached,
        "trouble": row.trouble,
    }


def _shown(figure: str, value: float | None) -> str:
    return "-" if value is None else _FORMS[figure].format(value)


def _shown_peer(row: Row) -> str:
    if row.scenario.peer is None or row.peer is None:
        return "-"
    return f"{_shown(row.target.figure, row.peer)} ({row.scenario.peer.contender})"


def _required(target: Target, *, is_ratio: bool) -> str:
    word = "at most" if target.is_ceiling else "at least"
    return f"{word} {target.limit:g}{'x' if is_ratio else ''}"


def _versions(results: Results) -> dict[str, list[str]]:
    """Give the versions that each contender told of itself."""
    return {
        request.contender: [f"{name} {version}" for name, version in found[0].versions.items()]
        for request, found in results.measured.items()
        if found and found[0].versions
    }
