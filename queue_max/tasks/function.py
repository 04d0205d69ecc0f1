"""The function of a task: called here and now, or by a worker with what a job carries."""

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

from queue_max import checks
from queue_max.domain.job import Job
from queue_max.exceptions import ConfigurationError
from queue_max.queue import Queue
from queue_max.tasks.arguments import Arguments
from queue_max.workers.running import RunningJob

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Who hears of calls that are done, and of those that failed for good."""

    on_success: Callable[..., object] | None = None
    on_failure: Callable[..., object] | None = None

    def __post_init__(self) -> None:
        for name in ("on_success", "on_failure"):
            if (callback := getattr(self, name)) is not None:
                checks.function(name, callback)

    def refuse_coroutines(self) -> None:
        """Raise ConfigurationError for those that a plain function could not wait for."""
        for name in ("on_success", "on_failure"):
            if inspect.iscoroutinefunction(callback := getattr(self, name)):
                raise ConfigurationError(
                    f"{name}={checks.shown(callback)}: may be a coroutine function only where the "
                    "task is"
                )


class TaskFunction(Generic[P, R]):
    """A function with a name for workers, and those who hear of its calls."""

    def __init__(
        self, function: Callable[P, R], name: str, version: int, callbacks: Callbacks
    ) -> None:
        for attribute in ("__module__", "__qualname__"):
            if not isinstance(getattr(function, attribute, None), str):
                raise ConfigurationError(
                    f"{checks.shown(function)}: should be a function that a module defines"
                )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"{checks.shown(function)}: is a generator: nothing of it would run"
            )
        self.task_name = name
        self.version = version
        self.is_async = inspect.iscoroutinefunction(function)
        if not self.is_async:
            callbacks.refuse_coroutines()
        self._function = function
        self._here = function
        """What is called where no worker calls it."""
        self._arguments = Arguments(name, function)
        self._callbacks = callbacks
        functools.update_wrapper(cast(Callable[..., Any], self), function)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now."""
        try:
            result = self._here(*args, **kwargs)
        except BaseException as error:
            self.failed(error)
            raise
        if inspect.isawaitable(result):
            return cast(R, self._watch(result))
        self.succeeded(result)
        return result

    @property
    def origin(self) -> tuple[str, str]:
        """Where the function stands: its file, and its name there, of a lambda with its line."""
        code = getattr(inspect.unwrap(self._function), "__code__", None)
        name = self._function.__qualname__
        if name.endswith("<lambda>"):
            name = f"{name}, line {getattr(code, 'co_firstlineno', 0)}"
        return getattr(code, "co_filename", ""), name

    @property
    def import_name(self) -> str:
        """The module whose import defines it, in another process."""
        return self._function.__module__

    def run(self, payload: Mapping[str, Any], running: RunningJob) -> Any:
        """Call the function with the arguments of a job's payload."""
        args, kwargs = self._arguments.load(payload.get("args", []), payload.get("kwargs", {}))
        args, kwargs = self._arguments.with_context(args, kwargs, running)
        return self._function(*args, **kwargs)

    def is_called_with(
        self, payload: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Tell whether a job's payload has these arguments, some or all of its own."""
        wanted = self._arguments.named(args, kwargs)
        try:
            found = self._arguments.named(payload.get("args", ()), payload.get("kwargs", {}))
        except TypeError:  # such a job will fail
            return False
        return wanted.items() <= found.items()

    def declare(self, queue: Queue) -> None:
        """Store its schedule in a queue: it has none."""

    def succeeded(self, result: Any, job: Job | None = None) -> Any:
        """Tell whoever asked that a call is done, of a job or here."""
        if self._callbacks.on_success is not None:
            return self._callbacks.on_success(result, task_name=self.task_name)
        return None

    def failed(self, error: BaseException, job: Job | None = None) -> Any:
        """Tell whoever asked that a call has failed, and no other attempt follows."""
        if self._callbacks.on_failure is not None:
            return self._callbacks.on_failure(error, task_name=self.task_name)
        return None

    async def _watch(self, result: Awaitable[Any]) -> Any:
        try:
            value = await result
        except BaseException as error:
            await _finished(self.failed(error))
            raise
        await _finished(self.succeeded(value))
        return value


def name_of(function: Callable[..., Any]) -> str:
    """Name a function as any process does that imports its module, the script itself too."""
    if not hasattr(function, "__qualname__"):
        raise ConfigurationError(f"{checks.shown(function)}: should be a function")
    return f"{_module(function.__module__)}.{function.__qualname__}"


def _module(name: str) -> str:
    """Give the name under which a module can be imported, whoever runs it as a script."""
    if name not in {"__main__", "__mp_main__"}:  # the latter in child processes
        return name
    main = sys.modules[name]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return str(spec.name).removesuffix(".__main__")
    return Path(getattr(main, "__file__", None) or "__main__").stem


async def _finished(answer: Any) -> None:
    if inspect.isawaitable(answer):
        await answer
