"""Worker: one thread that takes jobs and runs them, one after the other."""

from collections.abc import Callable, Collection
from contextlib import closing
from contextvars import copy_context
from typing import Any

from queue_max.domain.job import Job, Lease
from queue_max.queue import Queue
from queue_max.workers.base import STOP_GRACE, BaseWorker, Queues, WorkerState
from queue_max.workers.company import Abandoned, in_this_process
from queue_max.workers.isolation import Isolation, refuse_while_importing, runner_factory
from queue_max.workers.repertoire import ProcessFunction
from queue_max.workers.running import RunningJob

__all__ = ["Worker", "WorkerState"]


class Worker(BaseWorker):
    """Runs one job after the other, on a thread of its own.

    Jobs of tasks go to the functions that were decorated with `@task`, all others to
    `process_function(payload)`; without one, they wait for a worker that has it.

    - `queue`: None opens one by the settings.
    - `on_job_start(worker_id, job_id, payload)`, `on_job_complete(worker_id, job_id, result)`,
      `on_job_error(worker_id, job_id, error, permanent)` are called by keyword; an error of
      theirs is logged and harms nobody.
    - `poll_interval`: seconds between two looks at an empty queue.
    - `job_timeout`: seconds after which a job has failed, if it says nothing itself. It is told
      so by `current_job().should_stop`, a coroutine is cancelled. A thread cannot be ended: a
      function that goes on for `stop_grace` seconds more is left behind in its thread, unseen,
      and the worker goes on in another one. `Queue.cancel` of a running job works the same way.
    - `queues`: which ones to take jobs from, the first one first: "mail,default" or a list of
      names; or by weight: "mail=3,default=1" or a dict. None: the one called "default", and those
      that tasks of this process name.
    - `isolation`: "process" has functions run in a child process, which is killed at once where a
      thread is told to stop. Should it die of a job, no other job is harmed. The function has to
      stand at the top level of a module; its arguments and its result are pickled.
    - `jobs_per_process`: how many jobs a child process runs, one after the other.

    An exception of any kind in the function is the job's failure, never the worker's end; the
    function may be a coroutine function. Errors of the database are logged and waited out.
    """

    def __init__(  # noqa: PLR0913 - the contract's
        self,
        worker_id: str,
        process_function: ProcessFunction | None = None,
        queue: Queue | None = None,
        on_job_start: Callable[..., object] | None = None,
        on_job_complete: Callable[..., object] | None = None,
        on_job_error: Callable[..., object] | None = None,
        poll_interval: float = 1.0,
        job_timeout: float | None = None,
        *,
        stop_grace: float = STOP_GRACE,
        queues: Queues | None = None,
        isolation: str = Isolation.THREAD,
        jobs_per_process: int = 1,
    ) -> None:
        self.isolation = isolation
        self.jobs_per_process = jobs_per_process
        self._new_runner = runner_factory(isolation, jobs_per_process, process_function)
        super().__init__(
            worker_id,
            process_function,
            queue,
            on_job_start,
            on_job_complete,
            on_job_error,
            poll_interval,
            job_timeout,
            stop_grace=stop_grace,
            queues=queues,
        )

    def start(self) -> None:
        """Begin to take jobs, or go on after a stop was asked for; harmless when it runs."""
        if self.isolation == Isolation.PROCESS:
            refuse_while_importing()
        super().start()

    def _more_options(self) -> dict[str, Any]:
        return super()._more_options() | {
            "isolation": self.isolation,
            "jobs_per_process": self.jobs_per_process,
        }

    def _reset(self) -> None:
        super()._reset()
        self._running: RunningJob | None = None
        self._charged: Lease | None = None

    def running(self) -> Collection[RunningJob]:
        """Give the job that runs just now, if one does."""
        running = self._running
        return () if running is None else (running,)

    def _go_on(self) -> None:
        with closing(self._new_runner(self.repertoire, self.queue)) as self._runner:
            super()._go_on()

    def _run_next(self) -> bool:
        """Take a job and run it, a suspect alone in this process; False when none may start."""
        with in_this_process.beside(before_waiting=self._be_charged_for_none):
            job = None if self._stopping.is_set() else self._take()
            if job is None:
                return False
            if not job.is_suspect:
                self._process(job)
                return True
        with in_this_process.alone():
            if self._stopping.is_set():
                self.dispatcher.give_back(job)
            else:
                self.dispatcher.flush()  # what has ended is not to run again for it
                self._process(job)
                self._be_charged_for_none()
        return True

    def _take(self) -> Job | None:
        self._runner.prepare()
        dispatcher = self.dispatcher
        if (job := dispatcher.take_ready(self.worker_id)) is None:
            self._be_charged_for_none()
            job = dispatcher.take(self.worker_id, self.poll_interval)
        return job

    def _end_jobs(self) -> None:
        self._be_charged_for_none()

    def _be_charged_for_none(self) -> None:
        """Note that the last job has ended: nothing runs while others are looked for."""
        if self._charged is not None:
            self._services.leases.stop(self._charged)
            self._charged = None

    def _process(self, job: Job) -> None:
        lease = job.lease
        self._services.leases.start(lease, self._charged)
        self._charged = lease
        self._services.dispatch.tell_started(job)
        self._running = running = self._prepare(job)
        self._expect(running)
        context = copy_context()
        try:
            if self._on_job_start is not None:
                self._account.tell(self._on_job_start, job_id=job.id, payload=job.payload)
            context.run(running.begin)
            outcome = context.run(self._runner.run, running)
        finally:
            if not running.end():
                raise Abandoned
            self._running = None
        self._finish(running, outcome)

    def _replace(self, running: RunningJob) -> None:
        self._running = None
        self._be_charged_for_none()
        in_this_process.leave()
        with self._lock:
            self._begin(self._go_on)
