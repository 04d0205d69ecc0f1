"""Tasks whose functions run in the context of an app, wherever a worker calls them."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from flask import Flask, has_app_context

from queue_max.queue import Queue
from queue_max.tasks.function import Callbacks
from queue_max.tasks.periodic import PeriodicTask
from queue_max.tasks.task import Task, TaskOptions
from queue_max.workers.running import RunningJob, running_queue

P = ParamSpec("P")
R = TypeVar("R")


class Apps(Protocol):
    """What knows the apps that a task may run for."""

    @property
    def queue(self) -> Queue:
        """The queue of the current app."""

    def app_of(self, running: RunningJob) -> Flask:
        """Give the app that a job is for."""

    def only_app(self) -> Flask | None:
        """Give the app, if there is but one."""


class AppTask(Task[P, R]):
    """A task whose jobs go to the queue of the current app, and run in the context of theirs."""

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        version: int,
        options: TaskOptions,
        callbacks: Callbacks,
        *,
        apps: Apps,
        **more: Any,
    ) -> None:
        super().__init__(function, name, version, options, callbacks, **more)
        self._apps = apps

    def get_queue(self) -> Queue:
        """Give the queue its jobs go to: its own, that of the job which runs, or of the app."""
        if isinstance(self.options.queue, Queue):
            return self.options.queue
        return running_queue() or self._apps.queue

    def run(self, payload: Mapping[str, Any], running: RunningJob) -> Any:
        """Call the function with the arguments of a job's payload, in the context of its app."""
        app, call = self._apps.app_of(running), super().run
        return _within(app.app_context, lambda: call(payload, running))

    def succeeded(self, *facts: Any) -> Any:
        """Tell whoever asked that a call is done; in the context of the app if there is but one."""
        call = super().succeeded
        return _within(self._context_of_callbacks, lambda: call(*facts))

    def failed(self, *facts: Any) -> Any:
        """Tell whoever asked that a call has failed for good, in that context, too."""
        call = super().failed
        return _within(self._context_of_callbacks, lambda: call(*facts))

    def _context_of_callbacks(self) -> AbstractContextManager[object]:
        app = None if has_app_context() else self._apps.only_app()
        return nullcontext() if app is None else app.app_context()

    def _like(self, options: TaskOptions) -> Self:
        return self._made_anew(options)

    def _made_anew(self, options: TaskOptions, **more: Any) -> Self:
        facts = self._function, self.task_name, self.version, options, self._callbacks
        return type(self)(*facts, apps=self._apps, **more)


class PeriodicAppTask(AppTask[P, R], PeriodicTask[P, R]):
    """Such a task with a schedule, which the workers of the app declare when they begin."""

    def _like(self, options: TaskOptions) -> Self:
        return self._made_anew(options, rhythm=self.rhythm)


def _within(context: Callable[[], AbstractContextManager[object]], call: Callable[[], Any]) -> Any:
    """Call something in a context, and let what it gives be awaited in such a one, too."""
    with context():
        answer = call()
    return _awaited(context, answer) if inspect.isawaitable(answer) else answer


async def _awaited(
    context: Callable[[], AbstractContextManager[object]], answer: Awaitable[Any]
) -> Any:
    with context():
        return await answer
