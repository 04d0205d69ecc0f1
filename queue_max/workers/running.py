"""What a job's function can ask about the job it runs, and tell of it."""

from contextvars import ContextVar

from queue_max.assembly import Services
from queue_max.domain.job import Job
from queue_max.exceptions import JobNotFoundError, QueueError

_current: ContextVar["RunningJob"] = ContextVar("queue_max_current_job")


class RunningJob:
    """The job that runs just now."""

    def __init__(self, job: Job, services: Services) -> None:
        self.job = job
        self._services = services

    @property
    def is_cancelled(self) -> bool:
        """Whether what the function does counts no more: cancelled, or given to another worker.

        Asks the database each time.
        """
        try:
            found = self._services.inspection.find(self.job)
        except JobNotFoundError:
            return True
        return not found.is_processing or found.fence != self.job.fence

    def update_progress(self, percent: float) -> None:
        """Note how far the job is, from 0 to 100; LeaseLostError when it counts no more."""
        job = self.job
        self._services.settlement.update_progress(job.id, job.shard_id, percent, fence=job.fence)

    def begin(self) -> None:
        """Be the current job of this thread's context, and of what it starts from there."""
        _current.set(self)


def current_job() -> RunningJob:
    """Give the job that a Worker runs in this thread, or in its coroutine.

    Raises QueueError elsewhere.
    """
    try:
        return _current.get()
    except LookupError:
        raise QueueError("no worker runs a job here") from None
