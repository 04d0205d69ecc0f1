"""Lines: which jobs a gate holds back, and how many it lets pass."""

import math
from collections.abc import Iterable, Sequence

from queue_max.domain import gates
from queue_max.domain.job import Job
from queue_max.limits import scopes
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls, Snapshot
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits

LOOK_AGAIN = 0.2
"""Seconds between two looks whether what was closed by hand is open again."""


class Lines:
    """Knows the gates that do not hold a whole queue: see `domain.gates`."""

    def __init__(
        self, controls: Controls, rates: RateLimits, breakers: Breakers, permits: Permits
    ) -> None:
        self._controls = controls
        self._rates = rates
        self._breakers = breakers
        self._permits = permits

    def are_free(self, snapshot: Snapshot) -> bool:
        """Tell whether nothing whatever is limited, as in most queues; it is asked of each job."""
        return snapshot.lets_all_pass and not (self._rates.has_default or self._breakers.unwritten)

    def gates_of(self, job: Job) -> Sequence[str]:
        """Name the gates that a job has to pass, of those that do not hold its whole queue."""
        if job.task is None and job.rate_key is None and job.breaker is None:
            return ()
        snapshot = self._controls.now()
        if job.breaker is None and not snapshot.limits and not snapshot.paused:
            return ()
        found = []
        if snapshot.is_task_paused(job.task):
            found.append(gates.of_pause(scopes.of_task(str(job.task))))
        if job.breaker is not None and not self._breakers.is_closed(job.breaker):
            found.append(gates.of_breaker(job.breaker))
        if snapshot.limits:
            found += [gates.of_rate(each) for each in self._rates.limited(own_scopes(job))]
            found += [gates.of_limit(each) for each in self._permits.limits(task_scope(job))]
        return found

    def allowance(self, gate: str) -> float:
        """Tell how many jobs could pass a gate now, about; inf for any number."""
        if (scope := gates.rated_scope(gate)) is not None:
            return self._rates.allowance(scope)
        return self.in_hand(gate)

    def in_hand(self, gate: str) -> float:
        """Tell how many of the jobs that a gate holds may be taken now; inf for any number."""
        if (scope := gates.rated_scope(gate)) is not None:
            return self._rates.in_hand(scope)
        if self.wait(gate) > 0:
            return 0
        if (name := gates.breaker(gate)) is not None:
            return math.inf if self._breakers.is_closed(name) else 1
        if (scope := gates.limited_scope(gate)) is not None:
            return self._permits.free(scope)
        return math.inf if gates.is_line(gate) else 0

    def wait(self, gate: str) -> float:
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
        return gates.is_line(gate) and self.in_hand(gate) == math.inf


class Budget:
    """How many jobs may pass each gate, as far as can be told within a transaction."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._left: dict[str, float] = {}

    def gate_for(self, job: Job) -> str | None:
        """Name the gate that holds a job; None, and it is counted, where all let it pass."""
        found = self._lines.gates_of(job)
        for gate in found:
            if gate not in self._left:
                self._left[gate] = self._lines.allowance(gate)
            if self._left[gate] < 1:
                return gate
        for gate in found:
            self._left[gate] -= 1
        return None


def task_scope(job: Job) -> list[str]:
    """Name the scope of a job's task, if it has one."""
    return [] if job.task is None else [scopes.of_task(job.task)]


def own_scopes(job: Job) -> list[str]:
    """Name the scopes of a job that are not those of its whole queue, the narrowest first."""
    keys = [] if job.rate_key is None else [scopes.of_key(job.rate_key)]
    return [*keys, *task_scope(job)]
