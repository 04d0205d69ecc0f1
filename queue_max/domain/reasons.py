"""Reasons why a job does not run, as data and in words."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a reason is about."""

    ENDED = "ended"
    RUNNING = "running"
    NOT_DUE = "not_due"
    RETRY = "retry"
    PAUSED = "paused"
    BREAKER = "breaker_open"
    RATE = "rate_limit"
    CONCURRENCY = "concurrency"
    UNKNOWN_TASK = "unknown_task"
    NO_WORKER = "no_worker"
    AHEAD = "ahead"
    SHARD = "shard_unavailable"
    NEXT = "next"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason; a job may have several at once."""

    kind: Kind
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What the text tells, for programs: names, numbers, and moments in ISO 8601."""

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return asdict(self) | {"kind": str(self.kind)}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job does not run; the first reason is the one that weighs most."""

    job: str
    """Its key."""
    status: str | None
    """None where its shard cannot be read."""
    reasons: tuple[Reason, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        reasons = [reason.to_dict() for reason in self.reasons]
        return {"job": self.job, "status": self.status, "reasons": reasons}

    def __str__(self) -> str:
        return "\n".join(reason.text for reason in self.reasons)
