"""Schedules: declaring them, and storing a job at each of their times."""

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any

from queue_max import checks
from queue_max.domain.job import JobHandle
from queue_max.domain.schedules import (
    DEFAULT_CAP,
    Misfire,
    Overlap,
    Schedule,
    check_schedule,
)
from queue_max.exceptions import (
    QueueClosedError,
    QueueError,
    ScheduleNotFoundError,
    ShardBusyError,
    ShardError,
)
from queue_max.repositories.control import Control, ControlUnit
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService

logger = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds between two looks for ticks: another process may have added a schedule."""

SPREAD = 0.1
"""Seconds by which a look comes later, at most, so that processes do not all come at once."""

PATIENCE = 1.0
"""Seconds for which locked shards are waited for, in all: other ticks must not come late."""

REST = 5.0
"""Seconds after which a tick that was refused is tried again."""


class ScheduleService:
    """Stores jobs at the times of schedules, each tick once over any number of processes.

    The job of a tick has a unique key that names the tick, and is stored before the schedule goes
    on to the next one. So who dies in between, or was stopped there for long, leaves a tick which
    the next one to come fires again, and finds that it has its job: for 7 days, at least.

    A schedule goes by the clock of its database. When that is put back, no tick comes again: the
    next one is waited for.
    """

    def __init__(
        self,
        control: Control,
        intake: IntakeService,
        inspection: InspectionService,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._intake = intake
        self._inspection = inspection
        self._rng = rng
        self._clock = clock
        self._resting: dict[str, float] = {}
        """Until when those are left alone whose tick was refused."""

    # For users

    def put(  # noqa: PLR0913 - all that is declared of one
        self,
        name: str,
        task: str,
        *,
        interval: float | None = None,
        cron: str | None = None,
        tz: str = "UTC",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        payload: Mapping[str, Any] | None = None,
        misfire: str = Misfire.ONCE,
        misfire_cap: int = DEFAULT_CAP,
        overlap: str = Overlap.ALLOW,
        **options: Any,
    ) -> Schedule:
        """Add a schedule, or change the one of that name to be as it is declared here.

        Every process may do so when it starts: where nothing is new, nothing is changed. One that
        was paused stays so.

        A job of `task` is stored every `interval` seconds, from 1 on, or at the times of `cron`:
        five fields such as "30 2 * * MON-FRI", or @hourly, @daily, @midnight, @weekly, @monthly,
        @yearly, @annually. `tz` is the time zone of cron, such as "Europe/Berlin". A fixed time
        that is skipped when clocks are put forward is due right after the gap; one that comes
        twice when they are put back, the first time only. Where the minute or hour begins with
        `*`, real time counts. A rhythm that is changed begins anew.

        The task is called with `args` and `kwargs`; or a whole `payload` is given in their place.
        `options` are those of `enqueue`: pagina_id, priority, max_retries, retry_delay, retry,
        keep_result, timeout, queue, concurrency_key, rate_key, breaker.

        `misfire` says what becomes of ticks that were missed, while no worker ran, or the shard
        of their job could not serve. A tick is missed when it is more than 60 seconds late, or
        when the next one is due too. "once", the default: one job stands for all of them; "skip":
        none is fired; "all": each is, the oldest first, but only the newest `misfire_cap`.
        With `overlap` "skip", no tick is fired while the job of the last one has not ended.

        Raises ConfigurationError or InvalidJobError, which are ValueErrors, for a bad value.
        """
        new = check_schedule(
            name,
            task,
            interval=interval,
            cron=cron,
            tz=tz,
            args=args,
            kwargs=kwargs,
            payload=payload,
            misfire=misfire,
            misfire_cap=misfire_cap,
            overlap=overlap,
            options=options,
        )
        with self._control.reading() as unit:
            stored = unit.schedules.find(new.name)
        if stored is not None and stored.is_as(new):
            return stored
        with self._control.writing() as unit:
            stored = unit.schedules.hold(new.name)
            if stored is None:
                unit.schedules.add(new, new.first_after(unit.now))
            elif not stored.is_as(new):
                unit.schedules.change(new, stored.next_as(new, unit.now))
            return _find(unit, new.name)

    def list(self) -> Sequence[Schedule]:
        """Read all schedules, by name."""
        with self._control.reading() as unit:
            return unit.schedules.list()

    def get(self, name: str) -> Schedule:
        """Read a schedule; ScheduleNotFoundError when there is none of that name."""
        with self._control.reading() as unit:
            return _find(unit, name)

    def preview(self, name: str, number: int = 10) -> Sequence[datetime]:
        """Give the next ticks of a schedule, so many; of a paused one, as if it were resumed."""
        checks.whole("number", number, at_least=1, at_most=1000)
        with self._control.reading() as unit:
            return _find(unit, name).preview(number, unit.now)

    def pause(self, name: str) -> Schedule:
        """Let a schedule fire nothing until it is resumed."""
        with self._control.writing() as unit:
            if not _hold(unit, name).is_paused:
                unit.schedules.pause(name)
            return _find(unit, name)

    def resume(self, name: str) -> Schedule:
        """Let a paused schedule go on with its next tick; what it missed meanwhile is not fired."""
        with self._control.writing() as unit:
            paused = _hold(unit, name)
            if paused.is_paused:
                unit.schedules.resume(name, paused.next_from(unit.now))
            return _find(unit, name)

    def remove(self, name: str) -> None:
        """Delete a schedule; jobs that it has stored stay."""
        with self._control.writing() as unit:
            _hold(unit, name)
            unit.schedules.remove(name)

    def run_now(self, name: str) -> JobHandle:
        """Store one job of a schedule at once, outside of its rhythm, even if it is paused."""
        handle = self._intake.submit(self.get(name).job())
        return handle.asking(self._inspection.result)

    # For workers

    def tend(self, stopping: threading.Event) -> None:
        """Fire what falls due, until told to stop."""
        while not stopping.is_set():
            wait = LOOK_EVERY
            try:
                wait = min(self.fire_due(stopping), LOOK_EVERY)
            except QueueClosedError:
                return
            except ShardError as error:
                logger.warning("schedules were not looked at, another try follows: %s", error)
            except Exception:
                logger.exception("schedules were not looked at, another try follows")
            stopping.wait(wait + self._rng.uniform(0, SPREAD))

    def fire_due(self, stopping: threading.Event | None = None) -> float:
        """Fire what is due; gives the seconds until the next tick, infinity when none will come.

        A tick whose job cannot be stored holds up no other schedule, and is tried again later.
        Where nothing is due, nothing is written, and no lock is taken. Breaks off when it is told
        to be `stopping`. Raises ShardError when the control database cannot serve.
        """
        due, wait = self._look()
        if not due:
            return wait
        wanted = takewhile(lambda _: stopping is None or not stopping.is_set(), due)
        busy = [name for name in wanted if not self._try(name, 0.0)]
        deadline = self._clock() + PATIENCE
        for name in busy:
            self._try(name, max(0.0, deadline - self._clock()), is_last=True)
        due, wait = self._look()
        return 0.0 if due else wait

    def _look(self) -> tuple[Sequence[str], float]:
        """Name what is due, in any order, and tell after how many seconds more will be."""
        with self._control.reading() as unit:
            due, next_at, now = unit.schedules.due(), unit.schedules.next_at(), unit.now
        rests = {name: self._resting.get(name, 0.0) - self._clock() for name in due}
        waits = [rest for rest in rests.values() if rest > 0]
        if next_at is not None:
            waits.append((next_at - now).total_seconds())
        ready = [name for name, rest in rests.items() if rest <= 0]
        return self._rng.sample(ready, len(ready)), min(waits, default=math.inf)

    def _try(self, name: str, wait: float, *, is_last: bool = False) -> bool:
        """Fire what is due of a schedule; False when its shard is locked and may be waited for."""
        try:
            self._fire(name, wait)
        except (QueueError, ValueError) as error:
            if _concerns_all(error):
                raise
            if isinstance(error, ShardBusyError) and not is_last:
                return False
            if name not in self._resting:
                logger.warning("schedule %s was not fired, other tries follow: %s", name, error)
            self._resting[name] = self._clock() + REST
        else:
            self._resting.pop(name, None)
        return True

    def _fire(self, name: str, wait: float) -> None:
        """Store the jobs of what is due of a schedule, then note it, unless others have."""
        # Read only now: meanwhile, another process may have fired it.
        with self._control.reading() as unit:
            schedule, now = unit.schedules.find(name), unit.now
        if schedule is None or schedule.is_paused:
            return
        due = schedule.due_ticks(now)
        next_at, last_at, last_job = due.next_at, schedule.last_at, schedule.last_job
        refusal: QueueError | None = None
        for tick in self._without_overlap(schedule, due.ticks):
            try:
                last_job = self._intake.submit(schedule.job(tick), wait).key
            except QueueError as error:
                next_at, refusal = tick, error
                break
            last_at = tick
        if next_at != schedule.next_at:
            with self._control.writing(PATIENCE) as unit:
                unit.schedules.advance(schedule, next_at, last_at, last_job)
        if refusal is not None:
            raise refusal

    def _without_overlap(self, schedule: Schedule, ticks: Sequence[datetime]) -> Sequence[datetime]:
        """Leave out the ticks that come while a job of the schedule has not ended."""
        if schedule.overlap is Overlap.ALLOW or not ticks:
            return ticks
        if schedule.last_job is None or self._inspection.has_ended(schedule.last_job):
            return ticks[:1]
        return ()


def _concerns_all(error: Exception) -> bool:
    """Tell whether no schedule can be fired: the control database is locked, or all is closed."""
    return isinstance(error, QueueClosedError) or (
        isinstance(error, ShardBusyError) and error.shard_id is None
    )


def _find(unit: ControlUnit, name: str) -> Schedule:
    return _known(name, unit.schedules.find(checks.text("name", name)))


def _hold(unit: ControlUnit, name: str) -> Schedule:
    return _known(name, unit.schedules.hold(checks.text("name", name)))


def _known(name: str, found: Schedule | None) -> Schedule:
    if found is None:
        raise ScheduleNotFoundError(
            f"there is no schedule {checks.shown(name)}; `queue-max schedules list` shows all"
        )
    return found
