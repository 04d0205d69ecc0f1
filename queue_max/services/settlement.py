"""Finishing jobs that went well."""

from queue_max.domain.events import Events
from queue_max.exceptions import LeaseLostError
from queue_max.repositories.unit_of_work import Store
from queue_max.services.admission import Admission


class SettlementService:
    """Takes finished jobs out of the queue, counts them and tells."""

    def __init__(self, store: Store, admission: Admission, events: Events) -> None:
        self._store = store
        self._admission = admission
        self._events = events

    def complete(self, job_id: int, shard_id: int, *, fence: int | None = None) -> bool:
        """Finish a running job; False when none runs under that id.

        Raises LeaseLostError when it does not run under `fence`.
        """
        with self._store.writing(shard_id) as unit:
            done = unit.jobs.complete(job_id, fence)
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
