"""An exchange: one transaction on one shard that settles ended jobs, and claims the next."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from queue_max.domain.failures import JOB_DAMAGED, Failure
from queue_max.domain.gates import Line, is_line, of_key
from queue_max.domain.job import Job, Lease
from queue_max.domain.retry import Verdict
from queue_max.domain.tasks import Abilities, gate_of_job
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.admission import Admission
from queue_max.services.leases import LeaseService
from queue_max.services.lines import Budget
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService

STEP = 100
"""Jobs that are claimed in one statement, at most, where many of them may not run."""

ASIDE_AT_ONCE = 200
"""Jobs that are set aside in one transaction: more would hold the lock for too long."""

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
    lines: Sequence[Line] = ()
    """Jobs that were held there, and may run now; they come first."""
    names: Collection[str] = ()
    """Queues that jobs from lines may be of."""


Source = str | Line
"""Where jobs are claimed from: a queue, or a line."""


@dataclass(slots=True)
class Harvest:
    """What an exchange brought."""

    written: list[bool] = field(default_factory=list)
    """Of each ended job, whether its lease still held."""
    claimed: list[Job] = field(default_factory=list)
    buried: list[tuple[Job, Failure, Verdict]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Gates of jobs that nobody here can run."""
    lines: set[Line] = field(default_factory=set)
    """Where jobs stand now that may not run."""
    weight: int = 0
    """Characters in the payloads that were claimed."""
    exhausted: set[Source] = field(default_factory=set)
    """From where all was claimed that is due."""
    due_in: float | None = None
    """Seconds until the next job there is due; None where nobody asked."""
    has_left_one: bool = False
    """A job was left that has to be claimed by itself."""
    set_aside: int = 0
    """How many jobs were claimed that may not run."""
    stirred: bool = False
    """Jobs may have become due there, of any queue."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a look at a shard has shown."""

    due: frozenset[Source]
    """Queues that have due jobs, and lines."""
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
            has_asked_all = wanted is not None and harvest.exhausted.issuperset(wanted.names)
            if harvest.stirred and not has_asked_all:
                harvest.due_in = 0.0  # somebody is to look
            elif wanted is None or harvest.exhausted:
                harvest.due_in = _due_in(unit)
        return harvest

    def look(self, shard_id: int, names: Iterable[str]) -> Prospect:
        """See which queues have due jobs in a shard, without a lock."""
        with self._store.reading(shard_id) as unit:
            due = frozenset(name for name in names if unit.claims.has_due(name))
            return Prospect(due | _lines(unit), math.inf if due else _due_in(unit))

    def lines(self, shard_id: int) -> Collection[Line]:
        """Tell where jobs of a shard are held, of which one may pass at a time."""
        with self._store.reading(shard_id) as unit:
            return _lines(unit)

    def release_held(self, shard_id: int) -> int:
        """Let jobs of a shard run that were held, where nothing holds them any more.

        Gives how many, a bounded number.
        """
        known = self._abilities.gates()
        with self._store.reading(shard_id) as unit:
            held = unit.lines.gates()
        gates = [gate for gate in held if gate in known or self._admission.lines.is_open(gate)]
        if not gates:
            return 0
        with self._store.writing(shard_id, LOCK_WAIT) as unit:
            return unit.lines.release(gates)

    def give_back(self, job: Job, held_by: str | None = None) -> None:
        """Let others have a job that was claimed and not begun, or set it aside."""
        with self._store.writing(job.shard_id) as unit:
            unit.jobs.give_back(job, held_by)

    def _settle(self, unit: UnitOfWork, ended: Sequence[Ended]) -> Harvest:
        done = [each.job for each in ended if each.is_simply_done]
        ran = iter(self._settlement.write_all(unit, done) if done else ())
        # Others may be tried again at once, or let the next one of their key run.
        stirred = any(not each.is_simply_done or each.job.concurrency_key for each in ended)
        written = [next(ran) if each.is_simply_done else each.write(unit) for each in ended]
        return Harvest(written, stirred=stirred)

    def _claim(self, unit: UnitOfWork, harvest: Harvest, wanted: Wanted) -> None:
        """Claim from one line and queue after the other, until there is enough."""
        unit.concurrency_keys.balance()  # so that those are found whose turn has come
        harvest.stirred |= unit.claims.promote_due() > 0
        gatekeeper = Gatekeeper(
            unit, harvest, self._abilities, Budget(self._admission.lines), self._retry
        )
        sources: list[Source] = [*wanted.lines, *wanted.queues]
        for source in sources:
            while self._claim_from(source, unit, harvest, wanted, gatekeeper):
                continue
        harvest.weight = unit.claims.weight + unit.lines.weight

    def _claim_from(
        self,
        source: Source,
        unit: UnitOfWork,
        harvest: Harvest,
        wanted: Wanted,
        gatekeeper: "Gatekeeper",
    ) -> bool:
        """Claim what is wanted; True when it was not enough, since some may not run."""
        left = wanted.number - len(harvest.claimed)
        if isinstance(source, Line):
            asked = int(min(left, self._admission.lines.in_hand(source.gate)))
        else:
            asked = int(min(left, self._admission.allowance(source)))
        if asked < 1:
            return False
        asked = min(max(asked, harvest.set_aside), STEP)
        worker_id, holder = wanted.worker_id, self._leases.holder
        if isinstance(source, Line):
            claimed = unit.lines.claim(source.gate, wanted.names, worker_id, holder, at_most=asked)
        else:
            claimed = unit.claims.claim(source, worker_id, holder, at_most=asked)
        set_aside = harvest.set_aside
        waiting = Counter(job.concurrency_key for job in claimed)
        for job in claimed:
            waiting[job.concurrency_key] -= 1
            gatekeeper.sort_in(job, waiting[job.concurrency_key])
        if len(claimed) < asked and not harvest.has_left_one:
            harvest.exhausted.add(source)
            return False
        return set_aside < harvest.set_aside < ASIDE_AT_ONCE and not harvest.has_left_one


