"""An exchange: one transaction on one shard that settles ended jobs, and claims the next."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from queue_max.domain.failures import JOB_DAMAGED, Failure
from queue_max.domain.job import DEFAULT_QUEUE, Job, Lease
from queue_max.domain.retry import Verdict
from queue_max.domain.tasks import Abilities, gate_of_job
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.leases import LeaseService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService

LOCK_WAIT = 0.05
"""Seconds to wait for a shard that others write to, before another one is tried."""


class Ended(ABC):
    """A job that was run, and what is to be written of it."""

    __slots__ = ("at", "in_doubt", "job", "lease")

    is_simply_done = False
    """Nothing is to be kept of it: many such are written at once, and `write` is not called."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.lease: Lease = job.lease
        self.at = 0.0
        """When it was handed in."""
        self.in_doubt = False
        """A commit failed that may have written it."""

    @abstractmethod
    def write(self, unit: UnitOfWork) -> bool:
        """Write the outcome; False when the lease was lost."""

    @abstractmethod
    def tell(self, is_written: bool) -> None:
        """Make it known, after the commit; False when the lease was lost."""


@dataclass(slots=True)
class Harvest:
    """What an exchange brought."""

    written: list[bool] = field(default_factory=list)
    """Of each ended job, whether its lease still held."""
    claimed: list[Job] = field(default_factory=list)
    buried: list[tuple[Job, Failure, Verdict]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """Gates of jobs that nobody here can run."""
    weight: int = 0
    """Characters in the payloads that were claimed."""
    is_all: bool = True
    """Fewer jobs came than were asked for."""
    due_in: float | None = None
    """Seconds until the next job there is due; None where nobody asked."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a look at a shard has shown."""

    has_due: bool
    due_in: float
    """Seconds until its next job is due; inf where none is, or one is due now."""


class Exchange:
    """What the dispatcher has written to and read from shards."""

    def __init__(
        self,
        store: Store,
        settlement: SettlementService,
        retry: RetryService,
        leases: LeaseService,
        abilities: Abilities,
    ) -> None:
        self._store = store
        self._settlement = settlement
        self._retry = retry
        self._leases = leases
        self._abilities = abilities

    def make(self, shard_id: int, ended: Sequence[Ended], asked: int, worker_id: str) -> Harvest:
        """Settle jobs of a shard, and claim as many as are asked for, with one commit."""
        with self._store.writing(shard_id, LOCK_WAIT) as unit:
            harvest = self._settle(unit, ended)
            if asked:
                self._claim(unit, harvest, worker_id, asked)
            if harvest.is_all:
                harvest.due_in = _due_in(unit)
        return harvest

    def look(self, shard_id: int) -> Prospect:
        """See whether a shard has due jobs, without a lock."""
        with self._store.reading(shard_id) as unit:
            has_due = unit.claims.has_due(DEFAULT_QUEUE)
            return Prospect(has_due, math.inf if has_due else _due_in(unit))

    def release_held(self, shard_id: int) -> int:
        """Let jobs of a shard run that were held, for want of what is known here.

        Gives how many, a bounded number.
        """
        gates = self._abilities.gates()
        with self._store.reading(shard_id) as unit:
            if not unit.claims.has_held(gates):
                return 0
        with self._store.writing(shard_id, LOCK_WAIT) as unit:
            return unit.claims.release_held(gates)

    def give_back(self, job: Job) -> None:
        """Let others have a job that was claimed and not begun."""
        with self._store.writing(job.shard_id) as unit:
            unit.jobs.give_back(job)

    def _settle(self, unit: UnitOfWork, ended: Sequence[Ended]) -> Harvest:
        done = [each.job for each in ended if each.is_simply_done]
        ran = iter(self._settlement.write_all(unit, done) if done else ())
        return Harvest([next(ran) if each.is_simply_done else each.write(unit) for each in ended])

    def _claim(self, unit: UnitOfWork, harvest: Harvest, worker_id: str, asked: int) -> None:
        unit.claims.promote_due()
        holder = self._leases.holder
        claimed = unit.claims.claim(DEFAULT_QUEUE, worker_id, holder, at_most=asked)
        harvest.weight = unit.claims.weight
        harvest.is_all = len(claimed) < asked
        for job in claimed:
            self._sort_in(unit, harvest, job)

    def _sort_in(self, unit: UnitOfWork, harvest: Harvest, job: Job) -> None:
        """Take a claimed job, unless it cannot be run, or has to be claimed by itself."""
        if job.damage is not None:
            failure = Failure(JOB_DAMAGED, job.damage)
            if verdict := self._retry.lose(unit, job, failure, at_once=True):
                harvest.buried.append((job, failure, verdict))
        elif not self._abilities.can_run(job):
            gate = gate_of_job(job)
            unit.jobs.give_back(job, held_by=gate)
            harvest.held.append(gate)
        elif harvest.claimed and not may_wait(job):
            unit.jobs.give_back(job)
            harvest.is_all = False
        else:
            harvest.claimed.append(job)


def may_wait(job: Job) -> bool:
    """Tell whether a job may be buffered: one with a single attempt, or a suspect, never is."""
    return job.attempts < job.max_attempts and not job.is_suspect


def _due_in(unit: UnitOfWork) -> float:
    """Tell in how many seconds the next job of a shard is due; inf for none."""
    at = unit.claims.next_due()
    return math.inf if at is None else max(0.0, (at - unit.now).total_seconds())
