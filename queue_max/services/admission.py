"""The gates a job passes before it starts: pauses, circuit breakers, rates, and how many run."""

import logging
import math
from typing import NamedTuple

from queue_max.domain import gates
from queue_max.domain.failures import http_status, retry_after
from queue_max.domain.job import Job, Lease
from queue_max.exceptions import ShardError
from queue_max.limits import scopes
from queue_max.limits.breaker import DEFAULT_BREAKER
from queue_max.limits.scopes import ALL
from queue_max.services.breaker_rules import BreakerRules
from queue_max.services.breakers import Breakers, generation_of
from queue_max.services.controls import Controls, Snapshot
from queue_max.services.lines import LOOK_AGAIN, Lines, own_scopes
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits

logger = logging.getLogger(__name__)

TOO_MANY_REQUESTS = 429

LOCKED_CONTROL_WAIT = 1.0
"""Seconds to wait for the control database where a worker has other things to do."""

SLOW_DOWN = 1.0
"""Seconds for which the jobs of a scope wait after an answer 429 that does not say for how long."""


_Kind = tuple[str, str | None, str | None]
"""What the limits of a job depend on: its queue, task and rate key."""


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
        self,
        controls: Controls,
        rates: RateLimits,
        breakers: Breakers,
        rules: BreakerRules,
        permits: Permits,
    ) -> None:
        self._controls = controls
        self._rates = rates
        self._breakers = breakers
        self._rules = rules
        self._permits = permits
        self.lines = Lines(controls, rates, breakers, permits)
        self._rated_by_kind: tuple[Snapshot, dict[_Kind, list[str]]] = (Snapshot(), {})

    # Before a job starts

    def admit(self, job: Job, more: float = math.inf) -> Refusal | None:
        """Take all that one job needs to start; None for success, and nothing is taken else.

        `more` is how many other jobs are ready: no more tokens are reserved than they can use.
        """
        snapshot = self._controls.now()
        if self.lines.are_free(snapshot):
            return None
        if snapshot.paused and (refusal := self._paused(snapshot, job)):
            return refusal
        # As they nearly always are, all breakers are closed.
        may_be_broken = bool(snapshot.breakers or self._breakers.unwritten)
        if may_be_broken and (refusal := self._broken(job)):
            return refusal
        return self._take_permits(snapshot, job, more, may_be_broken)

    def allowance(self, queue: str) -> float:
        """Tell how many jobs of a queue could start now, about; inf where nothing limits them."""
        snapshot = self._controls.now()
        if self.lines.are_free(snapshot):
            return math.inf
        if snapshot.is_queue_paused(queue):
            return 0
        probes = math.inf
        if not self._breakers.is_closed(DEFAULT_BREAKER):
            probes = 0 if self._breakers.wait(DEFAULT_BREAKER) else 1
        scope = scopes.of_queue(queue)
        if self._permits.wait(scope) or self._permits.wait(ALL):
            return 0
        free = min(self._permits.free(ALL), self._permits.free(scope))
        return min(probes, free, self._rates.allowance(ALL), self._rates.allowance(scope))

    def wait(self, queue: str) -> float:
        """Tell in how many seconds a job of a queue could start; 0 for now."""
        snapshot = self._controls.now()
        if self.lines.are_free(snapshot):
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

    # After a job

    def succeeded(self, lease: Lease, breaker: str | None = None) -> None:
        """Note that a job is done."""
        self._breakers.succeeded(breaker or DEFAULT_BREAKER, lease)
        self._permits.ended(lease)

    def fails(self, job: Job, error: BaseException) -> None:
        """Note that a job failed, before that is written; `failed` or `lost` follows."""
        name = job.breaker or DEFAULT_BREAKER
        if self._rules.does_count(name, error):
            generation = generation_of(self._breakers.known(name))
            self._breakers.unwritten.add(job.lease, name, generation)

    def lost(self, job: Job) -> None:
        """Note that the failure of a job will not be written."""
        self._breakers.unwritten.remove(job.lease)

    def failed(self, job: Job, error: BaseException | str) -> None:
        """Note that a job failed; an answer to come later slows all jobs of its scope."""
        self._breakers.failed(job.breaker or DEFAULT_BREAKER, job.lease, error)
        self._permits.ended(job.lease)
        if self._controls.now().limits and (seconds := _time_to_wait(error)):
            for scope in self._rates.limited(own_scopes(job))[:1]:
                self._slow_down(scope, seconds)

    def _slow_down(self, scope: str, seconds: float) -> None:
        try:
            self._rates.penalise(scope, seconds, wait=LOCKED_CONTROL_WAIT)
        except ShardError as error:
            logger.warning("jobs of %s are not slowed, as a server has asked: %s", scope, error)

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

    def _take_permits(
        self, snapshot: Snapshot, job: Job, more: float, may_be_broken: bool
    ) -> Refusal | None:
        """Take what the job needs of each kind; give it all back where one is missing."""
        is_counted = snapshot.limits.have_concurrency
        limits = self._permits.limits(_all_scopes(job)) if is_counted else {}
        if limits and (full := self._permits.take(job.lease, limits)):
            gate = gates.of_limit(full) if full == _task(job) else None
            return Refusal(gate, self._permits.wait(full))
        refusal = self._take_tokens(snapshot, job, more, may_be_broken)
        if refusal is not None:
            self._permits.ended(job.lease)
        return refusal

    def _take_tokens(
        self, snapshot: Snapshot, job: Job, more: float, may_be_broken: bool
    ) -> Refusal | None:
        rated = self._rated_scopes(snapshot, job)
        if rated and (shortage := self._rates.take(rated, more)):
            is_own = shortage.scope in own_scopes(job)
            return Refusal(gates.of_rate(shortage.scope) if is_own else None, shortage.wait)
        refusal = self._probe(job) if may_be_broken else None
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

    def _rated_scopes(self, snapshot: Snapshot, job: Job) -> list[str]:
        """Name the scopes of a job that are limited by a rate; one job is as others of its kind."""
        seen, found = self._rated_by_kind
        if seen is not snapshot:
            self._rated_by_kind = _seen, found = snapshot, {}
        kind = (job.queue, job.task, job.rate_key)
        rated = found.get(kind)
        if rated is None:
            rated = self._rates.limited(_all_scopes(job) if snapshot.limits else (ALL,))
            found[kind] = rated
        return rated


def _task(job: Job) -> str | None:
    return None if job.task is None else scopes.of_task(job.task)


def _all_scopes(job: Job) -> list[str]:
    return [*own_scopes(job), scopes.of_queue(job.queue), ALL]


def _time_to_wait(error: BaseException | str) -> float:
    """Tell for how long a server has asked to be left alone; 0 where it has not."""
    if isinstance(error, str):
        return 0.0
    if seconds := retry_after(error):
        return seconds
    return SLOW_DOWN if http_status(error) == TOO_MANY_REQUESTS else 0.0
