"""What a worker can run: the function it was given, and the tasks that this process has defined."""

import inspect
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from queue_max import checks
from queue_max.domain.job import Job
from queue_max.domain.tasks import gate_of, gate_of_job
from queue_max.exceptions import ConfigurationError
from queue_max.limits.scopes import Limit
from queue_max.queue import Queue
from queue_max.workers.running import RunningJob

ProcessFunction = Callable[..., Any]
"""Is given a job's payload, and the running job if it has a parameter `ctx`."""

Around = Callable[[Callable[[RunningJob], Any], RunningJob], Any]
"""Is given what calls a job's function, and the running job; gives what the call gave."""

_around: Around | None = None


class TaskFunction(Protocol):
    """A function by a name, as `@task` makes it."""

    @property
    def task_name(self) -> str:
        """What jobs call it."""

    @property
    def origin(self) -> tuple[str, str]:
        """Where its function stands: its file, and its name there."""

    @property
    def import_name(self) -> str:
        """The module whose import defines it, in another process."""

    @property
    def version(self) -> int:
        """Which version of its arguments it takes."""

    @property
    def timeout(self) -> float | None:
        """Seconds an attempt may take, if the job does not say."""

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""

    def run(self, payload: Mapping[str, Any], running: RunningJob) -> Any:
        """Call the function with the arguments of a payload."""

    @property
    def queue_name(self) -> str:
        """Which of the named queues its jobs go to."""

    @property
    def limit(self) -> Limit:
        """How many of its jobs start in what time, and run at once."""

    def declare(self, queue: Queue) -> None:
        """Store its schedule in a queue, if it has one."""

    def succeeded(self, result: Any, job: Job | None = None) -> None:
        """Hear of a job that is done."""

    def failed(self, error: BaseException, job: Job | None = None) -> None:
        """Hear of a job that failed for good."""


def surround(around: Around | None) -> None:
    """Have each call of a job's function in this process made by `around`; None for by nothing.

    It is called where the function is: in the worker's thread, on the event loop of coroutines,
    or in the child process that runs the job. What the call gives may be awaitable.
    """
    global _around
    _around = around


class TaskRegistry:
    """The tasks of this process, by name and version."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskFunction] = {}
        self._queues: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def add(self, task: TaskFunction) -> None:
        """Take in a task, or the same one again, as when a module is loaded anew.

        Raises ConfigurationError where another has its name and version.
        """
        gate = gate_of(task.task_name, task.version)
        with self._lock:
            known = self._tasks.setdefault(gate, task)
            if known.origin != task.origin:
                raise ConfigurationError(
                    f"there are two tasks {task.task_name!r} of version {task.version}, in "
                    f"{known.origin[0]} and {task.origin[0]}: give one of them another name"
                )
            self._tasks[gate] = task

    def get(self, gate: str) -> TaskFunction | None:
        """Give the task of that name and version; None where there is none."""
        return self._tasks.get(gate)

    def gates(self) -> Collection[str]:
        """Name all of them, as of now."""
        return tuple(self._tasks)

    def queues(self) -> Collection[str]:
        """Name the queues their jobs go to."""
        return sorted(self._queues | {task.queue_name for task in list(self._tasks.values())})

    def add_queues(self, names: Iterable[str]) -> None:
        """Name queues to which their jobs may go, too."""
        self._queues |= frozenset(names)

    def limits(self) -> Sequence[Limit]:
        """Give what each is limited to; of several versions, what the newest is."""
        by_version = sorted(self._tasks.values(), key=lambda task: task.version)
        return list({task.task_name: task.limit for task in by_version}.values())

    def declare(self, queue: Queue) -> None:
        """Let their limits be stored in a queue, and the schedules of those that have one."""
        queue.limits.declare(self.limits())
        for task in list(self._tasks.values()):
            task.declare(queue)


tasks = TaskRegistry()
"""Of this process."""


class Repertoire:
    """What one worker can run."""

    def __init__(self, function: ProcessFunction | None, registry: TaskRegistry = tasks) -> None:
        self._function = function
        self._registry = registry
        self._takes_context = function is not None and takes_context(function)
        self._is_async = _is_async(function)

    def can_run(self, job: Job) -> bool:
        """Tell whether it can run a job."""
        if job.task is None:
            return self._function is not None
        return self._registry.get(gate_of_job(job)) is not None

    def gates(self) -> Collection[str]:
        """Name what it can run."""
        plain = () if self._function is None else (gate_of(None),)
        return {*plain, *self._registry.gates()}

    def task_of(self, job: Job) -> TaskFunction | None:
        """Give the task that runs a job; None for the worker's own function."""
        return None if job.task is None else self._registry.get(gate_of_job(job))

    def is_async(self, job: Job) -> bool:
        """Tell whether a job's function is a coroutine function."""
        task = self.task_of(job)
        return self._is_async if task is None else task.is_async

    def call(self, running: RunningJob) -> Any:
        """Call a job's function; gives what it returns, which may be awaitable."""
        return self._call(running) if _around is None else _around(self._call, running)

    def _call(self, running: RunningJob) -> Any:
        job = running.job
        if job.task is not None:
            task = self._registry.get(gate_of_job(job))
            assert task is not None  # noqa: S101 - tasks are never taken out
            return task.run(job.payload, running)
        assert self._function is not None  # noqa: S101 - asked for before
        if self._takes_context:
            return self._function(job.payload, ctx=running)
        return self._function(job.payload)


def _is_async(function: object) -> bool:
    """Tell whether a function, or an object that can be called, is a coroutine function."""
    call = type(function).__call__ if callable(function) else None
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def check_function(name: str, function: ProcessFunction) -> ProcessFunction:
    """Give a function if it can be called with a payload; ConfigurationError where it cannot."""
    checks.function(name, function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{name}={checks.shown(function)}: is a generator: nothing of it would run"
        )
    more = {"ctx": None} if takes_context(function) else {}
    try:
        inspect.signature(function).bind({}, **more)
    except ValueError:  # some that are written in C do not tell
        return function
    except TypeError as error:
        raise ConfigurationError(
            f"{name}={checks.shown(function)}: should take one argument, a job's payload: {error}"
        ) from error
    return function


def takes_context(function: Callable[..., Any]) -> bool:
    """Tell whether a function has a parameter `ctx`, for the job that it runs."""
    try:
        return "ctx" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C do not tell
        return False
