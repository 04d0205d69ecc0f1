"""Why a job does not run."""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

from queue_max.domain import gates
from queue_max.domain.clock import from_text, later, to_text
from queue_max.domain.job import Job, JobStatus
from queue_max.domain.reasons import Explanation, Kind, Reason
from queue_max.domain.reference import JobRef
from queue_max.domain.tasks import gate_of_job, missing, remedy
from queue_max.exceptions import ShardError, ShardNotFoundError
from queue_max.limits import scopes
from queue_max.limits.breaker import DEFAULT_BREAKER
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import text_of
from queue_max.limits.scopes import ALL, resuming
from queue_max.repositories.unit_of_work import Store
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls
from queue_max.services.inspection import InspectionService
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits
from queue_max.services.roster import Roster

COUNTED = 10_000
"""Jobs ahead of another that are counted, at most."""


class WhyService:
    """Asks each gate in turn; a few reads, and nothing is changed."""

    def __init__(  # noqa: PLR0913 - all that may hold a job back
        self,
        store: Store,
        inspection: InspectionService,
        controls: Controls,
        rates: RateLimits,
        breakers: Breakers,
        permits: Permits,
        roster: Roster,
        lease_time: timedelta,
    ) -> None:
        self._store = store
        self._inspection = inspection
        self._controls = controls
        self._rates = rates
        self._breakers = breakers
        self._permits = permits
        self._roster = roster
        self._lease_time = lease_time

    def why(self, job: object) -> Explanation:
        """Tell why a job does not run; JobNotFoundError when there is none."""
        ref = JobRef.of(job)
        try:
            found = self._inspection.find(job)
            self._controls.refresh()
            reasons = tuple(self._reasons(found))
        except ShardNotFoundError:
            raise
        except ShardError as error:
            text = f"its shard cannot be read: {error}"
            return Explanation(str(ref), None, (Reason(Kind.SHARD, text),))
        return Explanation(found.key, found.status_str, reasons)

    def _reasons(self, job: Job) -> Iterator[Reason]:
        if job.is_terminal:
            yield _ended(job)
        elif job.is_processing:
            yield self._runs(job)
        else:
            yield from self._waits(job)

    def _runs(self, job: Job) -> Reason:
        with self._store.reading(job.shard_id) as unit:
            since = from_text(job.heartbeat) if job.heartbeat else unit.now
            silence = unit.now - since
        is_silent = silence > self._lease_time
        facts = {
            "worker_id": job.worker_id,
            "since": job.started_at,
            "heard_of_at": job.heartbeat,
            "is_silent": is_silent,
        }
        text = (
            f"it runs: {job.worker_id} has it since {job.started_at}, and was last heard of at "
            f"{job.heartbeat}"
        )
        if is_silent:
            text += f": silent for {silence.total_seconds():.0f} s, it may be dead; "
            text += (
                "another worker takes the job over within seconds"
                if self._roster.present()
                else "no other worker lives to take the job over; `queue-max worker` starts one"
            )
        return Reason(Kind.RUNNING, text, facts)

    def _waits(self, job: Job) -> Iterator[Reason]:
        with self._store.reading(job.shard_id) as unit:
            now = unit.now
            ahead = unit.claims.count_ahead(job, COUNTED)
        found = [
            *self._paused(job),
            *self._not_due(job, now),
            *self._held(job),
            *self._broken(job, now),
            *self._limited(job, now),
            *self._without_worker(job),
        ]
        yield from found
        if job.status is JobStatus.PENDING and ahead:
            yield _ahead(job, ahead)
        elif not found:
            yield Reason(Kind.NEXT, "nothing holds it: the next worker that is free takes it")

    def _paused(self, job: Job) -> Iterator[Reason]:
        own = [scopes.of_queue(job.queue), scopes.of_shard(job.shard_id)]
        if job.task is not None:
            own.append(scopes.of_task(job.task))
        paused = self._controls.now().paused
        for scope in own:
            if scope in paused:
                said = scopes.paused_in_words(scope, paused[scope])
                text = f"{said}; `{resuming(scope)}` lets it go on"
                yield Reason(Kind.PAUSED, text, {"scope": scope, "reason": paused[scope]})

    def _not_due(self, job: Job, now: datetime) -> Iterator[Reason]:
        at = job.next_retry_at
        if job.status is not JobStatus.SCHEDULED or at is None or at <= to_text(now):
            return
        if job.attempts:
            facts = {
                "until": at,
                "attempts": job.attempts,
                "max_attempts": job.max_attempts,
                "error_type": job.error_type,
                "error": job.last_error,
            }
            text = (
                f"it waits until {at} for attempt {job.attempts + 1} of {job.max_attempts}; "
                f"the last one failed: {job.error_type}: {job.last_error}"
            )
            yield Reason(Kind.RETRY, text, facts)
        else:
            yield Reason(Kind.NOT_DUE, f"it is scheduled for {at}", {"until": at})

    def _held(self, job: Job) -> Iterator[Reason]:
        """Tell of what only jobs that are set aside wait for."""
        if job.held_by is None:
            return
        if (key := gates.concurrency_key(job.held_by)) is not None:
            yield self._key_is_busy(job, key)
        elif job.held_by == gate_of_job(job):
            yield _unknown(job)

    def _key_is_busy(self, job: Job, key: str) -> Reason:
        places = self._controls.places_of_key(key)
        with self._store.reading(job.shard_id) as unit:
            holders = [f"{job.shard_id}-{uid}" for uid in unit.concurrency_keys.holders(key)]
        text = (
            f"of the concurrency key {key!r} {places} run(s) at a time; before it are "
            f"{', '.join(holders) or 'others'}"
        )
        return Reason(Kind.CONCURRENCY, text, {"key": key, "limit": places, "held_by": holders})

    def _broken(self, job: Job, now: datetime) -> Iterator[Reason]:
        for name in filter(None, (DEFAULT_BREAKER, job.breaker)):
            breaker = self._breakers.known(name)
            if breaker is None or breaker.state is CircuitState.CLOSED:
                continue
            wait = self._breakers.opens_in(breaker)
            when = "until it is closed by hand"
            if wait < math.inf:
                when = f"the next probe may pass at {_moment(now, wait)}"
            facts = {
                "breaker": name,
                "state": str(breaker.state),
                "failures": breaker.failures,
                "next_probe_at": None if wait == math.inf else _moment(now, wait),
                "error": breaker.last_error,
            }
            state = str(breaker.state).replace("_", "-")
            last = f"; the last failure: {breaker.last_error}" if breaker.last_error else ""
            yield Reason(Kind.BREAKER, f"breaker {name!r} is {state}: {when}{last}", facts)

    def _limited(self, job: Job, now: datetime) -> Iterator[Reason]:
        for scope in _scopes(job):
            rates = self._rates.rates(scope)
            level = self._rates.level(scope)
            if level.tokens < 1:
                at = _moment(now, level.next_token)
                text = f"the rate of {scope} is {text_of(rates)}: the next token comes at {at}"
                facts = {"scope": scope, "rate": text_of(rates), "next_token_at": at}
                yield Reason(Kind.RATE, text, facts)
        for scope, limit in self._permits.limits(_scopes(job)).items():
            runs = self._permits.holders(scope)
            if len(runs) >= limit:
                holders = [{"shard_id": run.shard_id, "id": run.job_id} for run in runs]
                text = f"of {scope} {limit} run at a time, and {len(runs)} do"
                held = {"scope": scope, "limit": limit, "held_by": holders}
                yield Reason(Kind.CONCURRENCY, text, held)

    def _without_worker(self, job: Job) -> Iterator[Reason]:
        present = self._roster.present()
        of_queue = [crew for crew in present if job.queue in crew.queues]
        if not of_queue:
            text = f"no worker that lives takes jobs of queue {job.queue!r}"
            if not present:
                text = "no worker lives; `queue-max worker` starts one"
            yield Reason(Kind.NO_WORKER, text, {"queue": job.queue, "workers": len(present)})
            return
        gate = gate_of_job(job)
        if gate != job.held_by and not any(gate in crew.abilities for crew in of_queue):
            yield _unknown(job)


def _scopes(job: Job) -> list[str]:
    keys = [] if job.rate_key is None else [scopes.of_key(job.rate_key)]
    tasks = [] if job.task is None else [scopes.of_task(job.task)]
    return [*keys, *tasks, scopes.of_queue(job.queue), ALL]


def _ended(job: Job) -> Reason:
    facts = {"status": job.status_str, "at": job.completed_at, "error": job.last_error}
    because = f": {job.last_error}" if job.last_error and not job.is_completed else ""
    return Reason(
        Kind.ENDED, f"it has ended, {job.status_str} at {job.completed_at}{because}", facts
    )


def _unknown(job: Job) -> Reason:
    gate = gate_of_job(job)
    text = f"it waits for {missing(gate)}; {remedy(gate)}"
    return Reason(Kind.UNKNOWN_TASK, text, {"task": job.task})


def _ahead(job: Job, ahead: int) -> Reason:
    number = f"{ahead}" if ahead < COUNTED else f"{COUNTED:,} or more"
    text = f"{number} job(s) are before it in queue {job.queue!r} of its shard"
    return Reason(Kind.AHEAD, text, {"ahead": ahead, "queue": job.queue})


def _moment(now: datetime, seconds: float) -> str:
    return to_text(later(now, seconds))
