"""What is kept of each attempt that failed."""

from dataclasses import asdict, dataclass
from typing import Any

KEPT = 20
"""Attempts kept of one job, the newest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a job: who made it, when, and how it failed; times are in ISO 8601."""

    number: int
    """1 for the first; a job that was requeued counts from 1 again."""
    worker_id: str | None
    started_at: str | None
    ended_at: str
    error_type: str
    error: str
    error_stack: str | None

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain values."""
        return asdict(self)
