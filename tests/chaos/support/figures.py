"""Figures: how much a run does, by which seed, and what came of it.

QUEUE_MAX_TEST_ROUNDS=20 asks for the full figures, other numbers for more or less; without it each
suite does a small part. QUEUE_MAX_TEST_SEED repeats the choices of a run.
"""

import os
import random
from dataclasses import dataclass

from chaos.support.checker import Verdict

ROUNDS = os.environ.get("QUEUE_MAX_TEST_ROUNDS")
SEED = int(os.environ.get("QUEUE_MAX_TEST_SEED") or random.SystemRandom().randrange(2**32))

FULL_ROUNDS = 20

COLUMNS = ("suite", "done", "lost", "phantom", "duplicates", "unfinished", "corrupt")


def scaled(full: int, *, small: int) -> int:
    """Tell how often to do something."""
    return small if ROUNDS is None else max(small, full * int(ROUNDS) // FULL_ROUNDS)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the closing table."""

    suite: str
    done: str
    verdict: Verdict

    def cells(self) -> tuple[str, ...]:
        """Give the row as text."""
        verdict = self.verdict
        found = (verdict.lost, verdict.phantom, verdict.duplicated, verdict.unfinished)
        counts = (*map(len, found), len(verdict.corrupt))
        return self.suite, self.done, *map(str, counts)


def as_table(lines: list[Line]) -> list[str]:
    """Set the rows in columns."""
    rows = [COLUMNS, *(line.cells() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
