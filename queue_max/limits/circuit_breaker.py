"""A circuit breaker that keeps work away from something that fails."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar

from queue_max import checks, forking
from queue_max.exceptions import CircuitBreakerOpenError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class CircuitState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Guard(ABC):
    """Something that calls are made through, and that stops them."""

    @property
    @abstractmethod
    def state(self) -> CircuitState:
        """Whether calls pass."""

    @abstractmethod
    def is_allowed(self) -> bool:
        """Ask to pass; whoever is told True must report the outcome, or `release()`."""

    @abstractmethod
    def get_retry_after(self) -> float:
        """Return the seconds until a call may pass, at the latest; 0.0 if one may now."""

    @abstractmethod
    def record_success(self) -> None:
        """Report that a call worked."""

    @abstractmethod
    def record_failure(self, error: BaseException | None = None) -> None:
        """Report that a call failed."""

    @abstractmethod
    def release(self) -> None:
        """Give back a pass that was not used."""

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `func`, report its outcome, and return what it returned or raise what it raised.

        If the call may not pass, CircuitBreakerOpenError is raised; its `retry_after` says in how
        many seconds one may. KeyboardInterrupt and the like are neither success nor failure.
        """
        if not self.is_allowed():
            wait = self.get_retry_after()
            raise CircuitBreakerOpenError(
                f"the circuit is {self.state.replace('_', '-')}: a call may pass in {wait:.3f} s",
                retry_after=wait,
            )
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            self.record_failure(error)
            raise
        except BaseException:
            self.release()
            raise
        self.record_success()
        return result


