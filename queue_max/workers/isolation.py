"""Where a worker's functions run: in its thread, or in a child process, which can be killed."""

import pickle
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

from queue_max import checks
from queue_max.domain.job import JobResult
from queue_max.exceptions import ConfigurationError, Permanent
from queue_max.queue import Queue
from queue_max.workers import child
from queue_max.workers.child_process import ChildProcess
from queue_max.workers.execution import failed, outcome_of, run
from queue_max.workers.parcels import Order, Outcome
from queue_max.workers.repertoire import ProcessFunction, Repertoire
from queue_max.workers.running import RunningJob


class Isolation(StrEnum):
    """What keeps a job's function apart from the rest."""

    THREAD = "thread"
    PROCESS = "process"


class Runner(Protocol):
    """Where the functions run that one thread of a worker calls."""

    def prepare(self) -> None:
        """Be ready for a job, before one is taken."""

    def run(self, running: RunningJob) -> JobResult:
        """Call a job's function; its outcome is a value, never an exception."""

    def close(self) -> None:
        """Leave nothing behind."""


def runner_factory(
    isolation: str, jobs_per_process: int, function: ProcessFunction | None
) -> Callable[[Repertoire, Queue], Runner]:
    """Give what makes the runner of a thread; ConfigurationError where there is none."""
    checks.whole("jobs_per_process", jobs_per_process, at_least=1)
    if isolation not in tuple(Isolation):
        raise ConfigurationError(
            f"isolation={checks.shown(isolation)}: should be {' or '.join(Isolation)}"
        )
    if isolation == Isolation.THREAD:
        return InThread
    return partial(InProcess, _pickled(function), jobs_per_process)


def refuse_while_importing() -> None:
    """Keep a child process, as it imports what it is to call, from starting workers as well."""
    if child.is_importing():
        raise ConfigurationError(
            "isolation='process': a child process imports this module, and is not to start "
            'workers by that; put what starts them below `if __name__ == "__main__":`'
        )


class InThread:
    """Calls functions in the thread itself."""

    def __init__(self, repertoire: Repertoire, queue: Queue) -> None:
        self._call = repertoire.call

    def prepare(self) -> None:
        """Be ready, as always."""

    def run(self, running: RunningJob) -> JobResult:
        """Call a job's function."""
        return run(self._call, running)

    def close(self) -> None:
        """Leave nothing behind, as always."""


class InProcess:
    """Calls functions in a child process: so many jobs in one, then a new one."""

    def __init__(
        self, function: bytes, jobs_per_process: int, repertoire: Repertoire, queue: Queue
    ) -> None:
        self._function = function
        self._queue = _options_of(queue)
        self._jobs_per_process = jobs_per_process
        self._repertoire = repertoire
        self._child: ChildProcess | None = None
        self._jobs_left = 0

    def prepare(self) -> None:
        """Have a child ready; raises QueueError where that cannot be."""
        self._ready_child()

    def run(self, running: RunningJob) -> JobResult:
        """Have a child call a job's function; should it die, that is the job's failure."""
        try:
            outcome = self._ready_child().run(self._order(running), running)
        except Exception as error:
            return failed(running, None if running.stopped else error)
        finally:
            self._jobs_left -= 1
        return _unpacked(running, outcome)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _ready_child(self) -> ChildProcess:
        if self._child is not None and (self._jobs_left <= 0 or self._child.has_ended):
            self.close()
        if self._child is None:
            self._child = ChildProcess(self._function, self._queue)
            self._jobs_left = self._jobs_per_process
        return self._child

    def _order(self, running: RunningJob) -> Order:
        task = self._repertoire.task_of(running.job)
        module = None if task is None else task.import_name
        return Order(running.job, module, running.timeout, running.time_left)


def _unpacked(running: RunningJob, outcome: Outcome) -> JobResult:
    if outcome.error is not None:
        return failed(running, outcome.error.error())
    try:
        result = pickle.loads(outcome.result)  # noqa: S301 - from a child of ours
    except Exception as error:  # user code
        what = f"the result cannot be read outside the child process: {type(error).__name__}"
        return failed(running, Permanent(f"{what}: {error}"))
    return outcome_of(running, result)


def _options_of(queue: Queue) -> dict[str, Any]:
    """Give the options by which another process opens the same queue."""
    settings = queue.services.settings
    return {
        "data_dir": str(queue.services.folder),
        "rate_limit": settings.rate_limit,
        "max_retries": settings.max_retries,
        "circuit_breaker_threshold": settings.circuit_breaker_threshold,
        "circuit_breaker_timeout": settings.circuit_breaker_timeout,
        "rate_limiter_timeout": queue.rate_limiter_timeout,
        "durability": str(settings.durability),
        "immediate": queue.immediate,
        "event_log": settings.event_log,
        "create": False,
    }


def _pickled(function: ProcessFunction | None) -> bytes:
    """Name a function for another process: by its module, and its name there."""
    if getattr(function, "__module__", None) == "__main__" and not _can_be_imported("__main__"):
        raise ConfigurationError(
            f"process_function={checks.shown(function)}: stands in __main__, which a child process "
            "cannot import here; put it into a module of its own"
        )
    try:
        return pickle.dumps(function)
    except Exception as error:  # user code: of an object
        raise ConfigurationError(
            f"process_function={checks.shown(function)}: cannot be called in a child process "
            f"({error}); give a function that stands at the top level of a module"
        ) from error


def _can_be_imported(main: str) -> bool:
    """Tell whether multiprocessing imports the main module in a child process."""
    module = sys.modules[main]
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return not spec.name.endswith(main)
    return hasattr(module, "__file__")
