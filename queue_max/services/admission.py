"""The gates a job passes before it starts: the circuit breaker, then the rate limiter."""

import math
from dataclasses import dataclass

from queue_max import forking
from queue_max.domain.failures import is_callers_fault
from queue_max.domain.job import Lease
from queue_max.exceptions import RateLimitError
from queue_max.limits.circuit_breaker import CircuitBreaker, CircuitState
from queue_max.limits.rate_limiter import RateLimiter


@dataclass(frozen=True, slots=True)
class Permit:
    """What a job needs to start: a token, and a way through the circuit."""

    is_probe: bool
    """Whether the circuit is half open, and this job is to try it."""


_ORDINARY, _PROBE = Permit(is_probe=False), Permit(is_probe=True)


class Admission:
    """Lets jobs start, and lets the breaker know how they ended.

    While the circuit is half open only its probes speak for it (a second one goes when the first
    takes longer than the recovery timeout): other jobs, begun before it
    opened, may still end well or badly, and say nothing about now.
    """

    def __init__(self, limiter: RateLimiter, breaker: CircuitBreaker) -> None:
        self._limiter = limiter
        self._breaker = breaker
        self._probes: set[Lease] = set()
        self._lock = forking.lock()

    def admit(self, patience: float) -> Permit | None:
        """Take what one job needs to start; waits up to `patience` seconds for a token."""
        if not self._breaker.is_allowed():
            return None
        is_probe = self._breaker.state is CircuitState.HALF_OPEN
        if self._has_token(patience):
            return _PROBE if is_probe else _ORDINARY
        if is_probe:
            self._breaker.release()
        return None

    def withdraw(self, permit: Permit) -> None:
        """Give back what was taken: there was no job after all."""
        self._limiter.give_back()
        self._release(permit)

    def started(self, lease: Lease, permit: Permit) -> None:
        """Note the job that was admitted."""
        if permit.is_probe:
            with self._lock:
                self._probes.add(lease)

    def succeeded(self, lease: Lease) -> None:
        """Tell the breaker that a job is done."""
        if self._breaker.is_content:  # as nearly always
            return
        if self._speaks_for_circuit(lease):
            self._breaker.record_success()
            self._forget_probes()

    def failed(self, lease: Lease, error: BaseException | str) -> None:
        """Tell the breaker that a job failed; its own fault counts for nothing."""
        if not self._speaks_for_circuit(lease):
            return
        if isinstance(error, BaseException) and is_callers_fault(error):
            self._breaker.release()
        else:
            self._breaker.record_failure()
            self._forget_probes()

    def handed_back(self, lease: Lease) -> None:
        """Note that a job ended without an outcome: if it was the probe, another one may go."""
        if self._speaks_for_circuit(lease):
            self._breaker.release()

    def allowance(self, queue: str) -> float:
        """Tell how many jobs of a queue could be admitted now; inf where nothing limits them."""
        if self._breaker.state is not CircuitState.CLOSED:
            return 1 if self._breaker.get_retry_after() == 0 else 0
        tokens = self._limiter.get_remaining_tokens()
        return tokens if tokens == math.inf else math.floor(tokens)

    def wait(self, queue: str) -> float:
        """Tell in how many seconds a job of a queue could be admitted; 0 for now."""
        return max(self._limiter.get_retry_after(), self._breaker.get_retry_after())

    def _has_token(self, patience: float) -> bool:
        if not patience:
            return self._limiter.try_acquire()
        try:
            return self._limiter.acquire(timeout=patience)
        except RateLimitError:
            return False

    def _release(self, permit: Permit) -> None:
        if permit.is_probe:
            self._breaker.release()

    def _forget_probes(self) -> None:
        """Let no probe that is still out speak for what the circuit has become."""
        with self._lock:
            self._probes.clear()

    def _speaks_for_circuit(self, lease: Lease) -> bool:
        if self._breaker.state is CircuitState.CLOSED:
            return True
        with self._lock:
            is_probe = lease in self._probes
            self._probes.discard(lease)
            return is_probe