class CircuitBreaker(Guard):
    """Stops calls after failures in a row, and lets one through now and then as a probe.

    It is the pattern of M. T. Nygard, "Release It!" (2007), as M. Fowler describes it in
    "CircuitBreaker" (martinfowler.com, 2014). Closed, the circuit lets all calls pass; after
    `failure_threshold` consecutive failures it is open and lets none. `recovery_timeout` seconds
    later whoever asks first makes it half-open and passes, as the probe: its success closes the
    circuit, its failure opens it anew. A probe that reports nothing for `recovery_timeout`
    seconds is replaced by another, so that the circuit cannot stay half-open for ever.

    - `failure_threshold` is a whole number of at least 1, or `math.inf` never to open.
    - `recovery_timeout` is more than 0 seconds.
    - `on_state_change` is called with the old and the new state after each change, in the thread
      that caused it and without a lock held; what it raises is logged.
    - `failure_predicate` says whether an error counts as a failure; None means that each does.
      If it raises, that is logged and the error counts.
    - `clock` tells seconds that never run backwards.

    Any other value raises ConfigurationError.
    """

    def __init__(
        self,
        failure_threshold: float = 5,
        recovery_timeout: float = 60.0,
        on_state_change: Callable[[CircuitState, CircuitState], object] | None = None,
        failure_predicate: Callable[[BaseException], bool] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if on_state_change is not None:
            checks.function("on_state_change", on_state_change)
        if failure_predicate is not None:
            checks.function("failure_predicate", failure_predicate)
        self._failure_threshold = checks.limit("failure_threshold", failure_threshold)
        self._recovery_timeout = checks.seconds("recovery_timeout", recovery_timeout)
        self._on_state_change = on_state_change
        self._failure_predicate = failure_predicate
        self._clock = clock
        self._lock = forking.lock()
        self._state = CircuitState.CLOSED
        self._failure_count = 0
        self._opened_at = 0.0
        self._probe_due = 0.0  # from when a probe may pass, unless the circuit is closed
        self._rejected_count = 0
        self._state_change_count = 0
        self._open_seconds = 0.0

    @property
    def state(self) -> CircuitState:
        """The present state; an open circuit stays open until somebody asks to pass."""
        return self._state

    @property
    def is_content(self) -> bool:
        """Whether a success would change nothing: the circuit is closed, without failures."""
        return self._state is CircuitState.CLOSED and not self._failure_count

    @property
    def probe_in_flight(self) -> bool:
        """Whether a probe is out whose result may still come."""
        with self._lock:
            return self._awaits_probe(self._clock())

    def is_allowed(self) -> bool:
        """Ask to pass; whoever is told True must report the outcome, or `release()`."""
        if self.state is CircuitState.CLOSED:  # nearly always, and then no lock is needed
            return True
        with self._transition() as now:
            if self._state is CircuitState.CLOSED:
                return True
            if now < self._probe_due:
                self._rejected_count += 1
                return False
            self._state = CircuitState.HALF_OPEN
            self._probe_due = now + self._recovery_timeout
            return True

    def record_success(self) -> None:
        """Report that a call worked, which closes a half-open circuit and forgives failures.

        An open circuit ignores it: that call began before the circuit opened.
        """
        if self.is_content:
            return
        with self._transition():
            if self._state is not CircuitState.OPEN:
                self._close()

    def record_failure(self, error: BaseException | None = None) -> None:
        """Report that a call failed; an error that does not count only releases the probe.

        An open circuit ignores it, and stays open no longer for it.
        """
        if not self._counts(error):
            self.release()
            return
        with self._transition() as now:
            if self._state is not CircuitState.OPEN:
                self._failure_count += 1
                # Half-open, the failures that opened it still count: this one opens it again.
                if self._failure_count >= self._failure_threshold:
                    self._open(now)

    def release(self) -> None:
        """Give back a pass that was not used; if it was the probe's, the next caller gets it."""
        with self._transition() as now:
            if self._state is CircuitState.HALF_OPEN:
                self._probe_due = now

    def reset(self) -> None:
        """Close the circuit and forget its failures; the totals of `get_stats()` remain."""
        with self._transition():
            self._close()

    def get_retry_after(self) -> float:
        """Return the seconds until a call may pass, at the latest; 0.0 if one may now."""
        with self._lock:
            return self._retry_after(self._clock())

    def get_stats(self) -> dict[str, Any]:
        """Return settings, the present state and totals, all of one moment; times in seconds."""
        with self._lock:
            now = self._clock()
            return {
                "state": self._state.value,
                "failure_count": self._failure_count,
                "failure_threshold": self._failure_threshold,
                "recovery_timeout": self._recovery_timeout,
                "recovery_remaining": self._retry_after(now),
                "rejected_count": self._rejected_count,
                "total_time_open_seconds": self._time_open(now),
                "state_change_count": self._state_change_count,
                "probe_in_flight": self._awaits_probe(now),
            }

    @contextmanager
    def _transition(self) -> Iterator[float]:
        """Yield the time, under the lock; account for a change of state, and tell of it after."""
        with self._lock:
            now, old = self._clock(), self._state
            yield now
            new = self._state
            if new is not old:
                self._account_for_change(old, now)
        if new is not old:
            self._notify(old, new)

    def _account_for_change(self, old: CircuitState, now: float) -> None:
        self._state_change_count += 1
        if old is CircuitState.OPEN:
            self._open_seconds += now - self._opened_at

    def _notify(self, old: CircuitState, new: CircuitState) -> None:
        logger.log(
            logging.WARNING if new is CircuitState.OPEN else logging.INFO,
            "the circuit, %s before, is %s now",
            old,
            new,
        )
        if self._on_state_change is None:
            return
        try:
            self._on_state_change(old, new)
        except Exception:
            logger.exception("on_state_change(%s, %s) failed", old, new)

    def _open(self, now: float) -> None:
        self._state = CircuitState.OPEN
        self._opened_at = now
        self._probe_due = now + self._recovery_timeout

    def _close(self) -> None:
        self._state = CircuitState.CLOSED
        self._failure_count = 0

    def _retry_after(self, now: float) -> float:
        if self._state is CircuitState.CLOSED:
            return 0.0
        return max(0.0, self._probe_due - now)

    def _awaits_probe(self, now: float) -> bool:
        return self._state is CircuitState.HALF_OPEN and now < self._probe_due

    def _time_open(self, now: float) -> float:
        if self._state is CircuitState.OPEN:
            return self._open_seconds + now - self._opened_at
        return self._open_seconds

    def _counts(self, error: BaseException | None) -> bool:
        if self._failure_predicate is None or error is None:
            return True
        try:
            return self._failure_predicate(error)
        except Exception:
            logger.exception("failure_predicate failed for %r, which counts as a failure", error)
            return True
