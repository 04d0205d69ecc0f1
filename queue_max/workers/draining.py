"""Running what is due here and now, in the calling thread: for tests, scripts and shells."""

import threading
from contextvars import copy_context

from queue_max.domain.job import Job
from queue_max.domain.tasks import gate_of_job
from queue_max.queue import Queue, provide_drain
from queue_max.repeater import Repeater
from queue_max.workers.execution import run
from queue_max.workers.outcomes import Account
from queue_max.workers.repertoire import ProcessFunction, Repertoire
from queue_max.workers.running import RunningJob

WORKER_ID = "drain"

_of_thread = threading.local()


def drain(
    queue: Queue,
    process_function: ProcessFunction | None = None,
    *,
    scheduled: bool = False,
    raise_errors: bool = False,
) -> int:
    """Run jobs in this thread until none is due; gives how many, as `Queue.drain` says."""
    if getattr(_of_thread, "is_draining", False):
        return 0  # what a job enqueues runs when that job has ended
    services = queue.services
    heartbeat = Repeater(
        "queue-max-heartbeat", services.settings.heartbeat_interval_ms / 1000, services.leases.renew
    )
    heartbeat.start()
    _of_thread.is_draining = True
    try:
        return _Drain(queue, process_function, raise_errors).run_all(scheduled)
    finally:
        _of_thread.is_draining = False
        heartbeat.stop()


class _Drain:
    def __init__(
        self, queue: Queue, process_function: ProcessFunction | None, raise_errors: bool
    ) -> None:
        self._queue = queue
        self._raise_errors = raise_errors
        self._services = queue.services
        self._repertoire = Repertoire(process_function)
        self._account = Account(WORKER_ID, queue.services, self._repertoire, None, None)

    def run_all(self, scheduled: bool) -> int:
        number = 0
        self._release_held()
        while True:
            job = self._claim()
            if job is not None:
                number += self._run(job)
            elif not (scheduled and self._make_due()):
                return number

    def _claim(self) -> Job | None:
        """Take a job of any queue that has one which may start."""
        dispatch, patience = self._services.dispatch, self._queue.rate_limiter_timeout
        names = dispatch.queues()
        claims = (dispatch.claim(WORKER_ID, patience, queue=name) for name in names)
        return next(filter(None, claims), None)

    def _run(self, job: Job) -> bool:
        """Run a job and write its outcome; False when nobody here can run it."""
        if not self._repertoire.can_run(job):
            with self._services.store.writing(job.shard_id) as unit:
                unit.jobs.give_back(job, held_by=gate_of_job(job))
            return False
        self._services.leases.hold(job.lease)
        try:
            self._services.dispatch.tell_started(job)
            running = RunningJob(job, self._queue, job.timeout_seconds)
            context = copy_context()
            context.run(running.begin)
            outcome = context.run(run, self._repertoire.call, running)
            ended = self._account.enter(job, outcome)
            with self._services.store.writing(job.shard_id) as unit:
                is_written = ended.write(unit)
        finally:
            self._services.leases.drop(job.lease)
        ended.tell(is_written)
        error = outcome.error
        if error is not None and (self._raise_errors or isinstance(error, KeyboardInterrupt)):
            raise error
        return True

    def _release_held(self) -> None:
        gates = self._repertoire.gates()
        for shard_id in self._services.store.serving():
            with self._services.store.writing(shard_id) as unit:
                while unit.lines.release(gates):
                    continue

    def _make_due(self) -> int:
        """Let jobs that wait for their time be due now; gives how many."""
        number = 0
        for shard_id in self._services.store.serving():
            with self._services.store.writing(shard_id) as unit:
                number += unit.claims.make_due()
        return number


provide_drain(drain)
