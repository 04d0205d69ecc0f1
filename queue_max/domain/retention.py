"""Retention: for how long a job is kept once it has ended."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from queue_max.domain.job import JobStatus


@dataclass(frozen=True, slots=True)
class DaysKept:
    """For how many days, counted from its end, a job is kept, by the kind of its end."""

    days: float
    """Holds for each kind that has no days of its own."""
    completed: float | None = None
    failed: float | None = None
    """Of jobs without a dead letter."""
    cancelled: float | None = None
    dead_letters: float | None = None
    """Of jobs with a dead letter, and of that; None: for ever."""

    def ended_before(self, now: datetime) -> dict[JobStatus, datetime]:
        """Tell before which moment jobs of each kind ended that are kept no longer."""
        own = {
            JobStatus.COMPLETED: self.completed,
            JobStatus.FAILED: self.failed,
            JobStatus.CANCELLED: self.cancelled,
        }
        return {
            status: now - timedelta(days=self.days if days is None else days)
            for status, days in own.items()
        }

    def buried_before(self, now: datetime) -> datetime | None:
        """Tell before which moment jobs with a dead letter failed that are kept no longer."""
        return None if self.dead_letters is None else now - timedelta(days=self.dead_letters)
