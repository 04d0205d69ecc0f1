"""The gates a job passes before it starts: pauses, circuit breakers, rates, and how many run."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from queue_max.domain import gates
from queue_max.domain.failures import http_status, retry_after
from queue_max.domain.job import Job, Lease
from queue_max.limits import scopes
from queue_max.limits.breaker import DEFAULT_BREAKER
from queue_max.limits.rates import lags
from queue_max.limits.scopes import ALL
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls, Snapshot
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits

LOOK_AGAIN = 0.2
"""Seconds between two looks whether what was closed by hand is open again."""

TOO_MANY_REQUESTS = 429

SLOW_DOWN = 1.0
"""Seconds for which the jobs of a scope wait after an answer 429 that does not say for how long."""


class Refusal(NamedTuple):
    """Why a job does not start now."""

    gate: str | None
    """What holds it; None where the whole of its queue, or shard, is held."""
    wait: float
    """Seconds until it is worth to ask again."""


class Admission:
    """Lets jobs start, and lets limits and breakers know how they ended.

    What holds a whole queue leaves its jobs pending, and nothing is claimed of it. What holds some
    jobs of it sets them aside, so that others pass: see `domain.gates`.
    """

    def __init__(
        self, controls: Controls, rates: RateLimits, breakers: Breakers, permits: Permits
    ) -> None:
        self._controls = controls
        self._rates = rates
        self._breakers = breakers
        self._permits = permits

    # Before a job starts

    def admit(self, job: Job) -> Refusal | None:
        """Take all that one job needs to start; None for success, and nothing is taken else."""
        snapshot = self._controls.now()
        if self._is_free(snapshot):
            return None
        return self._paused(snapshot, job) or self._broken(job) or self._take_permits(snapshot, job)

    def allowance(self, queue: str) -> float:
        """Tell how many jobs of a queue could start now, about; inf where nothing limits them."""
        snapshot = self._controls.now()
        if self._is_free(snapshot):
            return math.inf
        if snapshot.is_queue_paused(queue):
            return 0
        probes = math.inf
        if not self._breakers.is_closed(DEFAULT_BREAKER):
            probes = 0 if self._breakers.wait(DEFAULT_BREAKER) else 1
        scope = scopes.of_queue(queue)
        if self._permits.wait(scope) or self._permits.wait(ALL):
            return 0
        return min(probes, self._rates.allowance(ALL), self._rates.allowance(scope))

    def wait(self, queue: str) -> float:
        """Tell in how many seconds a job of a queue could start; 0 for now."""
        snapshot = self._controls.now()
        if self._is_free(snapshot):
            return 0.0
        if snapshot.is_queue_paused(queue):
            return LOOK_AGAIN
        scope = scopes.of_queue(queue)
        return max(
            min(self._breakers.wait(DEFAULT_BREAKER), LOOK_AGAIN),
            *(self._rates.wait(each) for each in (ALL, scope)),
            *(self._permits.wait(each) for each in (ALL, scope)),
        )

    def wait_for(self, queue: str, patience: float) -> float | None:
        """Wait until a job of a queue could start, as far as time alone can help.

        Gives what is left of `patience`, in seconds; None where it was not enough.
        """
        is_stopped = self._controls.now().is_queue_paused(queue)
        if is_stopped or self._breakers.wait(DEFAULT_BREAKER):
            return None
        wait = self.wait(queue)
        if wait > patience:
            return None
        if wait:
            self._rates.sleep(wait)
        return patience - wait

    def is_shard_open(self, shard_id: int) -> bool:
        """Tell whether the jobs of a shard may start."""
        return not self._controls.now().is_shard_paused(shard_id)

    # Lines, in which jobs stand that a gate holds

    def gates_of(self, job: Job) -> Sequence[str]:
        """Name the gates that a job has to pass, of those that do not hold its whole queue."""
        snapshot = self._controls.now()
        if self._is_free(snapshot):
            return ()
        found = []
        if snapshot.is_task_paused(job.task):
            found.append(gates.of_pause(scopes.of_task(str(job.task))))
        if job.breaker is not None and not self._breakers.is_closed(job.breaker):
            found.append(gates.of_breaker(job.breaker))
        if snapshot.limits:
            found += [gates.of_rate(each) for each in self._rated(_own_scopes(job))]
            found += [gates.of_limit(each) for each in self._permits.limits(_task_scope(job))]
        return found

    def gate_allowance(self, gate: str) -> float:
        """Tell how many jobs could pass a gate now, about; inf for any number."""
        if (scope := gates.rated_scope(gate)) is not None:
            return self._rates.allowance(scope)
        return self.line_allowance(gate)

    def line_allowance(self, gate: str) -> float:
        """Tell how many of the jobs that a gate holds may be taken now; inf for any number."""
        if (scope := gates.rated_scope(gate)) is not None:
            return self._rates.in_hand(scope)
        if self.line_wait(gate) > 0:
            return 0
        if (name := gates.breaker(gate)) is not None:
            return math.inf if self._breakers.is_closed(name) else 1
        if (scope := gates.limited_scope(gate)) is not None:
            return self._permits.free(scope)
        return math.inf if is_line(gate) else 0

    def line_wait(self, gate: str) -> float:
        """Tell in how many seconds a gate may let a job pass; 0 for now, perhaps."""
        if (scope := gates.rated_scope(gate)) is not None:
            return self._rates.wait(scope)
        if (scope := gates.limited_scope(gate)) is not None:
            return self._permits.wait(scope)
        if (name := gates.breaker(gate)) is not None:
            return min(self._breakers.wait(name), LOOK_AGAIN)
        if (scope := gates.paused_scope(gate)) is not None:
            return LOOK_AGAIN if scope in self._controls.now().paused else 0.0
        return LOOK_AGAIN

    def prepare(self, held_by: Iterable[str]) -> None:
        """Have tokens in hand for the jobs that these gates hold: not within a transaction."""
        for gate in held_by:
            if (scope := gates.rated_scope(gate)) is not None:
                self._rates.prepare(scope)

    def is_open(self, gate: str) -> bool:
        """Tell whether a gate holds nothing any more."""
        return is_line(gate) and self.line_allowance(gate) == math.inf

    # After a job

    def succeeded(self, lease: Lease, breaker: str | None = None) -> None:
        """Note that a job is done."""
        self._breakers.succeeded(breaker or DEFAULT_BREAKER, lease)
        self._permits.ended(lease)

    def fails(self, job: Job, error: BaseException) -> None:
        """Note that a job failed, before that is written: others are not to fail meanwhile."""
        self._breakers.fails(job.breaker or DEFAULT_BREAKER, error)

    def lost(self, job: Job, error: BaseException) -> None:
        """Note that the failure of a job was not written."""
        self._breakers.lost(job.breaker or DEFAULT_BREAKER, error)

    def failed(self, job: Job, error: BaseException | str) -> None:
        """Note that a job failed; an answer to come later slows all jobs of its scope."""
        self._breakers.failed(job.breaker or DEFAULT_BREAKER, job.lease, error)
        self._permits.ended(job.lease)
        if self._controls.now().limits and (seconds := _time_to_wait(error)):
            for scope in self._rated(_own_scopes(job))[:1]:
                self._rates.penalise(scope, seconds)

    def handed_back(self, lease: Lease) -> None:
        """Note that a job ended without an outcome."""
        self._breakers.released(lease)
        self._permits.ended(lease)

    def died(self, lease: Lease) -> None:
        """Note that the worker of a job, in any process, is no more."""
        self._breakers.died(lease)

    def flush(self) -> None:
        """Let other processes know how jobs ended."""
        self._breakers.flush()
        self._permits.flush()

    # One gate after the other

    def _is_free(self, snapshot: Snapshot) -> bool:
        """Tell whether nothing whatever is limited."""
        is_limited = self._rates.has_default or self._breakers.has_failing
        return snapshot.lets_all_pass and not is_limited

    def _paused(self, snapshot: Snapshot, job: Job) -> Refusal | None:
        if snapshot.is_queue_paused(job.queue) or snapshot.is_shard_paused(job.shard_id):
            return Refusal(None, LOOK_AGAIN)
        if snapshot.is_task_paused(job.task):
            return Refusal(gates.of_pause(scopes.of_task(str(job.task))), LOOK_AGAIN)
        return None

    def _broken(self, job: Job) -> Refusal | None:
        if wait := self._breakers.wait(DEFAULT_BREAKER):
            return Refusal(None, wait)
        if job.breaker is not None and (wait := self._breakers.wait(job.breaker)):
            return Refusal(gates.of_breaker(job.breaker), wait)
        return None

    def _take_permits(self, snapshot: Snapshot, job: Job) -> Refusal | None:
        """Take what the job needs of each kind; give it all back where one is missing."""
        limits = self._permits.limits(_all_scopes(job)) if snapshot.limits else {}
        if limits and (full := self._permits.take(job.lease, limits)):
            gate = gates.of_limit(full) if full == _task(job) else None
            return Refusal(gate, self._permits.wait(full))
        refusal = self._take_tokens(snapshot, job)
        if refusal is not None:
            self._permits.ended(job.lease)
        return refusal

    def _take_tokens(self, snapshot: Snapshot, job: Job) -> Refusal | None:
        rated = self._rated(_all_scopes(job) if snapshot.limits else (ALL,))
        if rated and (shortage := self._rates.take(rated)):
            is_own = shortage.scope in _own_scopes(job)
            return Refusal(gates.of_rate(shortage.scope) if is_own else None, shortage.wait)
        refusal = self._probe(job)
        if refusal is not None:
            self._rates.give_back(rated)
        return refusal

    def _probe(self, job: Job) -> Refusal | None:
        for name in (DEFAULT_BREAKER, job.breaker):
            if name is None or self._breakers.is_closed(name):
                continue
            if not self._breakers.probe(name, job.lease):
                self._breakers.released(job.lease)
                gate = None if name == DEFAULT_BREAKER else gates.of_breaker(name)
                return Refusal(gate, self._breakers.wait(name) or LOOK_AGAIN)
        return None

    def _rated(self, candidates: Iterable[str]) -> list[str]:
        """Name those that are limited by a rate; last those whose tokens are used at once."""
        rated = [scope for scope in candidates if self._rates.rates(scope)]
        return sorted(rated, key=lambda scope: not lags(self._rates.rates(scope))[0])


class Budget:
    """How many jobs may pass each gate, as far as can be told within a transaction."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._left: dict[str, float] = {}

    def gate_for(self, job: Job) -> str | None:
        """Name the gate that holds a job; None, and it is counted, where all let it pass."""
        found = self._admission.gates_of(job)
        for gate in found:
            if gate not in self._left:
                self._left[gate] = self._admission.gate_allowance(gate)
            if self._left[gate] < 1:
                return gate
        for gate in found:
            self._left[gate] -= 1
        return None


def is_line(gate: str) -> bool:
    """Tell whether jobs that a gate holds are taken from there when it lets them pass."""
    kinds = (gates.rated_scope, gates.limited_scope, gates.breaker, gates.paused_scope)
    return any(kind(gate) is not None for kind in kinds)


def _task(job: Job) -> str | None:
    return None if job.task is None else scopes.of_task(job.task)


def _task_scope(job: Job) -> list[str]:
    return [] if job.task is None else [scopes.of_task(job.task)]


def _own_scopes(job: Job) -> list[str]:
    """Name the scopes of a job that are not those of its whole queue, the narrowest first."""
    keys = [] if job.rate_key is None else [scopes.of_key(job.rate_key)]
    return [*keys, *_task_scope(job)]


def _all_scopes(job: Job) -> list[str]:
    return [*_own_scopes(job), scopes.of_queue(job.queue), ALL]


def _time_to_wait(error: BaseException | str) -> float:
    """Tell for how long a server has asked to be left alone; 0 where it has not."""
    if isinstance(error, str):
        return 0.0
    if seconds := retry_after(error):
        return seconds
    return SLOW_DOWN if http_status(error) == TOO_MANY_REQUESTS else 0.0
