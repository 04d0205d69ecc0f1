"""Ending jobs that did not fail."""

from collections.abc import Sequence

from queue_max import checks
from queue_max.domain.events import Events
from queue_max.domain.job import Job, JobHandle, Lease
from queue_max.domain.reference import JobRef
from queue_max.exceptions import JobNotFoundError, LeaseLostError
from queue_max.repositories.jobs import Completed
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.admission import Admission


class SettlementService:
    """Takes jobs that are done, or called off, out of the queue, counts them and tells."""

    def __init__(self, store: Store, admission: Admission, events: Events) -> None:
        self._store = store
        self._admission = admission
        self._events = events

    def complete(
        self,
        job_id: int,
        shard_id: int,
        *,
        fence: int | None = None,
        result: str | None = None,
    ) -> bool:
        """Finish a running job; False when none runs under that id.

        Its `result`, as JSON text, is kept if the job is. Raises LeaseLostError when the job
        does not run under `fence`.
        """
        with self._store.writing(shard_id) as unit:
            done = self.write(unit, job_id, fence, result)
        if done is None:
            if fence is not None:
                raise LeaseLostError(job_id, shard_id, fence)
            return False
        self.tell(done.lease, done.breaker)
        self._admission.flush()
        return True

    def write(
        self, unit: UnitOfWork, job_id: int, fence: int | None, result: str | None
    ) -> Completed | None:
        """Finish a running job within a transaction; None when it does not run."""
        done = unit.jobs.complete(job_id, fence, result)
        if done is None:
            return None
        unit.metadata.add_processed()
        if done.lease.fence > 1 and done.uid is not None:
            unit.attempts.forget([done.uid])
        return done

    def write_all(self, unit: UnitOfWork, finished: Sequence[Job]) -> list[bool]:
        """Finish running jobs of which nothing is to be kept; tells of each whether it did run."""
        ran = unit.job_lists.complete_all(finished)
        if number := sum(ran):
            unit.metadata.add_processed(number)
        again = [
            job for job, did_run in zip(finished, ran, strict=True) if did_run and job.fence > 1
        ]
        if again:
            unit.attempts.forget([str(job.uid) for job in again])
        return ran

    def tell(self, lease: Lease, breaker: str | None) -> None:
        """Publish that a job is done, once that is committed."""
        self._admission.succeeded(lease, breaker)
        if self._events.are_heard("job_completed"):
            self._events.publish("job_completed", job_id=lease.job_id, shard_id=lease.shard_id)

    def cancel(self, job: object, reason: str = "called off") -> bool:
        """End a job as cancelled that waits or runs; False when it has ended already.

        Of one that runs, the worker finds the lease lost, and its outcome counts no more. Raises
        JobNotFoundError when there is no job of that key; a Job or a handle is of one there was.
        """
        ref = JobRef.of(job)
        with self._store.writing(ref.shard_id) as unit:
            is_cancelled = unit.jobs.cancel(ref, reason)
            found = unit.jobs.find(ref)
            if found is None:
                if isinstance(job, Job | JobHandle):
                    return False
                raise JobNotFoundError(f"there is no job {ref}; one that is done is deleted")
        if is_cancelled:
            self._events.publish(
                "job_cancelled", job_id=found.id, shard_id=found.shard_id, reason=reason
            )
        return is_cancelled

    def update_progress(
        self, job_id: int, shard_id: int, percent: float, *, fence: int | None = None
    ) -> bool:
        """Note how far a running job is, from 0 to 100; False when none runs under that id.

        Raises LeaseLostError when it does not run under `fence`.
        """
        percent = checks.amount("progress", percent, at_least=0, at_most=100)
        with self._store.writing(shard_id) as unit:
            is_running = unit.jobs.update_progress(job_id, fence, percent)
        if not is_running and fence is not None:
            raise LeaseLostError(job_id, shard_id, fence)
        return is_running
