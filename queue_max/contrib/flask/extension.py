"""`QueueExtension`: a queue for each app, and tasks that run in the context of theirs."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast, overload

from flask import Flask, current_app
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from queue_max import checks
from queue_max.contrib.flask.app_queue import NAME, AppQueue, queue_of
from queue_max.contrib.flask.commands import queue_commands
from queue_max.contrib.flask.task import AppTask, PeriodicAppTask
from queue_max.contrib.web import unavailable
from queue_max.exceptions import ConfigurationError, QueueError, ShardError
from queue_max.queue import Queue
from queue_max.tasks.periodic import periodic_decorator
from queue_max.tasks.task import decorator
from queue_max.workers.running import RunningJob

P = ParamSpec("P")
R = TypeVar("R")


class QueueExtension:
    """Gives Flask apps a queue each: `QueueExtension(app)`, or `init_app(app)` later.

    A queue is described by the keys of its app's configuration: QUEUE_MAX_DATA_DIR, _SHARDS,
    _RATE_LIMIT, _MAX_RETRIES, _CIRCUIT_BREAKER_THRESHOLD, _CIRCUIT_BREAKER_TIMEOUT, _DURABILITY
    and, for tests, _IMMEDIATE; where they are None, by the environment. It is opened when it is
    first used. Apps that are given a `queue` share it; closing it is for who opened it.
    """

    def __init__(self, app: Flask | None = None, queue: Queue | None = None) -> None:
        _check(queue)
        self._given = queue
        # Not for use by requests, which have their app: a job has to find the one it is for.
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, queue: Queue | None = None) -> None:
        """Give an app its queue, as `app.extensions["queue_max"]`, and `flask queue-max`.

        Requests that end with a ShardError, as QueueFullError is one, are answered with 503, unless
        the app has a handler for it. Raises ConfigurationError for bad configuration.
        """
        _check(queue)
        if NAME in app.extensions:
            raise ConfigurationError(f"the app {app.name!r} has a queue already")
        app.extensions[NAME] = AppQueue(app.config, queue or self._given)
        app.cli.add_command(queue_commands)
        handlers = app.error_handler_spec[None][None]
        if not any(kind in handlers for kind in (ShardError, QueueError)):
            app.register_error_handler(ShardError, _answer)
        self._apps.add(app)

    @property
    def queue(self) -> Queue:
        """The queue of the current app; RuntimeError outside of any, as from `current_app`."""
        if self._given is not None and not current_app:
            return self._given
        return queue_of(current_app).queue

    def get_stats(self) -> dict[str, Any]:
        """Tell how the queue of the current app is, as `Queue.get_stats` does."""
        return self.queue.get_stats()

    @overload
    def task(self, func: Callable[P, R], /) -> AppTask[P, R]: ...

    @overload
    def task(
        self, func: None = None, priority: int = 0, max_retries: int | None = None, **options: Any
    ) -> Callable[[Callable[P, R]], AppTask[P, R]]: ...

    def task(
        self, func: Any = None, priority: int = 0, max_retries: int | None = None, **options: Any
    ) -> Any:
        """Make a function a task: `@ext.task` or `@ext.task(...)`, with the options of `@task`.

        Its jobs go to the queue of the current app, and workers call it in the context of the app.
        """
        if func is not None and not callable(func):
            raise ConfigurationError(f"func={checks.shown(func)}: should be a function")
        make = partial(AppTask, apps=self)
        decorate = decorator(make, priority=priority, max_retries=max_retries, **options)
        return decorate if func is None else cast("AppTask[..., Any]", decorate(func))

    def periodic_task(
        self, interval: float | None = None, **options: Any
    ) -> Callable[[Callable[P, R]], PeriodicAppTask[P, R]]:
        """Make a function a task that is run at regular times, as `queue_max.periodic_task` does.

        Its schedule is in the queue of each app whose workers know it; they call it in the context
        of that app.
        """
        make = partial(PeriodicAppTask, apps=self)
        decorate = periodic_decorator(make, {"interval": interval, **options})
        return cast("Callable[[Callable[P, R]], PeriodicAppTask[P, R]]", decorate)

    def app_of(self, running: RunningJob) -> Flask:
        """Give the app that a job is for: the one there is, or whose queue it comes from."""
        if (app := self.only_app()) is not None:
            return app
        folder = running.queue.services.folder
        for app in self._apps:
            if queue_of(app).folder == folder:
                return app
        raise ConfigurationError(
            f"no Flask app with the queue in {folder} was made in this process; start workers by "
            "`flask --app ... queue-max worker`"
        )

    def only_app(self) -> Flask | None:
        """Give the app, if there is but one."""
        apps = list(self._apps)
        return apps[0] if len(apps) == 1 else None


def _check(queue: object) -> None:
    checks.instance("queue", queue, (Queue, type(None)), "a Queue")


def _answer(error: ShardError) -> HTTPException | ResponseReturnValue:
    """Answer with 503, by the app's own handler for that if it has one."""
    answer = unavailable(error)
    if answer is None:
        raise error
    refusal = ServiceUnavailable(answer.detail, retry_after=answer.retry_after)
    return current_app.handle_http_exception(refusal)
