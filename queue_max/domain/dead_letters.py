"""Dead letters: what is kept of jobs that failed for good."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from queue_max import checks
from queue_max.domain.attempts import Attempt
from queue_max.domain.clock import from_text
from queue_max.exceptions import ConfigurationError

DAMAGED = "damaged"
"""The reason of letters of jobs whose row was not what had been stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The evidence of a job that failed for good; times are in ISO 8601."""

    id: int
    """Unique in its shard."""
    shard_id: int
    job_id: int | None
    uid: str | None
    payload: str
    """As JSON text, even where it is damaged."""
    error: str
    error_type: str
    error_stack: str | None
    task: str | None
    reason: str | None
    """Why it was not tried again; None for letters of before 1.0."""
    failed_at: str
    attempts: Sequence[Attempt] = ()
    """The newest failed attempts, the first one first."""

    @property
    def key(self) -> str:
        """The name of the job."""
        return f"{self.shard_id}-{self.uid or self.job_id}"

    @property
    def is_sound(self) -> bool:
        """Whether the payload may be run again."""
        try:
            is_object = isinstance(json.loads(self.payload), dict)
        except (ValueError, RecursionError):
            is_object = False
        return is_object and self.reason != DAMAGED

    def to_dict(self) -> dict[str, Any]:
        """Give all facts as plain values."""
        return {
            "key": self.key,
            "job_id": self.job_id,
            "shard_id": self.shard_id,
            "task": self.task,
            "payload": self.payload,
            "error": self.error,
            "error_type": self.error_type,
            "error_stack": self.error_stack,
            "reason": self.reason,
            "failed_at": self.failed_at,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant; all, where nothing is said."""

    error_type: str | None = None
    before: datetime | None = None

    @classmethod
    def of(cls, error_type: str | None, before: str | None) -> Self:
        """Read what callers give: `before` is a moment in ISO 8601."""
        if error_type is not None:
            checks.text("error_type", error_type)
        try:
            return cls(error_type=error_type, before=None if before is None else from_text(before))
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"before={checks.shown(before)}: should be a moment such as 2026-01-31T08:00:00Z"
            ) from error
