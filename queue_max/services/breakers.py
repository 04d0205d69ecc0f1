"""Circuit breakers that all processes share, and that outlive them."""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from queue_max import checks, forking
from queue_max.domain.events import Events
from queue_max.domain.failures import is_callers_fault
from queue_max.domain.job import Lease
from queue_max.exceptions import ConfigurationError, ShardError
from queue_max.limits.breaker import DEFAULT_BREAKER, Breaker, Terms
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import NANOSECONDS
from queue_max.repositories.control import Control, ControlUnit
from queue_max.services.controls import Controls
from queue_max.storage.ticks import nanoseconds

logger = logging.getLogger(__name__)

LONGEST_NAME = 255

UNTIL_WRITTEN = 0.02
"""Seconds in which failures that open a breaker are written, about."""

Counts = Callable[[BaseException], bool]


@dataclass(frozen=True, slots=True)
class _Success:
    pass


@dataclass(frozen=True, slots=True)
class _Failure:
    error: str


class Breakers:
    """Reads, opens, closes and resets the breakers of a queue.

    Each stops the jobs that are behind it, in all processes, after so many failures of them in a
    row, and lets one through now and then as a probe; see `CircuitBreaker`. All jobs are behind
    the one called "default"; those that name another are behind that, too, and only that one
    counts how they end.
    """

    def __init__(
        self,
        control: Control,
        controls: Controls,
        events: Events,
        terms: Terms,
        lease_seconds: float,
        clock: Callable[[], int] = nanoseconds,
    ) -> None:
        self._control = control
        self._controls = controls
        self._events = events
        self._terms = terms
        self._own_terms: dict[str, Terms] = {}
        self._own_counts: dict[str, Counts] = {}
        self._lease = round(lease_seconds * NANOSECONDS)
        self._clock = clock
        self._lock = forking.lock()
        self._outcomes: dict[str, list[_Success | _Failure]] = defaultdict(list)
        self._probes: dict[Lease, tuple[str, ...]] = {}
        self._failing: Counter[str] = Counter()
        forking.in_child(self._forget)

    # For users

    def define(
        self,
        name: str,
        *,
        failure_threshold: float | None = None,
        recovery_timeout: float | None = None,
        counts: Counts | None = None,
    ) -> None:
        """Say how a breaker works in this process; each one that has workers has to say so.

        `failure_threshold` failures in a row open it (CIRCUIT_FAILURE_THRESHOLD, 5), infinity
        never; `recovery_timeout` seconds later a probe may pass (CIRCUIT_TIMEOUT, 60).
        `counts(error)` tells whether an error counts as a failure: all do, but those of the job
        itself, as HTTP's 4xx other than 429.
        """
        name = _checked(name)
        threshold, timeout = (
            self._terms
            if failure_threshold is None
            else (
                checks.limit("failure_threshold", failure_threshold),
                self._terms.timeout,
            )
        )
        if recovery_timeout is not None:
            timeout = checks.seconds("recovery_timeout", recovery_timeout)
        self._own_terms[name] = Terms(threshold, timeout)
        if counts is not None:
            checks.function("counts", counts)
            self._own_counts[name] = counts

    def list(self) -> Mapping[str, Breaker]:
        """Read all breakers that have ever counted a failure, or were opened by hand, by name."""
        with self._control.reading() as unit:
            return unit.breakers.list()

    def get(self, name: str = DEFAULT_BREAKER) -> Breaker:
        """Read one; one that nobody knows of is closed."""
        return self.list().get(_checked(name)) or Breaker(name)

    def open(self, name: str = DEFAULT_BREAKER, seconds: float | None = None) -> Breaker:
        """Hold back what is behind a breaker: for so many seconds, or until it is closed by hand.

        After that time, a probe passes.
        """
        if seconds is not None:
            seconds = checks.seconds("seconds", seconds)
        return self._change(
            _checked(name), lambda each, now: each.opened(now, seconds), "opened by hand"
        )

    def close(self, name: str = DEFAULT_BREAKER) -> Breaker:
        """Let pass what is behind a breaker, and forget its failures."""
        return self._change(_checked(name), lambda each, _now: each.closed(), "closed by hand")

    reset = close

    def terms(self, name: str) -> Terms:
        """Tell when a breaker opens, in this process, and for how long."""
        return self._own_terms.get(name, self._terms)

    def seconds_until_probe(self, breaker: Breaker) -> float:
        """Tell in how many seconds a probe may pass; infinity where that is not known."""
        return breaker.opens_in(self._clock())

    # For jobs

    def known(self, name: str) -> Breaker | None:
        """Give a breaker as it was a moment ago; None for one that is closed."""
        return self._controls.now().breakers.get(name)

    def wait(self, name: str) -> float:
        """Tell in how many seconds a job that is behind it may start; 0.0 for now."""
        found = self.known(name)
        if found is None or found.state is CircuitState.CLOSED:
            return UNTIL_WRITTEN if self._is_about_to_open(name, found) else 0.0
        return found.opens_in(self._clock())

    def is_closed(self, name: str) -> bool:
        """Tell whether any number of jobs may pass."""
        found = self.known(name)
        if found is None or found.state is CircuitState.CLOSED:
            return not self._is_about_to_open(name, found)
        return False

    @property
    def has_failing(self) -> bool:
        """Whether there are failures that are not written yet."""
        return bool(self._failing)

    def fails(self, name: str, error: BaseException) -> None:
        """Note that a job failed whose failure is not written yet; `failed` or `lost` follows."""
        if self._does_count(name, error):
            with self._lock:
                self._failing[name] += 1

    def lost(self, name: str, error: BaseException) -> None:
        """Note that such a failure was not written, for the job has another worker now."""
        if self._does_count(name, error):
            self._is_written(name)

    def probe(self, name: str, lease: Lease) -> bool:
        """Let a job pass a breaker that is not closed, as its one probe; False when it may not."""
        if self.wait(name):
            return False
        run = _run(lease)

        def begin(breaker: Breaker, now: int) -> Breaker:
            return breaker.probed(run, now, now + self._lease) or breaker

        try:
            changed = self._change(name, begin, "a probe passes")
        except ShardError as error:
            logger.warning("no probe passes breaker %s now: %s", name, error)
            return False
        if changed.state is CircuitState.CLOSED:
            return True
        if not changed.is_probed_by(run):
            return False
        with self._lock:
            self._probes[lease] = (*self._probes.get(lease, ()), name)
        return True

    def succeeded(self, name: str, lease: Lease) -> None:
        """Note that a job which is behind a breaker is done."""
        found = self.known(name)
        if not self._outcomes and not self._probes and (found is None or found.is_content):
            return
        if self._is_probe(lease):
            self._end_probe(lease, lambda breaker, _now: breaker.closed(), "its probe was done")
            return
        with self._lock:
            if name in self._outcomes or (found is not None and not found.is_content):
                self._outcomes[name].append(_Success())

    def failed(self, name: str, lease: Lease, error: BaseException | str) -> None:
        """Note that a job which is behind a breaker failed; its own fault counts for nothing."""
        if not self._does_count(name, error):
            self.released(lease)
            return
        text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        text = text[:500]
        terms = self.terms(name)
        if self._is_probe(lease):
            self._end_probe(
                lease, lambda each, now: each.probe_failed(terms, now, text), "its probe failed"
            )
            self._is_written(name)
        elif terms.threshold == math.inf:
            self._is_written(name)
        else:
            with self._lock:
                self._outcomes[name].append(_Failure(text))

    def released(self, lease: Lease) -> None:
        """Note that a job ended without an outcome: if it was the probe, another one may go."""
        if self._is_probe(lease):
            self._end_probe(lease, lambda breaker, now: breaker.released(now), "its probe is gone")

    def died(self, lease: Lease) -> None:
        """Note that the worker of a job died: if the job was a probe, another one may go."""
        run = _run(lease)
        for breaker in list(self._controls.now().breakers.values()):
            if breaker.is_probed_by(run):
                with self._lock:
                    self._probes[lease] = (breaker.name,)
                self.released(lease)

    def flush(self) -> None:
        """Store what was noted."""
        if not self._outcomes:
            return
        with self._lock:
            noted, self._outcomes = self._outcomes, defaultdict(list)
        for name, outcomes in noted.items():
            try:
                self._count(name, outcomes)
            except ShardError as error:
                logger.warning("breaker %s has not counted: %s", name, error)
            for outcome in outcomes:
                if isinstance(outcome, _Failure):
                    self._is_written(name)

    def renew(self) -> None:
        """Let others know that the probes of this process still run."""
        probes = [(lease, name) for lease, names in self._probes.items() for name in names]
        for lease, name in probes:
            run = _run(lease)

            def renew(breaker: Breaker, now: int, run: str = run) -> Breaker:
                if not breaker.is_probed_by(run):
                    return breaker
                return replace(breaker, probe_until=now + self._lease)

            self._change(name, renew, "")

    def _count(self, name: str, outcomes: Iterable[_Success | _Failure]) -> None:
        terms = self.terms(name)

        def count(breaker: Breaker, now: int) -> Breaker:
            for outcome in outcomes:
                match outcome:
                    case _Success():
                        breaker = breaker.succeeded()
                    case _Failure(error):
                        breaker = breaker.failed(terms, now, error)
            return breaker

        self._change(name, count, f"{terms.threshold} failures in a row")

    def _is_written(self, name: str) -> None:
        with self._lock:
            if self._failing[name] > 1:
                self._failing[name] -= 1
            else:
                del self._failing[name]

    def _is_about_to_open(self, name: str, found: Breaker | None) -> bool:
        if not self._failing:
            return False
        failures = self._failing[name] + (0 if found is None else found.failures)
        return failures >= self.terms(name).threshold

    def _is_probe(self, lease: Lease) -> bool:
        return bool(self._probes) and lease in self._probes

    def _end_probe(
        self, lease: Lease, change: Callable[[Breaker, int], Breaker], reason: str
    ) -> None:
        with self._lock:
            names = self._probes.pop(lease, ())
        run = _run(lease)

        def end(breaker: Breaker, now: int) -> Breaker:
            return change(breaker, now) if breaker.is_probed_by(run) else breaker

        for name in names:
            try:
                self._change(name, end, reason)
            except ShardError as error:
                logger.warning("breaker %s waits for its probe to be given up: %s", name, error)

    def _change(self, name: str, change: Callable[[Breaker, int], Breaker], reason: str) -> Breaker:
        """Store what becomes of a breaker, and tell of it once that is committed."""
        with self._control.noting() as unit:
            before = unit.breakers.hold(name)
            after = self._store(unit, before, change(before, unit.ticks.now))
        self._controls.put(after)
        if after.state is not before.state:
            self._tell(before, after, reason)
        return after

    def _store(self, unit: ControlUnit, before: Breaker, after: Breaker) -> Breaker:
        if after == before:
            return before
        return unit.breakers.store(after, has_changed=after.state is not before.state)

    def _tell(self, before: Breaker, after: Breaker, reason: str) -> None:
        is_open = after.state is CircuitState.OPEN
        logger.log(
            logging.WARNING if is_open else logging.INFO,
            "breaker %s, %s before, is %s now: %s%s",
            after.name,
            before.state,
            after.state,
            reason,
            f", the last one: {after.last_error}" if is_open and after.last_error else "",
        )
        match after.state:
            case CircuitState.OPEN:
                self._events.publish(
                    "circuit_opened",
                    name=after.name,
                    failures=after.failures,
                    error=after.last_error,
                )
            case CircuitState.CLOSED:
                self._events.publish("circuit_closed", name=after.name)
            case CircuitState.HALF_OPEN:
                return

    def _does_count(self, name: str, error: BaseException | str) -> bool:
        if isinstance(error, str):
            return True
        counts = self._own_counts.get(name)
        if counts is None:
            return not is_callers_fault(error)
        try:
            return bool(counts(error))
        except Exception:
            logger.exception("counts of breaker %s failed for %r, which counts", name, error)
            return True

    def _forget(self) -> None:
        """Hold nothing in a child of fork: the jobs run in the parent."""
        self._outcomes.clear()
        self._probes.clear()
        self._failing.clear()


def _run(lease: Lease) -> str:
    return f"{lease.shard_id}-{lease.job_id}-{lease.fence}"


def _checked(name: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"breaker={checks.shown(name)}: should be a str of 1 to {LONGEST_NAME} printable "
            "characters"
        )
    return name
