"""`@periodic_task`: a task whose jobs are stored by a schedule."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar, cast

from queue_max import checks, forking
from queue_max.domain.schedules import DEFAULT_CAP, OPTIONS, Misfire, Overlap, check_schedule
from queue_max.exceptions import ConfigurationError
from queue_max.queue import Queue
from queue_max.tasks.function import Callbacks
from queue_max.tasks.task import Task, TaskOptions, decorator

P = ParamSpec("P")
R = TypeVar("R")


_KEYS = {"unique_key", "unique_for"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """When a periodic task runs, and with which arguments; the words of `Queue.schedules.put`."""

    interval: float | None = None
    cron: str | None = None
    tz: str = "UTC"
    misfire: str = Misfire.ONCE
    misfire_cap: int = DEFAULT_CAP
    overlap: str = Overlap.ALLOW
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.instance("args", self.args, (list, tuple), "a list")
        checks.instance("kwargs", self.kwargs, Mapping, "a dict")


_RHYTHM = {each.name for each in fields(Rhythm)}


class PeriodicTask(Task[P, R]):
    """A task with a schedule of the same name, which workers declare when they begin, and run."""

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        version: int,
        options: TaskOptions,
        callbacks: Callbacks,
        *,
        rhythm: Rhythm,
    ) -> None:
        super().__init__(function, name, version, options, callbacks)
        self.rhythm = rhythm
        check_schedule(name, name, **self._when(), options=self._said())

    def declare(self, queue: Queue) -> None:
        """Store the schedule in a queue, or bring it up to date, if it is for that queue."""
        if self.queue in {None, queue}:
            name = self.task_name
            queue.schedules.put(name, name, **self._when(), **self._said())

    def start_scheduler(self) -> None:
        """Declare the schedule, and run all schedules of its queue in a thread of this process.

        Needed only where no worker runs, for workers do the same; harmless when called twice.
        """
        queue = self.get_queue()
        self.declare(queue)
        _schedulers.start(queue)

    def stop_scheduler(self) -> None:
        """End the thread that `start_scheduler` began for its queue; the schedule is kept."""
        _schedulers.stop(self.get_queue())

    def _like(self, options: TaskOptions) -> Self:
        return type(self)(
            self._function,
            self.task_name,
            self.version,
            options,
            self._callbacks,
            rhythm=self.rhythm,
        )

    def _when(self) -> dict[str, Any]:
        """Give the rhythm, with the payload that comes of its arguments."""
        rhythm = asdict(self.rhythm)
        job = self._job(rhythm.pop("args"), rhythm.pop("kwargs"))
        return rhythm | {"payload": job["payload"]}

    def _said(self) -> dict[str, Any]:
        """Give what is said of each job."""
        return {name: said for name, said in self.options.of_job().items() if name in OPTIONS}


class _Schedulers:
    """The threads of this process that fire schedules where no worker does, one a queue."""

    def __init__(self) -> None:
        self._reset()
        forking.in_child(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[Queue, tuple[threading.Thread, threading.Event]] = {}

    def start(self, queue: Queue) -> None:
        with self._lock:
            if queue in self._threads and self._threads[queue][0].is_alive():
                return
            stopping = threading.Event()
            thread = threading.Thread(
                target=queue.services.schedules.tend,
                args=[stopping],
                name="queue-max-scheduler",
                daemon=True,
            )
            self._threads[queue] = thread, stopping
            thread.start()

    def stop(self, queue: Queue) -> None:
        with self._lock:
            thread, stopping = self._threads.pop(queue, (None, None))
        if thread is not None and stopping is not None:
            stopping.set()
            thread.join()


_schedulers = _Schedulers()


def periodic_task(  # noqa: PLR0913 - the words of a schedule
    interval: float | None = None,
    *,
    cron: str | None = None,
    tz: str = "UTC",
    misfire: str = Misfire.ONCE,
    misfire_cap: int = DEFAULT_CAP,
    overlap: str = Overlap.ALLOW,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **task_options: Any,
) -> Callable[[Callable[P, R]], PeriodicTask[P, R]]:
    """Make a function a task that is run at regular times: each time once, by any worker.

    - `interval` in seconds, or `cron` with five fields such as "*/5 * * * *", or @daily and the
      like, in the time zone `tz`; see `Queue.schedules.put` for these and for `misfire`,
      `misfire_cap` and `overlap`.
    - `args` and `kwargs`: what the function is called with.

    The schedule is stored in the queue by the first worker that begins and has imported the
    function; all workers, in any number of processes, see to it. It has the name of the task, and
    can be seen, paused and removed by `queue.schedules` and `queue-max schedules`. Further options
    are those of `@task`.
    """
    rhythm = {
        "interval": interval,
        "cron": cron,
        "tz": tz,
        "misfire": misfire,
        "misfire_cap": misfire_cap,
        "overlap": overlap,
        "args": args,
        "kwargs": {} if kwargs is None else kwargs,
    }
    make = periodic_decorator(PeriodicTask, rhythm | task_options)
    return cast("Callable[[Callable[P, R]], PeriodicTask[P, R]]", make)


def periodic_decorator(
    make: Callable[..., PeriodicTask[..., Any]], options: Mapping[str, Any]
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Give a decorator that has periodic tasks made; the options are those of `periodic_task`."""
    if callable(options.get("interval")):
        raise ConfigurationError("periodic_task: write @periodic_task(...), with interval or cron")
    for option in _KEYS & options.keys():
        raise ConfigurationError(
            f"{option}={checks.shown(options[option])}: the job of each time has a key of its "
            "own; for others, give it by using"
        )
    words = {name: given for name, given in options.items() if name in _RHYTHM}
    rest = {name: given for name, given in options.items() if name not in _RHYTHM}
    return decorator(partial(make, rhythm=Rhythm(**words)), **rest)
