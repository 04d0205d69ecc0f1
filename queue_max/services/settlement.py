"""Ending jobs that did not fail."""

from queue_max import checks
from queue_max.domain.events import Events
from queue_max.domain.reference import JobRef
from queue_max.exceptions import JobNotFoundError, LeaseLostError
from queue_max.repositories.unit_of_work import Store
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
            done = unit.jobs.complete(job_id, fence, result)
            if done is not None:
                lease, uid = done
                unit.metadata.add_processed()
                if lease.fence > 1:
                    unit.attempts.forget([uid])
        if done is None:
            if fence is not None:
                raise LeaseLostError(job_id, shard_id, fence)
            return False
        self._admission.succeeded(lease)
        self._events.publish("job_completed", job_id=job_id, shard_id=shard_id)
        return True

    def cancel(self, job: object, reason: str = "called off") -> bool:
        """End a job as cancelled that waits or runs; False when it has ended already.

        One that runs is not interrupted: its worker finds the lease lost, and its outcome counts
        no more. Raises JobNotFoundError when there is no such job.
        """
        ref = JobRef.of(job)
        with self._store.writing(ref.shard_id) as unit:
            is_cancelled = unit.jobs.cancel(ref, reason)
            if not is_cancelled and unit.jobs.find(ref) is None:
                raise JobNotFoundError(f"there is no job {ref}")
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
