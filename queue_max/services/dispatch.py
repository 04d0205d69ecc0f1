"""Giving jobs to workers."""

import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain

from queue_max.domain.events import Events
from queue_max.domain.failures import JOB_DAMAGED, Failure
from queue_max.domain.gates import is_line, of_key
from queue_max.domain.job import DEFAULT_QUEUE, Job
from queue_max.domain.routing import scan_order
from queue_max.exceptions import ShardBusyError, ShardError
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.admission import Admission
from queue_max.services.exchange import ASIDE_AT_ONCE
from queue_max.services.lines import Budget
from queue_max.services.retry import RetryService
from queue_max.services.shard_watch import ShardWatch
from queue_max.services.urgency import Urgency

logger = logging.getLogger(__name__)

BUSY_SHARD_WAIT = 1.0
"""Seconds to wait for a locked shard when all others have nothing to do."""


class DispatchService:
    """Finds a job that may start, and claims it.

    Shards are looked at without a lock first, so that an idle worker disturbs nobody; one that
    is locked or damaged does not hold up the others. A job whose row is damaged is buried.
    """

    def __init__(  # noqa: PLR0913 - who hears of it
        self,
        store: Store,
        retry: RetryService,
        admission: Admission,
        rng: random.Random,
        events: Events,
        watch: ShardWatch,
        *,
        urgency: Urgency | None = None,
    ) -> None:
        self._store = store
        self._retry = retry
        self._admission = admission
        self._rng = rng
        self._events = events
        self._watch = watch
        self._urgency = urgency
        self._unreadable = _Warnings()
        self._unwritable = _Warnings()

    def claim(
        self,
        worker_id: str,
        patience: float = 0.0,
        holder: str | None = None,
        *,
        queue: str = DEFAULT_QUEUE,
    ) -> Job | None:
        """Give the most urgent due job of a queue in a shard to a worker; None when none may start.

        `patience` is how many seconds to wait for the rate limiter, `holder` the identity of the
        worker's process. Raises ShardError when no shard can serve.
        """
        left: float | None = patience
        while left is not None:
            lines: dict[int, list[str]] = {}
            due = self._shards_with_due_jobs(queue, lines)
            first = next(due, None)
            if first is None:
                return None
            left = self._admission.wait_for(queue, left)
            if left is None:
                return None
            job = self._claim_from(chain([first], due), lines, worker_id, holder, queue)
            if job is None:
                return None
            refusal = self._admission.admit(job)
            if refusal is None:
                return job
            self._release(job, refusal.gate)
        return None

    def give_out(self, worker_id: str, patience: float, *, queue: str) -> Job | None:
        """Claim a job as `claim` does, for a worker that begins with it at once."""
        job = self.claim(worker_id, patience, queue=queue)
        if job is not None:
            self.tell_started(job)
        return job

    def tell_started(self, job: Job) -> None:
        """Publish that a worker begins with a job it was given."""
        if self._events.are_heard("job_started"):
            self._events.publish(
                "job_started", job_id=job.id, shard_id=job.shard_id, worker_id=job.worker_id
            )

    def next_due(self) -> float:
        """Tell in how many seconds the earliest of all jobs that wait is due; inf for none."""
        earliest = math.inf
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                if (at := unit.claims.next_due()) is not None:
                    earliest = min(earliest, (at - unit.now).total_seconds())
        return max(0.0, earliest)

    def give_back(self, job: Job) -> None:
        """Let others have a job that was claimed and not started; the attempt counts not."""
        self._release(job, None)
        self._admission.handed_back(job.lease)
        self._admission.flush()

    def queues(self) -> list[str]:
        """Name the queues that have due jobs."""
        names: set[str] = set()
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                names.update(unit.claims.queues())
        return sorted(names)

    def _shards_with_due_jobs(self, queue: str, lines: dict[int, list[str]]) -> Iterator[int]:
        """Name them; `lines` gets the gates of each that hold jobs which may run by now."""
        refusals = []
        for shard_id in self._scan_order(queue):
            try:
                with self._store.reading(shard_id) as unit:
                    lines[shard_id] = self._open_lines(unit)
                    has_due = bool(lines[shard_id]) or unit.claims.has_due(queue)
            except ShardError as error:
                self._unreadable.note(shard_id, error)
                self._watch.refused(shard_id, error, at_reading=True)
                refusals.append(error)
                continue
            self._unreadable.forget(shard_id)
            self._watch.served(shard_id, at_reading=True)
            if has_due and self._admission.is_shard_open(shard_id):
                yield shard_id
        if len(refusals) == len(self._store.shard_ids):
            raise refusals[0]

    def _scan_order(self, queue: str) -> list[int]:
        """Put the shards into a random order, or that with the most urgent job first."""
        order = scan_order(self._store.shard_ids, self._rng)
        if self._urgency is None:
            return order
        return sorted(order, key=self._urgency.of(order, [queue]).__getitem__, reverse=True)

    def _claim_from(
        self,
        shard_ids: Iterator[int],
        lines: dict[int, list[str]],
        worker_id: str,
        holder: str | None,
        queue: str,
    ) -> Job | None:
        """Claim in the first shard that serves."""

        def claim_in(shard_id: int, wait: float | None) -> Job | None:
            self._admission.lines.prepare(lines[shard_id])

            def claim_next(unit: UnitOfWork) -> Job | None:
                return self._claim_next(unit, lines[shard_id], worker_id, holder, queue)

            return self._claim_in(shard_id, wait, claim_next)

        refusals = []
        for shard_id, outcome in self._store.visit(shard_ids, claim_in, BUSY_SHARD_WAIT):
            if isinstance(outcome, ShardError):
                self._unwritable.note(shard_id, outcome)
                self._watch.refused(shard_id, outcome)
                if not isinstance(outcome, ShardBusyError):
                    refusals.append(outcome)
                continue
            self._unwritable.forget(shard_id)
            self._watch.served(shard_id)
            if outcome is not None:
                return outcome
        if len(refusals) == len(self._store.shard_ids):
            raise refusals[0]
        return None

    def _claim_in(
        self, shard_id: int, wait: float | None, claim_next: Callable[[UnitOfWork], Job | None]
    ) -> Job | None:
        """Claim in one shard; what is damaged there is buried, and set aside what may not run."""
        for _ in range(ASIDE_AT_ONCE):
            with self._store.writing(shard_id, wait) as unit:
                budget = Budget(self._admission.lines)
                job = claim_next(unit)
                if job is None:
                    return None
                if job.damage is None:
                    gate = self._gate_for(unit, job, budget)
                    if gate is None:
                        return job
                    unit.jobs.give_back(job, held_by=gate)
                    continue
                failure = Failure(JOB_DAMAGED, job.damage)
                verdict = self._retry.lose(unit, job, failure, at_once=True)
            if verdict is not None:
                self._retry.tell(job, failure, verdict)
        return None

    def _claim_next(
        self,
        unit: UnitOfWork,
        lines: Sequence[str],
        worker_id: str,
        holder: str | None,
        queue: str,
    ) -> Job | None:
        """Claim a job that was held and may run now, else the most urgent one of the queue."""
        unit.claims.promote_due()
        for gate in lines:
            if self._admission.lines.in_hand(gate) >= 1:
                for job in unit.lines.claim(gate, [queue], worker_id, holder, at_most=1):
                    return job
        return unit.claims.claim_next(queue, worker_id, holder)

    def _gate_for(self, unit: UnitOfWork, job: Job, budget: Budget) -> str | None:
        """Name the gate that holds a claimed job; None where it may run."""
        if not unit.concurrency_keys.may_run(job):
            return of_key(str(job.concurrency_key))
        return budget.gate_for(job)

    def _open_lines(self, unit: UnitOfWork) -> list[str]:
        """Name the lines of a shard from which a job may be taken, perhaps."""
        held = unit.lines.gates()
        return [gate for gate in held if is_line(gate) and not self._admission.lines.wait(gate)]

    def _release(self, job: Job, gate: str | None) -> None:
        with self._store.writing(job.shard_id) as unit:
            unit.jobs.give_back(job, held_by=gate)


class _Warnings:
    """Says once that a shard refuses, and again after it has served meanwhile."""

    def __init__(self) -> None:
        self._warned_of: set[int] = set()

    def note(self, shard_id: int, error: ShardError) -> None:
        if shard_id not in self._warned_of:
            self._warned_of.add(shard_id)
            logger.warning("going on without it: %s", error)

    def forget(self, shard_id: int) -> None:
        self._warned_of.discard(shard_id)
