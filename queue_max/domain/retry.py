"""The verdict on an attempt that failed, or asked for another time."""

import json
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from queue_max import checks
from queue_max.domain.failures import is_retryable_error, retry_after
from queue_max.domain.job import Job
from queue_max.exceptions import Cancel, ConfigurationError, Permanent, Retry, Snooze

logger = logging.getLogger(__name__)

CAP = 3600.0
"""Seconds that a wait lasts at most, unless a policy says otherwise."""

JITTER = 0.2


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Run the job again after that many seconds."""

    wait: float
    is_counted: bool = True
    """Whether the attempt that has just ended was one."""


@dataclass(frozen=True, slots=True)
class Bury:
    """Give the job up, for a `reason` in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class CallOff:
    """End the job as cancelled, for a `reason` in words."""

    reason: str


Verdict = TryAgain | Bury | CallOff


def is_failure(verdict: Verdict) -> bool:
    """Tell whether an attempt counts as failed."""
    return isinstance(verdict, Bury) or (isinstance(verdict, TryAgain) and verdict.is_counted)


ErrorTypes = Iterable[type[BaseException] | str]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again a job that failed, and when not.

    Made by `exponential`, `linear`, `delays` or `function`. How many attempts there are is for
    `max_retries` to say. All take:

    - `retry_on`: types of exceptions, or their names; any other error buries the job at once.
    - `give_up_on`: those that bury it at once. Both include subclasses.
    - `cap`: seconds, the longest wait.
    - `jitter`: the share of a wait by which it is made longer or shorter by chance, so that jobs
      which failed together do not come back together (Marc Brooker, "Exponential Backoff And
      Jitter", AWS Architecture Blog, 2015).

    An HTTP error that says when to come back (Retry-After), or any with a `retry_after` in
    seconds, is obeyed where that is longer.
    """

    kind: Literal["exponential", "linear", "delays", "function"] = "exponential"
    base: float | None = None
    waits: tuple[float, ...] = ()
    cap: float = CAP
    jitter: float = JITTER
    retry_on: tuple[str, ...] = ()
    give_up_on: tuple[str, ...] = ()
    decide: Callable[[int, BaseException | str], float | None] | None = None

    @classmethod
    def exponential(cls, base: float | None = None, **options: Any) -> Self:
        """Wait `base` times 2 to the attempts made: 60 seconds give about 120 s, 240 s, 480 s.

        `base` is the job's `retry_delay` unless it is given.
        """
        return cls._checked("exponential", base=base, **options)

    @classmethod
    def linear(cls, step: float | None = None, **options: Any) -> Self:
        """Wait `step` seconds times the attempts made; the job's `retry_delay` by default."""
        return cls._checked("linear", base=step, **options)

    @classmethod
    def delays(cls, waits: Sequence[float], **options: Any) -> Self:
        """Wait these seconds one after the other; the last ones again for all further attempts."""
        return cls._checked("delays", waits=tuple(waits), **{"jitter": 0.0} | options)

    @classmethod
    def function(
        cls, decide: Callable[[int, BaseException | str], float | None], **options: Any
    ) -> Self:
        """Wait as many seconds as `decide(attempts, error)` says; None buries the job.

        Only for a queue: a job's own policy is stored, which a function cannot be.
        """
        if not callable(decide):
            raise ConfigurationError(f"decide={checks.shown(decide)}: cannot be called")
        return cls._checked("function", decide=decide, **{"jitter": 0.0} | options)

    @classmethod
    def _checked(  # noqa: PLR0913 - the options of all kinds
        cls,
        kind: Literal["exponential", "linear", "delays", "function"],
        base: float | None = None,
        waits: tuple[float, ...] = (),
        cap: float = CAP,
        jitter: float = JITTER,
        retry_on: ErrorTypes = (),
        give_up_on: ErrorTypes = (),
        decide: Callable[[int, BaseException | str], float | None] | None = None,
    ) -> Self:
        if base is not None:
            checks.seconds("base" if kind == "exponential" else "step", base, zero=True)
        if kind == "delays" and not waits:
            raise ConfigurationError("waits=(): should name at least one wait in seconds")
        for wait in waits:
            checks.seconds("waits", wait, zero=True)
        cap = checks.seconds("cap", cap, zero=True)
        if not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
            raise ConfigurationError(f"jitter={checks.shown(jitter)}: should be from 0 to 1")
        names = {"retry_on": _names(retry_on), "give_up_on": _names(give_up_on)}
        return cls(kind, base, waits, cap, jitter, decide=decide, **names)

    def judge(
        self,
        job: Job,
        error: BaseException | str,
        rng: random.Random,
        *,
        permanent: bool | None = None,
    ) -> Verdict:
        """Decide on a job whose attempt has just ended with that error.

        `permanent` None leaves it to the error whether another attempt may help.
        """
        match error:
            case Cancel():
                return CallOff(str(error))
            case Snooze(after=seconds):
                return TryAgain(seconds, is_counted=False)
            case Permanent():
                return Bury("permanent")
        if reason := self._objection(error, permanent):
            return Bury(reason)
        if job.attempts >= job.max_attempts:
            return Bury(f"{job.attempts} of {job.max_attempts} attempts made")
        if isinstance(error, Retry) and error.after is not None:
            return TryAgain(error.after)
        wait = self.delay(job, error, rng)
        if wait is None:
            return Bury("the retry policy gave up")
        return TryAgain(max(wait, retry_after(error)))

    def delay(self, job: Job, error: BaseException | str, rng: random.Random) -> float | None:
        """Give the seconds to wait, the jitter included and never more than `cap`; None: give up.

        A function that fails, or gives what is no time, is logged and has no say.
        """
        wait = self._wait(job, error)
        if wait is None:
            return None
        return min(wait * rng.uniform(1 - self.jitter, 1 + self.jitter), self.cap)

    def _wait(self, job: Job, error: BaseException | str) -> float | None:
        base = float(job.retry_delay) if self.base is None else self.base
        if self.decide is not None:
            try:
                decided = self.decide(job.attempts, error)
                return None if decided is None else checks.seconds("decide", decided, zero=True)
            except Exception:  # user code
                logger.exception("the retry function failed; job %s waits as by default", job.key)
        match self.kind:
            case "linear":
                return base * job.attempts
            case "delays":
                return self.waits[min(job.attempts, len(self.waits)) - 1]
            case _:
                # 2**40 s is beyond any cap; more would only overflow.
                return float(base * 2.0 ** min(job.attempts, 40))

    def to_json(self) -> str:
        """Write the policy for a job that is to keep it."""
        if self.decide is not None:
            raise ConfigurationError("a function cannot be stored with a job; give it to the queue")
        stored = {
            "kind": self.kind,
            "base": self.base,
            "waits": self.waits,
            "cap": self.cap,
            "jitter": self.jitter,
            "retry_on": self.retry_on,
            "give_up_on": self.give_up_on,
        }
        return json.dumps(stored, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a policy that was stored; raises ValueError when it is none."""
        try:
            stored = json.loads(text)
            if stored["kind"] not in {"exponential", "linear", "delays"}:
                raise ValueError(stored["kind"])
            lists = ("waits", "retry_on", "give_up_on")
            return cls._checked(**stored | {name: tuple(stored[name]) for name in lists})
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"no retry policy: {checks.shown(text)}") from error

    def _objection(self, error: BaseException | str, permanent: bool | None) -> str | None:
        """Tell why another attempt would not help; None when it may."""
        if isinstance(error, str | Retry):
            return "permanent" if permanent else None
        names = {name for kind in type(error).__mro__ for name in _names([kind, kind.__name__])}
        if gave_up := names.intersection(self.give_up_on):
            return f"gives up on {min(gave_up)}"
        if self.retry_on:
            return None if names.intersection(self.retry_on) else "not among the errors to retry on"
        if permanent is None:
            permanent = not is_retryable_error(error)
        return "permanent" if permanent else None


def _names(types: ErrorTypes) -> tuple[str, ...]:
    """Name exception types in a form that can be stored: with their module, but for built-in."""
    if isinstance(types, str | type):
        types = [types]
    names = []
    for kind in types:
        if isinstance(kind, str):
            names.append(kind)
        elif isinstance(kind, type):
            prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
            names.append(f"{prefix}{kind.__qualname__}")
        else:
            raise ConfigurationError(f"{checks.shown(kind)}: should be a type of exceptions")
    return tuple(names)