class Gatekeeper:
    """Takes claimed jobs in, but for those that may not run: these are set aside."""

    def __init__(
        self,
        unit: UnitOfWork,
        harvest: Harvest,
        abilities: Abilities,
        budget: Budget,
        retry: RetryService,
    ) -> None:
        self._unit = unit
        self._harvest = harvest
        self._abilities = abilities
        self._budget = budget
        self._retry = retry

    def sort_in(self, job: Job, before: int) -> None:
        """Take a claimed job, unless it cannot be run, or has to be claimed by itself.

        It goes before so many of its concurrency key that were claimed with it.
        """
        unit, harvest = self._unit, self._harvest
        if job.damage is not None:
            failure = Failure(JOB_DAMAGED, job.damage)
            if verdict := self._retry.lose(unit, job, failure, at_once=True):
                harvest.buried.append((job, failure, verdict))
        elif not self._abilities.can_run(job):
            gate = gate_of_job(job)
            self._set_aside(job, gate)
            harvest.unknown.append(gate)
        elif not unit.concurrency_keys.may_run(job, before=before):
            self._set_aside(job, of_key(str(job.concurrency_key)))
        elif held_by := self._budget.gate_for(job):
            self._set_aside(job, held_by)
            harvest.lines.add(Line(held_by))
        elif harvest.claimed and not may_wait(job):
            unit.jobs.give_back(job)
            harvest.has_left_one = True
        else:
            harvest.claimed.append(job)

    def _set_aside(self, job: Job, gate: str) -> None:
        self._unit.jobs.give_back(job, held_by=gate)
        self._harvest.set_aside += 1


def may_wait(job: Job) -> bool:
    """Tell whether a job may be buffered: one with a single attempt, or a suspect, never is."""
    return job.attempts < job.max_attempts and not job.is_suspect


def _lines(unit: UnitOfWork) -> frozenset[Line]:
    return frozenset(Line(gate) for gate in unit.lines.gates() if is_line(gate))


def _due_in(unit: UnitOfWork) -> float:
    """Tell in how many seconds the next job of a shard is due; inf for none."""
    at = unit.claims.next_due()
    return math.inf if at is None else max(0.0, (at - unit.now).total_seconds())
