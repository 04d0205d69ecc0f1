"""Queue: the verbs of the library, each passed on to the service that knows how."""

import math
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from queue_max import checks
from queue_max.assembly import Services, build
from queue_max.domain.attempts import Attempt
from queue_max.domain.events import Callback, StoredEvent
from queue_max.domain.job import (
    DEFAULT_QUEUE,
    DEFAULT_RETRY_DELAY,
    NO_DELAY,
    Job,
    JobHandle,
    JobStatus,
)
from queue_max.domain.jobfile import Format
from queue_max.domain.payload import result_to_json
from queue_max.domain.queues import queue_name
from queue_max.domain.reasons import Explanation
from queue_max.domain.retry import RetryPolicy
from queue_max.exceptions import ConfigurationError, InvalidJobError
from queue_max.limits import scopes
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.off_loop import off_loop
from queue_max.settings import Settings

_Q = TypeVar("_Q", bound="Queue")


class Queue:
    """A queue of jobs in a data directory; any number of threads and processes may share it.

    An argument that is None is read from the environment, then from `.env`, and has a default:

    - `shards`: number of shard databases (NUM_SHARDS). None takes the number that is stored,
      6 for a new queue; any other number than the stored one is a ConfigurationError.
    - `rate_limit`: jobs started a minute (RATE_LIMIT_MAX, 160); `math.inf` for no limit.
    - `max_retries`: attempts after the first (QUEUE_MAX_RETRIES, 3).
    - `data_dir`: where the files lie (DATA_DIR, ./data).
    - `circuit_breaker_threshold`: failures in a row that open the circuit
      (CIRCUIT_FAILURE_THRESHOLD, 5); `math.inf` for never.
    - `circuit_breaker_timeout`: seconds before an open circuit lets a probe pass
      (CIRCUIT_TIMEOUT, 60).
    - `rate_limiter_timeout`: seconds that `pop_job` waits for the rate limiter.
    - `max_pending`: jobs that may wait, now or for their time (MAX_PENDING, none), in all, or as a
      dict by the names of queues, each with a bound of its own; `math.inf` for any number. It is
      held within a process, and exceeded by no more than what other processes are storing at the
      very same moment, a job or a batch for each of their threads. Jobs that come back, such as
      retries, are never refused.
    - `when_full`: what becomes of a new job then (WHEN_FULL): "raise", the default, is
      QueueFullError; "block" waits for room, for `full_timeout` seconds, then raises; "drop_oldest"
      cancels jobs that wait: the lowest priority first, of these the oldest.
    - `durability`: "full" (QUEUE_MAX_DURABILITY, the default) or "normal".
    - `retry`: the RetryPolicy of jobs that have none of their own; it holds in this process.
    - `auto_migrate`: whether to make and upgrade databases; if not, SchemaError tells the command.
    - `immediate`: whether `enqueue` runs what is due before it returns, in the calling thread, as
      `drain` does: for tests and for trying things out.
    - `strict_priority`: whether priorities order the jobs of all shards (STRICT_PRIORITY, false),
      but for what is claimed together; else those of each shard by itself.
    - `event_log`: how many events are kept for `events` to read (QUEUE_MAX_EVENT_LOG; 0, the
      default: none). Those of this process are stored only if it is given here, or set.
    - `create`: whether to make a queue where there is none; if not, QueueNotFoundError.

    Raises ConfigurationError for a bad value, and ShardError when a shard cannot be opened.
    """

    def __init__(  # noqa: PLR0913 - seven of them are the contract's
        self,
        shards: int | None = None,
        rate_limit: float | None = None,
        max_retries: int | None = None,
        data_dir: str | PathLike[str] | None = None,
        circuit_breaker_threshold: float | None = None,
        circuit_breaker_timeout: float | None = None,
        rate_limiter_timeout: float = 5.0,
        *,
        durability: str | None = None,
        max_pending: float | Mapping[str, float] | None = None,
        when_full: str | None = None,
        full_timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        auto_migrate: bool = True,
        create: bool = True,
        immediate: bool = False,
        event_log: int | None = None,
        strict_priority: bool | None = None,
    ) -> None:
        rate_limiter_timeout = checks.seconds(
            "rate_limiter_timeout", rate_limiter_timeout, zero=True
        )
        full_timeout = checks.seconds("full_timeout", full_timeout, zero=True)
        settings = Settings.load(
            shards=shards,
            rate_limit=rate_limit,
            max_retries=max_retries,
            data_dir=data_dir,
            circuit_breaker_threshold=circuit_breaker_threshold,
            circuit_breaker_timeout=circuit_breaker_timeout,
            durability=durability,
            max_pending=max_pending,
            when_full=when_full,
            event_log=event_log,
            strict_priority=strict_priority,
        )
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ConfigurationError(f"retry={checks.shown(retry)}: should be a RetryPolicy")
        self.services: Services = build(
            settings,
            retry_policy=retry or RetryPolicy(),
            full_timeout=full_timeout,
            auto_migrate=auto_migrate,
            create=create,
        )
        """The parts beneath, for workers and the command line."""
        self.num_shards = len(self.services.store.shard_ids)
        self.max_retries = settings.max_retries
        self.data_dir = str(settings.data_dir)
        self.rate_limiter_timeout = rate_limiter_timeout
        self.rate_limiter = self.services.limiter
        self.circuit_breaker = self.services.breaker
        self.shard_manager = ShardManager(self.services)
        self.dead_letters = self.services.dead_letters
        """What is kept of jobs that failed for good: list, requeue, discard, export them."""
        self.schedules = self.services.schedules
        """Jobs that come by themselves, at regular times: put, list, pause, resume, remove them."""
        self.limits = self.services.limits
        """How many jobs start in what time, and run at once: list, set, penalise limits."""
        self.breakers = self.services.breaker_service
        """What keeps jobs from something that fails: define, list, open, close breakers."""
        self.immediate = immediate
        self._opened_at = time.monotonic()
        # A queue that is dropped without close() must not keep its threads and files.
        self._closing = weakref.finalize(self, self.services.close)

    @classmethod
    def in_memory(cls, **options: Any) -> Self:
        """Make a queue for a test: without limits, gone when it is closed.

        It lies in a folder of its own, in memory where the system has such a place, so that other
        processes can use it by its `data_dir`. The options are those of `Queue`.
        """
        return _open_in_memory(cls, options)

    def enqueue(  # noqa: PLR0913 - all that a job may have
        self,
        payload: Mapping[str, Any],
        pagina_id: int | None = None,
        priority: int = 0,
        max_retries: int | None = None,
        *,
        retry_delay: int = DEFAULT_RETRY_DELAY,
        retry: RetryPolicy | None = None,
        run_at: datetime | str | None = None,
        delay: float = NO_DELAY,
        unique_key: str | None = None,
        unique_for: float | None = None,
        keep_result: float | None = None,
        task: str | None = None,
        timeout: float | None = None,
        queue: str = DEFAULT_QUEUE,
        concurrency_key: str | None = None,
        rate_key: str | None = None,
        breaker: str | None = None,
    ) -> JobHandle:
        """Store one job; once this returns, it survives the death of any process.

        `payload` is a dict that JSON can express: string keys, no NaN, at most 20 levels and
        10 MiB. Jobs of one `pagina_id` share a shard. `priority` is 0, 1 or 2, the highest
        first. `max_retries` and `retry_delay`, in seconds, rule the attempts after a failure, as
        does the RetryPolicy `retry`, which goes before that of the queue.

        A job waits until `run_at`, a moment with a time zone or in ISO 8601, or for `delay`
        seconds. Of jobs with one `unique_key` there is one at a time: while it lives, or for
        `unique_for` seconds, the same handle is given again, with `created` False (within one
        `pagina_id`, where there is one). `keep_result` is for how many seconds the job is kept
        with its result once it is done; else it is deleted. An attempt that takes longer than
        `timeout` seconds is ended and has failed. `task` names what is to run the job, as a
        function decorated with `@task` is called; its arguments are in the payload, as "args", a
        list, and "kwargs", a dict.

        `queue` is one of any number of names: workers say which they take jobs from. Of the jobs
        with one `concurrency_key` one runs at a time, in their order, or as many as
        `limits.set("key:...", concurrency=...)` says. `rate_key` and `breaker` put the job under
        the rate of that key, and behind the circuit breaker of that name; see `limits` and
        `breakers`.

        Gives a dict of `id` and `shard_id`, with `key`, `created` and `result(timeout)`. Raises
        InvalidJobError, a ValueError, for a bad
        argument, and ShardError when the job could not be stored: QueueFullError, with
        `retry_after`, where there is no room for it.
        """
        handle = self.services.intake.submit(
            {
                "payload": payload,
                "pagina_id": pagina_id,
                "priority": priority,
                "max_retries": max_retries,
                "retry_delay": retry_delay,
                "retry": retry,
                "run_at": run_at,
                "delay": delay,
                "unique_key": unique_key,
                "unique_for": unique_for,
                "keep_result": keep_result,
                "task": task,
                "timeout": timeout,
                "queue": queue,
                "concurrency_key": concurrency_key,
                "rate_key": rate_key,
                "breaker": breaker,
            }
        )
        self._run_at_once()
        return handle.asking(self.get_result)

    def enqueue_batch(self, jobs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Store many jobs, each a dict of arguments of `enqueue`; all of a shard or none.

        Gives `total` and `jobs`, the handles in the same order. One bad job keeps all out:
        InvalidJobError names its position. PartialBatchError tells what other shards stored
        when one could not. Where there is no room for all of them, none is stored: QueueFullError,
        or InvalidJobError where there never is, since they are more than `max_pending`.
        """
        checks.instance("jobs", jobs, Iterable, "an iterable of dicts", error=InvalidJobError)
        handles = self.services.intake.submit_many(jobs)
        self._run_at_once()
        return {"total": len(handles), "jobs": [each.asking(self.get_result) for each in handles]}

    def enqueue_from_file(
        self, filepath: str | PathLike[str], fmt: str = "jsonl", *, skip_bad_lines: bool = False
    ) -> dict[str, int]:
        """Store the jobs of a file: "jsonl", arguments of `enqueue`, or "csv", rows of payloads.

        Nothing is taken of a file with a bad line: InvalidJobError names it. With
        `skip_bad_lines` the good ones are taken, and `skipped` counts the others.

        In a queue with `max_pending`, a file is stored in parts that each need room, so that a
        long one can wait for it; PartialBatchError tells how many jobs are stored when there is
        none. With "raise", nothing is taken of a file without room as a whole, unless
        `skip_bad_lines`.
        """
        if fmt not in tuple(Format):
            raise ConfigurationError(
                f"Unsupported format: {checks.shown(fmt)}; there are jsonl and csv"
            )
        taken, skipped = self.services.intake.submit_file(
            checks.path("filepath", filepath), Format(fmt), skip_bad_lines=skip_bad_lines
        )
        return {"total": taken, "skipped": skipped} if skip_bad_lines else {"total": taken}

    aenqueue = off_loop(enqueue)
    aenqueue_batch = off_loop(enqueue_batch)

    def drain(
        self,
        process_function: Callable[..., Any] | None = None,
        *,
        scheduled: bool = False,
        raise_errors: bool = False,
    ) -> int:
        """Run jobs in this thread until none is due; gives how many attempts were made.

        Tasks run by their names, other jobs go to `process_function`, or wait where there is
        none; outcomes are written as by any worker. With `scheduled`, what waits for its time, or
        for its next attempt, is due now. Time limits are looked at when a function has ended. With
        `raise_errors`, the first error of a job is raised once its outcome is written; a
        KeyboardInterrupt, which a Ctrl-C comes as, is in any case.
        """
        return _drain(self, process_function, scheduled=scheduled, raise_errors=raise_errors)

    def pop_job(self, worker_id: str, *, queue: str = DEFAULT_QUEUE) -> Job | None:
        """Give the most urgent due job of some shard to a worker, with a lease on it.

        It is one of the queue of that name. None when no job is due there, the circuit is open, or
        the rate limiter has no token within `rate_limiter_timeout`. The lease ends after
        STUCK_TIMEOUT unless `heartbeat` prolongs it.
        """
        checks.text("worker_id", worker_id)
        patience = self.rate_limiter_timeout
        return self.services.dispatch.give_out(worker_id, patience, queue=queue_name(queue))

    def complete_job(
        self, job_id: int, shard_id: int, fence: int | None = None, *, result: Any = None
    ) -> bool:
        """Finish a running job: it leaves the queue; False when no such job runs.

        A `result`, which JSON must be able to express, is kept if the job is. With the `fence`
        of the job that `pop_job` gave, raises LeaseLostError when the job has been finished, or
        given to another worker.
        """
        _check_run(job_id, shard_id, fence)
        text = result_to_json(result)
        return self.services.settlement.complete(job_id, shard_id, fence=fence, result=text)

    def fail_job(
        self,
        job_id: int,
        shard_id: int,
        error: BaseException | str,
        permanent: bool = False,
        fence: int | None = None,
    ) -> bool:
        """Let a running job be tried again later, or bury it; False when no such job runs.

        It is buried when `permanent`, or when it has had all its attempts. `fence` as for
        `complete_job`.
        """
        checks.instance("error", error, (BaseException, str), "an exception or a str")
        _check_run(job_id, shard_id, fence)
        verdict = self.services.retry.settle(
            job_id, shard_id, error, permanent=permanent, fence=fence
        )
        return verdict is not None

    def heartbeat(self, shard_id: int, worker_id: str) -> int:
        """Prolong the leases of the jobs that a worker runs in a shard; gives their number."""
        checks.identity("shard_id", shard_id)
        checks.text("worker_id", worker_id)
        self.services.breakers.renew()
        return self.services.leases.renew_of_worker(shard_id, worker_id)

    def get_job(self, job: object) -> Job:
        """Read a job, named by key, handle, or a dict of `id` and `shard_id`.

        Raises JobNotFoundError when there is none; one that is done is deleted, unless its
        result is kept.
        """
        return self.services.inspection.find(job)

    aget_job = off_loop(get_job)

    def why(self, job: object) -> Explanation:
        """Tell why a job does not run: `reasons`, as data and in words, the weightiest first.

        It is named as for `get_job`. Raises JobNotFoundError when there is none.
        """
        return self.services.why.why(job)

    def get_attempts(self, job: object) -> list[Attempt]:
        """Read the failed attempts at a job, the first one first; the newest 20 are kept."""
        return self.services.inspection.attempts(job)

    def get_result(self, job: object, timeout: float | None = None) -> Any:
        """Wait for the end of a job that keeps its result; gives what its function returned.

        Raises TimeoutError after `timeout` seconds (None: never), JobFailedError when the job
        failed or was cancelled, ResultNotKeptError where it has no result to give, or will not.
        """
        return self.services.inspection.result(job, timeout)

    def cancel(self, job: object) -> bool:
        """End a job as cancelled that waits or runs; False when it has ended already.

        The outcome of one that runs counts no more. Its worker sees that within about a second,
        and ends it as one whose time is over: see `Worker`. Raises JobNotFoundError for a key of
        which there is no job: it was never given, or its job is done and was deleted.
        """
        return self.services.settlement.cancel(job)

    def pause(
        self,
        queue: str | None = None,
        *,
        task: str | None = None,
        shard: int | None = None,
        reason: str | None = None,
    ) -> bool:
        """Let no job of a named queue, of a task, or of a shard start, until it is resumed.

        All processes see it within a second, and it outlives them. What runs goes on, and jobs
        are taken in. False when it was paused already. Raises ConfigurationError unless one of the
        three is named.
        """
        return self.limits.pause(_scope(queue, task, shard), reason)

    def resume(
        self, queue: str | None = None, *, task: str | None = None, shard: int | None = None
    ) -> bool:
        """Let the jobs of a queue, of a task, or of a shard start again; False if they did."""
        return self.limits.resume(_scope(queue, task, shard))

    def paused(self) -> dict[str, str | None]:
        """Tell what is paused: the reasons by "queue:NAME", "task:NAME" and "shard:NUMBER"."""
        return dict(self.limits.paused())

    def update_progress(
        self, job_id: int, shard_id: int, progress: float, fence: int | None = None
    ) -> bool:
        """Note how far a running job is, in percent; False when no such job runs.

        `fence` as for `complete_job`.
        """
        _check_run(job_id, shard_id, fence)
        return self.services.settlement.update_progress(job_id, shard_id, progress, fence=fence)

    def recover_orphans(self) -> int:
        """Make running jobs pending whose lease is over; workers do so by themselves.

        Jobs that have had all their attempts are buried instead. Gives the number of both.
        """
        return self.services.recovery.recover()

    def retry_failed_jobs(self, shard_id: int | None = None) -> int:
        """Give all failed jobs, or those of a shard, a fresh budget of attempts.

        A shard that cannot serve does not keep the others; its error is raised at the end.
        """
        if shard_id is not None:
            checks.identity("shard_id", shard_id)
        return self.services.dead_letters.revive_all(shard_id)

    def cleanup_old_jobs(self, days: float | None = None) -> int:
        """Delete jobs that ended that many days ago; gives their number.

        Failed jobs whose dead letter is kept stay too. Without `days`, the settings hold for each
        kind of job: CLEANUP_DAYS (7), or CLEANUP_DAYS_COMPLETED, _FAILED and _CANCELLED; and where
        CLEANUP_DAYS_DEAD_LETTERS is set, dead letters go with their jobs after that many days.
        """
        return self.services.retention.clean_up(days)

    def purge_queue(self, status: str | None = None, *, force: bool = False) -> int:
        """Delete all jobs that are "pending", "processing" or "failed", or simply all.

        Those that run are left alone, and a warning says how many, unless `force`: then their
        workers find the leases lost. Dead letters stay.
        """
        return self.services.retention.purge(status, force=force)

    def list_jobs(
        self, status: str | None = None, limit: int | None = 100, shard_id: int | None = None
    ) -> list[Job]:
        """Read jobs, the newest first, at most `limit` in all; "pending" includes scheduled."""
        if shard_id is not None:
            checks.identity("shard_id", shard_id)
        return self.services.inspection.jobs(_statuses(status), limit, shard_id)

    def get_failed_jobs(self, limit: int = 100) -> list[Job]:
        """Read jobs that failed for good, the newest first."""
        return self.list_jobs("failed", limit)

    def get_processing_jobs(self) -> list[Job]:
        """Read the jobs that run."""
        return self.list_jobs("processing", None)

    def get_pending_count(self) -> int:
        """Count the jobs that wait, due now or later."""
        counts = self.services.inspection.counts()
        return counts.pending + counts.scheduled

    def is_empty(self) -> bool:
        """Tell whether no job waits, due now or later."""
        counts = self.services.inspection.counts(at_most=1)
        return not counts.pending + counts.scheduled

    def wait_until_empty(self, timeout: float | None = None) -> bool:
        """Wait until no job waits or runs; False when that takes longer than `timeout` seconds."""
        return self.services.inspection.wait_until(
            lambda counts: not counts.unfinished, timeout, at_most=1
        )

    def wait_for_jobs(self, count: int = 1, timeout: float | None = None) -> bool:
        """Wait until `count` jobs wait; False when that takes longer than `timeout` seconds."""
        checks.whole("count", count, at_least=0)
        return self.services.inspection.wait_until(
            lambda counts: counts.pending + counts.scheduled >= count, timeout, at_most=count
        )

    def get_stats(self) -> dict[str, Any]:
        """Tell how the queue is: counts of jobs, limits and health.

        `pending` includes the `scheduled`, which are not due yet; `completed` counts since the
        queue was made; `held` of the scheduled ones wait for a worker that knows their task.
        Jobs in `unavailable_shards`, which cannot be read, are not counted.
        Where a shard has more than 10,000 jobs in a state, its counts may be older than now: by
        a hundred times as long as it takes to count them, a few seconds for a million.
        `max_pending` is as it was given, None where any number may wait; `dropped` counts the jobs
        that this process cancelled to make room.
        """
        unavailable = self.services.inspection.unavailable()
        serving = set(self.services.store.shard_ids) - set(unavailable)
        return _counts_of(self.services, serving) | {
            "num_shards": self.num_shards,
            "unavailable_shards": unavailable,
            "rate_limit": self.rate_limiter.rate_limit,
            "max_retries": self.max_retries,
            "max_pending": self.services.settings.max_pending,
            "dropped": self.services.bounds.dropped,
            "circuit_state": str(self.circuit_breaker.state),
            "circuit_failures": self.circuit_breaker.get_stats()["failure_count"],
            "tokens_available": self.rate_limiter.get_remaining_tokens(),
            "uptime_seconds": time.monotonic() - self._opened_at,
            "is_healthy": self.is_healthy,
        }

    def queues(self) -> dict[str, dict[str, Any]]:
        """Tell how the named queues are: those that have jobs, workers, a limit or a pause.

        Of each its jobs by state, as in `get_stats`, whether it is `paused`, and how many
        `workers` take jobs of it, in all processes.
        """
        return self.services.overview.queues()

    @property
    def is_healthy(self) -> bool:
        """Whether the circuit is not open, and all shards can be read."""
        is_open = self.circuit_breaker.state is CircuitState.OPEN
        return not is_open and not self.services.inspection.unavailable()

    def _run_at_once(self) -> None:
        if self.immediate:
            self.drain()

    def on(self, event: str, callback: Callback) -> Self:
        """Call `callback` whenever an event happens in this process, once it is stored.

        Keyword arguments: all events of jobs have `job_id`, `shard_id`; job_started `worker_id`
        too; job_retried, job_failed (given up) and job_recovered (taken from a worker that is
        silent or dead) `error`; job_dead_lettered `error`, `reason`; job_cancelled `reason`.
        alert has `type`, `pending`, `threshold`; circuit_opened `name`, `failures`, `error`;
        circuit_closed `name`; shard_unavailable `shard_id`, `error`; shard_available `shard_id`.

        It is called in the thread where the event happens, which waits for it; what it raises is
        logged. What happens in no worker, such as recovery, is told by a thread for that alone.
        """
        self.services.events.on(event, callback)
        return self

    def off(self, event: str, callback: Callback) -> Self:
        """Undo one `on`; harmless where there was none."""
        self.services.events.off(event, callback)
        return self

    def events(self, since: int | None = None, limit: int | None = 1000) -> list[StoredEvent]:
        """Read the log of events of all processes that keep it; see `event_log`.

        Those after the one whose id is `since`, at most `limit` (None: all); without `since`, the
        newest. They come in the order in which they were written, which each process does every
        0.2 seconds, this one before it reads; `at` says when they happened. A process that is
        killed takes those of its last moments with it; a power cut may, too.
        """
        return list(self.services.event_log.read(since, limit))

    def batch(self) -> AbstractContextManager[None]:
        """Publish no events from this thread within the block."""
        return self.services.events.silenced()

    def close(self) -> None:
        """Close all files; harmless when done twice.

        Stop its workers first: they end without it, and what they run then cannot be written. Such
        a job is taken for one whose worker has died: it runs again, or has failed if that was its
        last attempt.
        """
        self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Queue(shards={self.num_shards}, rate_limit={self.rate_limiter.rate_limit})"


class Drain(Protocol):
    """What runs jobs in the calling thread."""

    def __call__(
        self,
        queue: Queue,
        process_function: Callable[..., Any] | None,
        *,
        scheduled: bool,
        raise_errors: bool,
    ) -> int:
        """Run jobs until none is due; gives how many."""


def _no_drain(
    queue: Queue,
    process_function: Callable[..., Any] | None,
    *,
    scheduled: bool,
    raise_errors: bool,
) -> int:
    raise ConfigurationError("import queue_max, as a whole, to run jobs")


_drain: Drain = _no_drain


def provide_drain(drain: Drain) -> None:
    """Let `Queue.drain` use what the layer of the workers knows: it stands above this one."""
    global _drain
    _drain = drain


class ShardManager:
    """What the 0.1 API showed of single shards."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def get_dead_letter_queue(self, shard_id: int, limit: int = 100) -> list[dict[str, Any]]:
        """Read the dead letters of a shard, the newest first."""
        checks.identity("shard_id", shard_id)
        return list(self._services.dead_letters.newest(shard_id, limit))

    def get_stats(self, shard_id: int) -> dict[str, int]:
        """Count the jobs of a shard by state."""
        checks.identity("shard_id", shard_id)
        return _counts_of(self._services, [shard_id])

    def retry_job(self, shard_id: int, job_id: int) -> bool:
        """Give a failed job a fresh budget of attempts; False when it is not a failed one."""
        checks.identity("shard_id", shard_id)
        checks.identity("job_id", job_id)
        return self._services.dead_letters.revive(shard_id, job_id)


_UNLIMITED: Mapping[str, Any] = {
    "shards": 1,
    "rate_limit": math.inf,
    "circuit_breaker_threshold": math.inf,
    "max_pending": math.inf,
    "durability": "normal",
}


def _open_in_memory(kind: type[_Q], options: Mapping[str, Any]) -> _Q:
    folder = Path(tempfile.mkdtemp(prefix="queue-max-", dir=_in_memory()))
    try:
        queue = kind(**{**_UNLIMITED, "data_dir": folder, **options})
    except BaseException:
        shutil.rmtree(folder)
        raise
    queue._closing.detach()
    remove = partial(_close_and_remove, queue.services.close, folder, os.getpid())
    queue._closing = weakref.finalize(queue, remove)
    return queue


def _in_memory() -> str | None:
    """Name a folder that lies in memory; None where there is none, for that of the system."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _close_and_remove(close: Callable[[], None], folder: Path, owner: int) -> None:
    close()
    if os.getpid() == owner:  # a child of fork is not to take it from its parent
        shutil.rmtree(folder, ignore_errors=True)


def _scope(queue: str | None, task: str | None, shard: int | None) -> str:
    """Name what is to be paused: the one that is given."""
    match queue, task, shard:
        case str(), None, None:
            return scopes.of_queue(queue_name(queue))
        case None, str(), None:
            return scopes.of_task(task)
        case None, None, int():
            return scopes.of_shard(checks.whole("shard", shard, at_least=0))
    raise ConfigurationError(
        f"queue={checks.shown(queue)}, task={checks.shown(task)}, shard={checks.shown(shard)}: "
        "name one of them, what is to be paused or resumed"
    )


def _check_run(job_id: int, shard_id: int, fence: int | None) -> None:
    checks.identity("job_id", job_id)
    checks.identity("shard_id", shard_id)
    if fence is not None:
        checks.identity("fence", fence)


def _statuses(status: str | None) -> Collection[JobStatus]:
    """Read the name of a state; callers mean by "pending" what waits for its time, too."""
    if status == JobStatus.PENDING:
        return JobStatus.PENDING, JobStatus.SCHEDULED
    if status is not None and status not in tuple(JobStatus):
        raise ConfigurationError(
            f"status={checks.shown(status)}: should be None or one of {', '.join(JobStatus)}"
        )
    return tuple(JobStatus) if status is None else (JobStatus(status),)


def _counts_of(services: Services, shard_ids: Collection[int]) -> dict[str, int]:
    counts = services.inspection.recent_counts(shard_ids)
    completed = services.inspection.totals(shard_ids).processed
    return asdict(counts) | {
        "pending": counts.pending + counts.scheduled,
        "completed": completed,
    }
