"""Circuit breakers that all processes share, and that outlive them."""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from queue_max import forking
from queue_max.domain.events import Events
from queue_max.domain.failures import in_words
from queue_max.domain.job import Lease
from queue_max.exceptions import ShardError
from queue_max.limits.breaker import Breaker
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import NANOSECONDS
from queue_max.repositories.control import Control, ControlUnit
from queue_max.services.breaker_rules import BreakerRules
from queue_max.services.controls import Controls
from queue_max.storage.ticks import nanoseconds

logger = logging.getLogger(__name__)

LONGEST_ERROR = 500
"""Characters that are kept of the last error."""

PATIENCE = 1.0
"""Seconds to wait for the control database: whoever does has jobs to see to."""

UNTIL_WRITTEN = 0.02
"""Seconds in which failures that open a breaker are written, about."""


@dataclass(frozen=True, slots=True)
class _Success:
    pass


@dataclass(frozen=True, slots=True)
class _Failure:
    lease: Lease
    error: str
    generation: int
    """Of the breaker, as it was when the job failed."""


class Unwritten:
    """Failures of jobs, from their end until they are written: until then none is counted.

    Each speaks for its breaker as it was when the job failed. One that has been opened and closed
    again until then is not to count it.
    """

    def __init__(self) -> None:
        self._of_run: dict[Lease, tuple[str, int]] = {}
        self._failures: Counter[tuple[str, int]] = Counter()
        self._lock = forking.lock()

    def __bool__(self) -> bool:
        return bool(self._of_run)

    def count(self, name: str, generation: int) -> int:
        """Tell how many there are."""
        return self._failures[name, generation] if self._failures else 0

    def add(self, lease: Lease, name: str, generation: int) -> None:
        """Note one more."""
        with self._lock:
            self._of_run[lease] = name, generation
            self._failures[name, generation] += 1

    def generation(self, lease: Lease) -> int | None:
        """Tell for which generation of its breaker a failure speaks; None for one not noted."""
        found = self._of_run.get(lease)
        return None if found is None else found[1]

    def remove(self, lease: Lease) -> None:
        """Note that one was written, or never will be."""
        with self._lock:
            found = self._of_run.pop(lease, None)
            if found is None:
                return
            self._failures[found] -= 1
            if not self._failures[found]:
                del self._failures[found]

    def clear(self) -> None:
        """Forget all."""
        self._of_run.clear()
        self._failures.clear()


