"""An exchange: one transaction on one shard that settles ended jobs, and claims the next."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from queue_max.domain.failures import JOB_DAMAGED, Failure
from queue_max.domain.job import Job, Lease
from queue_max.domain.retry import Verdict
from queue_max.domain.tasks import Abilities, gate_of_job
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.admission import Admission
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker asks of a shard."""

    worker_id: str
    number: int
    """Of jobs, at most."""
    queues: Sequence[str]
    """In the order in which they are asked."""


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
    exhausted: set[str] = field(default_factory=set)
    """Queues from which all was claimed that is due."""
    due_in: float | None = None
    """Seconds until the next job there is due; None where nobody asked."""
    has_left_one: bool = False
    """A job was left that has to be claimed by itself."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a look at a shard has shown."""

    due: frozenset[str]
    """Queues that have due jobs."""
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
        admission: Admission,
        abilities: Abilities,
    ) -> None:
        self._store = store
        self._settlement = settlement
        self._retry = retry
        self._leases = leases
        self._admission = admission
        self._abilities = abilities

    def make(self, shard_id: int, ended: Sequence[Ended], wanted: Wanted | None = None) -> Harvest:
        """Settle jobs of a shard, and claim what is wanted of it, with one commit."""
        with self._store.writing(shard_id, LOCK_WAIT) as unit:
            harvest = self._settle(unit, ended)
            if wanted is not None:
                self._claim(unit, harvest, wanted)
            if wanted is None or harvest.exhausted:
                harvest.due_in = _due_in(unit)
        return harvest

    def look(self, shard_id: int, names: Iterable[str]) -> Prospect:
        """See which queues have due jobs in a shard, without a lock."""
        with self._store.reading(shard_id) as unit:
            due = frozenset(name for name in names if unit.claims.has_due(name))
            return Prospect(due, math.inf if due else _due_in(unit))

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

    def _claim(self, unit: UnitOfWork, harvest: Harvest, wanted: Wanted) -> None:
        """Claim from one queue after the other, until there is enough."""
        unit.claims.promote_due()
        holder = self._leases.holder
        for name in wanted.queues:
            left = wanted.number - len(harvest.claimed)
            asked = int(min(left, self._admission.allowance(name)))
            if asked < 1:
                continue
            claimed = unit.claims.claim(name, wanted.worker_id, holder, at_most=asked)
            for job in claimed:
                self._sort_in(unit, harvest, job)
            if len(claimed) < asked and not harvest.has_left_one:
                harvest.exhausted.add(name)
        harvest.weight = unit.claims.weight

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
            harvest.has_left_one = True
        else:
            harvest.claimed.append(job)


def may_wait(job: Job) -> bool:
    """Tell whether a job may be buffered: one with a single attempt, or a suspect, never is."""
    return job.attempts < job.max_attempts and not job.is_suspect


def _due_in(unit: UnitOfWork) -> float:
    """Tell in how many seconds the next job of a shard is due; inf for none."""
    at = unit.claims.next_due()
    return math.inf if at is None else max(0.0, (at - unit.now).total_seconds())
