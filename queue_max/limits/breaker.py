"""A circuit breaker as it is stored, so that all processes share it: a state and its changes."""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple, Self

from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import NANOSECONDS

DEFAULT_BREAKER = "default"
"""The one that all jobs are behind."""


class Terms(NamedTuple):
    """When a breaker opens, and for how long."""

    threshold: float = 5
    """Failures in a row; infinity for never."""
    timeout: float = 60.0
    """Seconds before an open one lets a probe pass."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker; times are nanoseconds of the clock that all who share it go by.

    It is the pattern that `CircuitBreaker` describes. While it is half open, one run of a job is
    the probe, and none passes beside it. A probe speaks only for the generation under which it
    was let through, and one that nobody hears of is given up at `probe_until`: so a probe that is
    killed leaves nothing stuck, and a success of long ago closes nothing.
    """

    name: str
    state: CircuitState = CircuitState.CLOSED
    failures: int = 0
    """In a row."""
    generation: int = 0
    changed_at: datetime | None = None
    probe_at: int | None = 0
    """From when on a probe may pass; None: not before it is closed by hand."""
    probe: str | None = None
    """The run that is the probe."""
    probe_until: int = 0
    last_error: str | None = None

    @property
    def is_content(self) -> bool:
        """Whether a success would change nothing."""
        return self.state is CircuitState.CLOSED and not self.failures

    def opens_in(self, now: int) -> float:
        """Tell in how many seconds a job may pass, at the latest; 0.0 for now, inf for unknown."""
        if self.state is CircuitState.CLOSED:
            return 0.0
        at = self.probe_at
        if self.state is CircuitState.HALF_OPEN and self.probe is not None:
            at = self.probe_until
        return math.inf if at is None else max(0, at - now) / NANOSECONDS

    def failed(self, terms: Terms, now: int, error: str | None = None) -> Self:
        """Count a failure of a job that is not the probe; open when there are too many."""
        if self.state is not CircuitState.CLOSED:
            return self
        counted = replace(self, failures=self.failures + 1, last_error=error)
        return counted._open(terms, now) if counted.failures >= terms.threshold else counted

    def succeeded(self) -> Self:
        """Forgive the failures of a closed one; any other was not meant."""
        return self if self.state is not CircuitState.CLOSED else replace(self, failures=0)

    def probed(self, run: str, now: int, until: int) -> Self | None:
        """Let a run pass as the probe; None when it may not, now."""
        if self.state is CircuitState.CLOSED or self.opens_in(now) > 0:
            return None
        return replace(
            self._changed(CircuitState.HALF_OPEN), probe=run, probe_until=until, probe_at=now
        )

    def is_probed_by(self, run: str) -> bool:
        """Tell whether a run is the probe, and not given up."""
        return self.state is CircuitState.HALF_OPEN and self.probe == run

    def probe_failed(self, terms: Terms, now: int, error: str | None = None) -> Self:
        """Open again, for the probe has failed."""
        return replace(self, failures=self.failures + 1, last_error=error)._open(terms, now)

    def closed(self) -> Self:
        """Close it, and forget its failures."""
        if self.is_content:
            return self
        return replace(self._changed(CircuitState.CLOSED), failures=0, probe=None, last_error=None)

    def released(self, now: int) -> Self:
        """Let another probe pass, for this one said nothing."""
        return replace(self, probe=None, probe_at=now)

    def opened(self, now: int, seconds: float | None) -> Self:
        """Open it by hand: for some time, or until it is closed by hand."""
        at = None if seconds is None else now + round(seconds * NANOSECONDS)
        return replace(self._changed(CircuitState.OPEN), probe=None, probe_at=at)

    def _open(self, terms: Terms, now: int) -> Self:
        return self.opened(now, terms.timeout)

    def _changed(self, state: CircuitState) -> Self:
        return replace(self, state=state, generation=self.generation + 1)