class Breakers:
    """Lets jobs pass the breakers of a queue, and counts how they ended.

    Each breaker stops the jobs that are behind it, in all processes, after so many failures of
    them in a row, and lets one through now and then as a probe; see `CircuitBreaker`.
    """

    def __init__(
        self,
        control: Control,
        controls: Controls,
        events: Events,
        rules: BreakerRules,
        lease_seconds: float,
        clock: Callable[[], int] = nanoseconds,
    ) -> None:
        self._control = control
        self._controls = controls
        self._events = events
        self._rules = rules
        self._lease = round(lease_seconds * NANOSECONDS)
        self._clock = clock
        self._lock = forking.lock()
        self._outcomes: dict[str, list[_Success | _Failure]] = defaultdict(list)
        self._probes: dict[Lease, tuple[str, ...]] = {}
        self.unwritten = Unwritten()
        """Failures that are not counted yet: no more jobs are to fail than open a breaker."""
        forking.in_child(self._forget)

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

    def probe(self, name: str, lease: Lease) -> bool:
        """Let a job pass a breaker that is not closed, as its one probe; False when it may not."""
        if self.wait(name):
            return False
        run = _run(lease)

        def begin(breaker: Breaker, now: int) -> Breaker:
            return breaker.probed(run, now, now + self._lease) or breaker

        try:
            changed = self.change(name, begin, "a probe passes")
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
        # What was noted when the job failed counts: whoever tells is asked but once.
        generation = self.unwritten.generation(lease)
        if generation is None and not self._rules.does_count(name, error):
            self.released(lease)
            return
        text = in_words(error)[:LONGEST_ERROR]
        terms = self._rules.terms(name)
        if self._is_probe(lease):

            def end(breaker: Breaker, now: int) -> Breaker:
                if breaker.name != name:  # it was let through there, too, and says nothing of it
                    return breaker.released(now)
                return breaker.probe_failed(terms, now, text)

            self._end_probe(lease, end, "its probe failed")
            self.unwritten.remove(lease)
        elif terms.threshold == math.inf:
            self.unwritten.remove(lease)
        else:
            if generation is None:
                generation = generation_of(self.known(name))
            with self._lock:
                self._outcomes[name].append(_Failure(lease, text, generation))

    def released(self, lease: Lease) -> None:
        """Note that a job ended without an outcome: if it was the probe, another one may go."""
        if self._is_probe(lease):
            self._end_probe(lease, lambda breaker, now: breaker.released(now), "its probe is gone")

    def died(self, lease: Lease) -> None:
        """Note that the worker of a job died: if the job was a probe, another one may go."""
        run = _run(lease)
        # Anew: it may have been let through, and have died, since the last look.
        for breaker in list(self._controls.refresh().breakers.values()):
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
                    self.unwritten.remove(outcome.lease)

    def renew(self) -> None:
        """Let others know that the probes of this process still run."""
        probes = [(lease, name) for lease, names in self._probes.items() for name in names]
        for lease, name in probes:
            run = _run(lease)

            def renew(breaker: Breaker, now: int, run: str = run) -> Breaker:
                if not breaker.is_probed_by(run):
                    return breaker
                return replace(breaker, probe_until=now + self._lease)

            with suppress(ShardError):  # another try follows
                self.change(name, renew, "")

    def opens_in(self, breaker: Breaker) -> float:
        """Tell in how many seconds a job may pass a breaker; infinity where that is not known."""
        return breaker.opens_in(self._clock())

    def change(
        self,
        name: str,
        change: Callable[[Breaker, int], Breaker],
        reason: str,
        wait: float | None = PATIENCE,
    ) -> Breaker:
        """Store what becomes of a breaker, and tell of it once that is committed.

        `wait` is for how many seconds to wait for the control database; after that, ShardError.
        """
        with self._control.noting(wait) as unit:
            before = unit.breakers.hold(name)
            after = self._store(unit, before, change(before, unit.ticks.now))
        self._controls.put(after)
        if after.state is not before.state:
            self._tell(before, after, reason)
        return after

    def _count(self, name: str, outcomes: Iterable[_Success | _Failure]) -> None:
        terms = self._rules.terms(name)

        def count(breaker: Breaker, now: int) -> Breaker:
            for outcome in outcomes:
                match outcome:
                    case _Success():
                        breaker = breaker.succeeded()
                    case _Failure(_, error, generation) if generation == breaker.generation:
                        breaker = breaker.failed(terms, now, error)
            return breaker

        self.change(name, count, f"{terms.threshold} failures in a row")

    def _is_about_to_open(self, name: str, found: Breaker | None) -> bool:
        if not self.unwritten:
            return False
        known = found or Breaker(name)
        failures = self.unwritten.count(name, known.generation) + known.failures
        return failures >= self._rules.terms(name).threshold

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
                self.change(name, end, reason)
            except ShardError as error:
                logger.warning("breaker %s waits for its probe to be given up: %s", name, error)

    def _store(self, unit: ControlUnit, before: Breaker, after: Breaker) -> Breaker:
        if after == before:
            return before
        return unit.breakers.store(after, has_changed=after.state is not before.state)

    def _tell(self, before: Breaker, after: Breaker, reason: str) -> None:
        is_open = after.state is CircuitState.OPEN
        logger.log(
            logging.WARNING if is_open and after.last_error else logging.INFO,
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

    def _forget(self) -> None:
        """Hold nothing in a child of fork: the jobs run in the parent."""
        self._outcomes.clear()
        self._probes.clear()
        self.unwritten.clear()


def generation_of(known: Breaker | None) -> int:
    """Tell for which generation of a breaker a job speaks that fails now."""
    return 0 if known is None else known.generation


def _run(lease: Lease) -> str:
    return f"{lease.shard_id}-{lease.job_id}-{lease.fence}"
