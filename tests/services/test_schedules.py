import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.job import Job, JobHandle, JobStatus
from queue_max.domain.retry import RetryPolicy
from queue_max.domain.routing import shard_for
from queue_max.domain.schedules import Schedule
from queue_max.exceptions import (
    ConfigurationError,
    InvalidJobError,
    ScheduleNotFoundError,
    ShardBusyError,
    ShardError,
)
from queue_max.repositories.control import Control
from queue_max.repositories.schedules import ScheduleRepository
from queue_max.repositories.unit_of_work import Store
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService
from queue_max.services.retry import RetryService
from queue_max.services.schedules import LOOK_EVERY, REST, SPREAD, ScheduleService
from queue_max.services.settlement import SettlementService
from queue_max.storage.schema import schedules as table
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

Locked = Callable[[int], AbstractContextManager[None]]
Claim = Callable[..., Job | None]

two_shards = pytest.mark.parametrize("shard_count", [2])

every_verb = pytest.mark.parametrize(
    "verb", ["get", "preview", "pause", "resume", "remove", "run_now"]
)


@pytest.fixture
def jobs(inspection: InspectionService) -> Callable[[], list[Job]]:
    """All jobs, the oldest of each shard first."""
    return lambda: inspection.jobs(tuple(JobStatus), limit=None)[::-1]


@pytest.fixture
def another(
    control: Control, intake: IntakeService, inspection: InspectionService, clock: FakeClock
) -> ScheduleService:
    """The schedules as another process has them."""
    return ScheduleService(
        control, intake, inspection, random.Random(8), clock=lambda: clock.now.timestamp()
    )


@pytest.fixture
def control_locked(tmp_path: Path) -> Callable[[], AbstractContextManager[Any]]:
    """Let another program write to the control database meanwhile."""

    def locked() -> AbstractContextManager[Any]:
        database = SqliteDatabase(tmp_path / "control.db", None, SqliteOptions(full_sync=False))
        stack = ExitStack()
        stack.callback(database.close)
        stack.enter_context(database.writing())
        return stack

    return locked


def fired(jobs: Callable[[], list[Job]]) -> Counter[str]:
    """Count the jobs of each task."""
    return Counter(str(job.task) for job in jobs())


def name_bound_to(shards: dict[datetime, int], number: int = 0) -> str:
    """Find a name, of two shards, by the shards where its ticks have their jobs; or another."""
    names = (
        name
        for name in (f"n{at}" for at in range(10_000))
        if all(
            shard_for(None, 2, random.Random(), f"schedule:{name}:{to_text(tick)}") == shard_id
            for tick, shard_id in shards.items()
        )
    )
    return next(islice(names, number, None))


# Declaring


def test_a_new_schedule_is_due_one_interval_later(
    schedules: ScheduleService, clock: FakeClock
) -> None:
    schedule = schedules.put("nightly", "reports.send", interval=90)
    assert schedule.next_at == clock.now + timedelta(seconds=90)
    assert schedules.get("nightly") == schedule
    assert schedules.list() == [schedule]


def test_a_new_schedule_by_cron_is_due_at_its_first_time(schedules: ScheduleService) -> None:
    schedule = schedules.put("nightly", "reports.send", cron="30 2 * * *", tz="Europe/Berlin")
    assert to_text(schedule.next_at) == "2026-01-02T01:30:00.000Z"


def test_to_declare_what_is_there_changes_nothing_and_takes_no_lock(
    schedules: ScheduleService,
    clock: FakeClock,
    control_locked: Callable[[], AbstractContextManager[Any]],
) -> None:
    schedule = schedules.put("nightly", "t", interval=60, args=(1, (2,)), priority=2)
    clock.advance(45)
    with control_locked():
        again = schedules.put("nightly", "t", interval=60.0, args=[1, [2]], priority=2)
    assert again == schedule


def test_what_is_declared_otherwise_is_changed_and_the_rhythm_goes_on(
    schedules: ScheduleService, clock: FakeClock
) -> None:
    schedule = schedules.put("nightly", "t", interval=60)
    clock.advance(45)
    changed = schedules.put("nightly", "u", interval=60, kwargs={"n": 1}, timeout=5)
    assert (changed.task, changed.options) == ("u", {"timeout": 5.0})
    assert changed.next_at == schedule.next_at
    assert changed.revision > schedule.revision


def test_another_rhythm_begins_anew(schedules: ScheduleService, clock: FakeClock) -> None:
    schedules.put("nightly", "t", interval=60)
    clock.advance(45)
    assert schedules.put("nightly", "t", interval=10).next_at == clock.now + timedelta(seconds=10)


def test_a_paused_schedule_stays_paused_however_it_is_declared(schedules: ScheduleService) -> None:
    schedules.put("nightly", "t", interval=60)
    schedules.pause("nightly")
    assert schedules.put("nightly", "t", interval=60).is_paused
    assert schedules.put("nightly", "t", interval=61, args=[1]).is_paused


def test_what_is_bad_is_refused_and_nothing_stored(schedules: ScheduleService) -> None:
    with pytest.raises(ConfigurationError, match="cron='daily'"):
        schedules.put("nightly", "t", cron="daily")
    with pytest.raises(InvalidJobError, match="priority=7"):
        schedules.put("nightly", "t", interval=60, priority=7)
    with pytest.raises(ConfigurationError, match="unknown 'colour'"):
        schedules.put("nightly", "t", interval=60, colour="red")
    assert schedules.list() == []


def test_a_time_that_never_comes_is_refused(schedules: ScheduleService) -> None:
    with pytest.raises(ConfigurationError, match="cron='0 0 31 2 \\*'"):
        schedules.put("nightly", "t", cron="0 0 31 2 *")


@every_verb
def test_an_unknown_name_is_told(schedules: ScheduleService, verb: str) -> None:
    with pytest.raises(ScheduleNotFoundError, match="there is no schedule 'nightly'"):
        getattr(schedules, verb)("nightly")


@every_verb
@pytest.mark.parametrize("name", [7, None, "\ud800"])
def test_what_is_no_name_is_told(schedules: ScheduleService, verb: str, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name="):
        getattr(schedules, verb)(name)


def test_the_next_times_are_previewed(schedules: ScheduleService, clock: FakeClock) -> None:
    schedules.put("nightly", "t", interval=60)
    expected = [clock.now + timedelta(seconds=60 * number) for number in range(1, 4)]
    assert schedules.preview("nightly", 3) == expected
    assert len(schedules.preview("nightly")) == 10


@pytest.mark.parametrize("number", [0, 1001, "3", 1.5])
def test_a_bad_number_of_times_is_refused(schedules: ScheduleService, number: Any) -> None:
    schedules.put("nightly", "t", interval=60)
    with pytest.raises(ConfigurationError, match="number="):
        schedules.preview("nightly", number)


# Firing


def test_a_tick_is_fired_once_it_is_due(
    schedules: ScheduleService, clock: FakeClock, jobs: Callable[[], list[Job]]
) -> None:
    schedules.put("nightly", "reports.send", interval=60, args=["x"], priority=2, timeout=5)
    assert schedules.fire_due() == 60
    clock.advance(59.5)
    assert schedules.fire_due() == 0.5
    assert jobs() == []
    clock.advance(0.5)
    assert schedules.fire_due() == 60
    [job] = jobs()
    assert job.payload == {"task": "reports.send", "version": 1, "args": ["x"], "kwargs": {}}
    assert (job.task, job.priority, job.timeout_seconds) == ("reports.send", 2, 5)
    schedule = schedules.get("nightly")
    assert schedule.last_at == clock.now
    assert schedule.last_job == job.key
    assert schedules.fire_due() == 60
    assert len(jobs()) == 1


def test_without_schedules_none_will_come(schedules: ScheduleService) -> None:
    assert schedules.fire_due() == math.inf


def test_ticks_that_are_fired_late_leave_the_rhythm_as_it_was(
    schedules: ScheduleService, clock: FakeClock
) -> None:
    schedule = schedules.put("nightly", "t", interval=60)
    for late in (61.5, 59.9, 123.25):
        clock.advance(late)
        schedules.fire_due()
        phase = schedules.get("nightly").next_at - schedule.next_at
        assert phase % timedelta(seconds=60) == timedelta(0)


@pytest.mark.parametrize(("misfire", "number"), [("skip", 0), ("once", 1), ("all", 3)])
def test_missed_ticks_are_fired_as_the_schedule_says(
    schedules: ScheduleService,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    misfire: str,
    number: int,
) -> None:
    schedules.put("nightly", "t", interval=600, misfire=misfire)
    clock.advance(3 * 600 + 300)
    assert schedules.fire_due() == 300
    assert len(jobs()) == number


def test_all_missed_ticks_are_fired_oldest_first_up_to_the_cap(
    schedules: ScheduleService, clock: FakeClock, store: Store, jobs: Callable[[], list[Job]]
) -> None:
    first = schedules.put("nightly", "t", interval=60, misfire="all", misfire_cap=3)
    clock.advance(600)
    schedules.fire_due()
    keys = [
        f"schedule:nightly:{to_text(first.next_at + timedelta(seconds=60 * at))}"
        for at in (7, 8, 9)
    ]
    with store.writing(0) as unit:
        handles = [unit.unique_keys.holder(key) for key in keys]
    assert [handle and handle["id"] for handle in handles] == [job.id for job in jobs()]


def test_a_policy_for_retries_reaches_the_job(
    schedules: ScheduleService, clock: FakeClock, jobs: Callable[[], list[Job]]
) -> None:
    policy = RetryPolicy.delays([1, 2, 3])
    schedules.put("nightly", "t", interval=60, retry=policy, max_retries=7)
    clock.advance(60)
    schedules.fire_due()
    [job] = jobs()
    assert job.retry_policy == policy.to_json()
    assert job.max_attempts == 8


def test_a_paused_schedule_fires_nothing_and_makes_up_for_nothing(
    schedules: ScheduleService, clock: FakeClock, jobs: Callable[[], list[Job]]
) -> None:
    schedules.put("nightly", "t", interval=60, misfire="all")
    clock.advance(30)
    assert schedules.pause("nightly").is_paused
    clock.advance(600)
    assert schedules.fire_due() == math.inf
    assert schedules.resume("nightly").next_at == clock.now + timedelta(seconds=30)
    assert schedules.fire_due() == 30
    assert jobs() == []
    clock.advance(30)
    schedules.fire_due()
    assert len(jobs()) == 1


def test_to_pause_or_resume_twice_changes_nothing(
    schedules: ScheduleService, clock: FakeClock
) -> None:
    schedules.put("nightly", "t", interval=60)
    paused = schedules.pause("nightly")
    clock.advance(1)
    assert schedules.pause("nightly") == paused
    resumed = schedules.resume("nightly")
    clock.advance(120)  # it is overdue now, and that is not lost
    assert schedules.resume("nightly") == resumed


def test_a_removed_schedule_fires_nothing_and_its_jobs_stay(
    schedules: ScheduleService, clock: FakeClock, jobs: Callable[[], list[Job]]
) -> None:
    schedules.put("nightly", "t", interval=60)
    clock.advance(60)
    schedules.fire_due()
    schedules.remove("nightly")
    clock.advance(60)
    assert schedules.fire_due() == math.inf
    assert len(jobs()) == 1


def test_a_job_that_is_run_now_is_outside_of_the_rhythm(
    schedules: ScheduleService, jobs: Callable[[], list[Job]], inspection: InspectionService
) -> None:
    schedule = schedules.put("nightly", "t", interval=60, overlap="skip")
    handles = [schedules.run_now("nightly") for _ in range(2)]
    assert all(isinstance(handle, JobHandle) and handle.created for handle in handles)
    assert [job.key for job in jobs()] == [handle.key for handle in handles]
    assert schedules.get("nightly") == schedule
    schedules.pause("nightly")
    assert inspection.find(schedules.run_now("nightly")).task == "t"


def test_the_handle_of_a_job_that_is_run_now_knows_whom_to_ask(
    schedules: ScheduleService, settlement: SettlementService, claim: Claim
) -> None:
    schedules.put("nightly", "t", interval=60, keep_result=60)
    handle = schedules.run_now("nightly")
    job = claim()
    assert job is not None
    settlement.complete(job.id, 0, result='"done"')
    assert handle.result(timeout=0) == "done"


# Overlap


@pytest.fixture
def overlapping(schedules: ScheduleService, clock: FakeClock) -> Schedule:
    """A schedule that skips overlapping ticks, and whose first job waits."""
    schedules.put("nightly", "t", interval=60, overlap="skip")
    clock.advance(60)
    schedules.fire_due()
    return schedules.get("nightly")


def test_a_tick_is_skipped_while_the_last_job_waits_or_runs_or_is_to_be_tried_again(
    schedules: ScheduleService,
    overlapping: Schedule,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    claim: Claim,
    retry: RetryService,
) -> None:
    for step in (
        lambda: None,
        claim,
        lambda: retry.settle(jobs()[0].id, 0, ConnectionError("again")),
    ):
        step()
        clock.advance(60)
        assert schedules.fire_due() == 60
        assert len(jobs()) == 1
    schedule = schedules.get("nightly")
    assert (schedule.last_at, schedule.last_job) == (overlapping.last_at, overlapping.last_job)


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_the_next_tick_after_the_end_of_the_last_job_is_fired(
    schedules: ScheduleService,
    overlapping: Schedule,
    clock: FakeClock,
    claim: Claim,
    settlement: SettlementService,
    retry: RetryService,
    end: str,
) -> None:
    job = claim()
    assert job is not None
    if end == "complete":
        settlement.complete(job.id, 0)
    elif end == "fail":
        retry.settle(job.id, 0, "never", permanent=True)
    else:
        settlement.cancel(job)
    clock.advance(60)
    schedules.fire_due()
    assert schedules.get("nightly").last_at == clock.now


def test_of_many_missed_ticks_one_is_fired_where_jobs_may_not_overlap(
    schedules: ScheduleService, clock: FakeClock, jobs: Callable[[], list[Job]]
) -> None:
    first = schedules.put("nightly", "t", interval=60, misfire="all", overlap="skip")
    clock.advance(600)
    assert schedules.fire_due() == 60
    assert len(jobs()) == 1
    assert schedules.get("nightly").last_at == first.next_at


@two_shards
def test_whether_a_job_has_ended_does_not_hang_on_other_shards(
    schedules: ScheduleService,
    clock: FakeClock,
    damage: Callable[[int], None],
    store: Store,
    claim: Claim,
    settlement: SettlementService,
) -> None:
    name = name_bound_to({clock.now + timedelta(seconds=60 * at): 0 for at in (1, 2)})
    schedules.put(name, "t", interval=60, overlap="skip")
    clock.advance(60)
    schedules.fire_due()
    job = claim()
    assert job is not None
    settlement.complete(job.id, 0)
    damage(1)
    clock.advance(60)
    schedules.fire_due()
    assert schedules.get(name).last_at == clock.now


# Many processes


def test_two_processes_that_fire_the_same_tick_store_one_job(
    schedules: ScheduleService,
    another: ScheduleService,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedules.put("nightly", "t", interval=60)
    clock.advance(60)
    submit = IntakeService.submit

    def while_another_fires(intake: IntakeService, *arguments: Any) -> JobHandle:
        monkeypatch.setattr(IntakeService, "submit", submit)
        another.fire_due()
        handle = intake.submit(*arguments)
        assert not handle.created
        return handle

    monkeypatch.setattr(IntakeService, "submit", while_another_fires)
    assert schedules.fire_due() == 60
    [job] = jobs()
    assert schedules.get("nightly").last_job == job.key


@pytest.mark.parametrize("stopped_for", [0, 3600])
def test_who_is_stopped_between_reading_and_firing_does_no_harm(
    schedules: ScheduleService,
    another: ScheduleService,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    monkeypatch: pytest.MonkeyPatch,
    stopped_for: float,
) -> None:
    schedules.put("nightly", "t", interval=60, misfire="all")
    clock.advance(60)
    submit = IntakeService.submit

    def while_others_go_on(intake: IntakeService, *arguments: Any) -> JobHandle:
        monkeypatch.setattr(IntakeService, "submit", submit)
        another.fire_due()
        clock.advance(stopped_for)
        another.fire_due()
        return intake.submit(*arguments)

    monkeypatch.setattr(IntakeService, "submit", while_others_go_on)
    schedules.fire_due()
    assert len(jobs()) == 1 + stopped_for / 60
    assert schedules.get("nightly").last_at == clock.now


def test_what_others_changed_since_it_was_found_due_is_not_fired(
    schedules: ScheduleService,
    another: ScheduleService,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"a", "b"}
    for name in names:
        schedules.put(name, name, interval=60)
    clock.advance(60)
    submit = IntakeService.submit

    def while_the_other_is_paused(
        intake: IntakeService, item: dict[str, Any], wait: float
    ) -> JobHandle:
        for name in names - {item["task"]}:
            another.pause(name)
        return submit(intake, item, wait)

    monkeypatch.setattr(IntakeService, "submit", while_the_other_is_paused)
    assert schedules.fire_due() == 60
    assert len(jobs()) == 1


def test_what_others_removed_since_it_was_found_due_is_not_fired(
    schedules: ScheduleService,
    another: ScheduleService,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedules.put("nightly", "t", interval=60)
    clock.advance(60)
    look = ScheduleService._look

    def and_remove(service: ScheduleService) -> Any:
        found = look(service)
        monkeypatch.setattr(ScheduleService, "_look", look)
        another.remove("nightly")
        return found

    monkeypatch.setattr(ScheduleService, "_look", and_remove)
    assert schedules.fire_due() == math.inf


def test_who_dies_between_the_job_and_the_next_tick_leaves_no_second_job(
    schedules: ScheduleService,
    another: ScheduleService,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedules.put("nightly", "t", interval=3600)
    clock.advance(3600)
    with monkeypatch.context() as dying:
        dying.setattr(ScheduleRepository, "advance", None)  # in place of a kill
        with pytest.raises(TypeError):
            schedules.fire_due()
    assert schedules.get("nightly").last_at is None
    clock.advance(1800)
    assert another.fire_due() == 1800
    assert len(jobs()) == 1
    assert another.get("nightly").last_job == jobs()[0].key


def test_no_tick_is_fired_twice_when_the_clock_is_put_back(
    schedules: ScheduleService, clock: FakeClock, jobs: Callable[[], list[Job]]
) -> None:
    schedules.put("nightly", "t", interval=60, misfire="all")
    clock.advance(60)
    schedules.fire_due()
    clock.advance(-30)
    assert schedules.fire_due() == 90
    schedules.put("nightly", "t", interval=60, misfire="all", args=[1])
    schedules.pause("nightly")
    schedules.resume("nightly")
    clock.advance(30)
    assert schedules.fire_due() == 60
    assert len(jobs()) == 1


# Locks and faults


def test_where_nothing_is_due_no_lock_is_taken(
    schedules: ScheduleService,
    clock: FakeClock,
    locked: Locked,
    control_locked: Callable[[], AbstractContextManager[Any]],
) -> None:
    schedules.put("nightly", "t", interval=60)
    schedules.put("paused", "t", interval=10)
    schedules.pause("paused")
    clock.advance(59)
    with locked(0), control_locked():
        assert schedules.fire_due() == 1


def test_the_control_database_is_not_locked_while_a_shard_is_written(
    schedules: ScheduleService,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    control_locked: Callable[[], AbstractContextManager[Any]],
) -> None:
    schedules.put("nightly", "t", interval=60)
    clock.advance(60)
    submit = IntakeService.submit

    def while_another_locks_it(intake: IntakeService, *arguments: Any) -> JobHandle:
        with control_locked():
            return submit(intake, *arguments)

    monkeypatch.setattr(IntakeService, "submit", while_another_locks_it)
    schedules.fire_due()
    assert schedules.get("nightly").last_at == clock.now


@two_shards
def test_a_locked_shard_holds_up_no_other_schedule_and_its_tick_is_tried_again(
    schedules: ScheduleService,
    clock: FakeClock,
    locked: Locked,
    jobs: Callable[[], list[Job]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("queue_max.services.schedules.PATIENCE", 0.02)
    tick = clock.now + timedelta(seconds=600)
    bound, free = name_bound_to({tick: 0}), name_bound_to({tick: 1})
    schedules.put(bound, "bound", interval=600)
    schedules.put(free, "free", interval=600)
    clock.advance(600)
    with locked(0):
        assert schedules.fire_due() == REST
        clock.advance(1)
        assert schedules.fire_due() == REST - 1
        clock.advance(REST - 1)
        assert schedules.fire_due() == REST
    assert fired(jobs) == {"free": 1}
    assert schedules.get(bound).next_at == tick
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert bound in caplog.text
    clock.advance(REST)
    assert schedules.fire_due() == 600 - 2 * REST
    assert fired(jobs) == {"free": 1, "bound": 1}
    assert schedules.get(bound).last_at == tick


@two_shards
def test_schedules_that_a_locked_shard_holds_up_wait_no_longer_than_one_would(
    schedules: ScheduleService,
    clock: FakeClock,
    locked: Locked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    submit = IntakeService.submit

    def noted(intake: IntakeService, item: Any, wait: float) -> JobHandle:
        waits.append(wait)
        clock.advance(wait)  # as long as it takes, by the clock of the service
        return submit(intake, item, 0.0)

    tick = clock.now + timedelta(seconds=600)
    bound = [name_bound_to({tick: 0}, number) for number in range(12)]
    for name in bound:
        schedules.put(name, "t", interval=600)
    clock.advance(600)
    monkeypatch.setattr(IntakeService, "submit", noted)
    with locked(0):
        schedules.fire_due()
    assert len(waits) == 2 * len(bound)
    assert sum(waits) == pytest.approx(1.0)


@two_shards
@pytest.mark.parametrize("misfire", ["once", "skip"])
def test_a_tick_that_a_damaged_shard_refuses_gives_way_to_the_next(
    schedules: ScheduleService,
    clock: FakeClock,
    damage: Callable[[int], None],
    misfire: str,
) -> None:
    tick = clock.now + timedelta(seconds=60)
    name = name_bound_to({tick: 1, tick + timedelta(seconds=60): 0})
    schedules.put(name, "t", interval=60, misfire=misfire)
    damage(1)
    clock.advance(60)
    schedules.fire_due()
    assert schedules.get(name).last_at is None
    clock.advance(60)
    schedules.fire_due()
    assert schedules.get(name).last_at == clock.now


@two_shards
def test_where_all_missed_ticks_are_fired_none_overtakes_one_that_is_refused(
    schedules: ScheduleService,
    clock: FakeClock,
    locked: Locked,
    jobs: Callable[[], list[Job]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("queue_max.services.schedules.PATIENCE", 0.02)
    ticks = [clock.now + timedelta(seconds=60 * number) for number in range(1, 5)]
    name = name_bound_to(dict(zip(ticks, (1, 1, 0, 1), strict=True)))
    schedules.put(name, "t", interval=60, misfire="all")
    clock.advance(240)
    with locked(0):
        schedules.fire_due()
    held_up = schedules.get(name)
    assert (held_up.last_at, held_up.next_at) == (ticks[1], ticks[2])
    assert len(jobs()) == 2
    clock.advance(REST)
    schedules.fire_due()
    assert schedules.get(name).last_at == ticks[3]
    assert len(jobs()) == 4


def test_a_schedule_that_cannot_be_read_holds_up_no_other(
    schedules: ScheduleService,
    control: Control,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("damaged", "sound", "sound too"):
        schedules.put(name, name, interval=60)
    schedules.put("elsewhere", "elsewhere", cron="* * * * *")
    with control._database.writing() as connection:
        for name, values in (("damaged", {"payload": "{"}), ("elsewhere", {"tz": "Mars/Base"})):
            connection.execute(update(table).where(table.c.name == name).values(values))
    clock.advance(60)
    assert schedules.fire_due() == REST
    assert fired(jobs) == {"sound": 1, "sound too": 1}
    assert "schedule 'damaged'" in caplog.text
    assert "tz='Mars/Base'" in caplog.text


def test_a_locked_control_database_is_told_and_nothing_fired_twice(
    schedules: ScheduleService,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    control_locked: Callable[[], AbstractContextManager[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("queue_max.services.schedules.PATIENCE", 0.02)
    for number in range(3):
        schedules.put(f"n{number}", f"t{number}", interval=60)
    clock.advance(60)
    begun = time.monotonic()
    with control_locked(), pytest.raises(ShardBusyError, match="control database"):
        schedules.fire_due()
    assert time.monotonic() - begun < 10  # and not for as long as the busy timeout
    schedules.fire_due()
    assert fired(jobs) == {"t0": 1, "t1": 1, "t2": 1}


# The loop


class Stopping(threading.Event):
    """Told to stop after so many rounds; notes for how long it was waited."""

    def __init__(self, rounds: int, clock: FakeClock | None = None) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._rounds = rounds
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        if self._clock is not None:
            self._clock.advance(timeout)
        if len(self.waits) == self._rounds:
            self.set()
        return self.is_set()


def test_the_loop_fires_each_tick_soon_after_it_is_due(
    schedules: ScheduleService, clock: FakeClock, jobs: Callable[[], list[Job]]
) -> None:
    schedules.put("nightly", "t", interval=2)
    stopping = Stopping(rounds=5, clock=clock)
    schedules.tend(stopping)
    assert len(jobs()) == 4
    assert all(wait <= 2 + SPREAD for wait in stopping.waits)
    assert len(set(stopping.waits)) == 5  # not all at the same instant


def test_the_loop_looks_every_few_seconds_for_what_others_add(schedules: ScheduleService) -> None:
    stopping = Stopping(rounds=3)
    schedules.tend(stopping)
    assert all(LOOK_EVERY <= wait <= LOOK_EVERY + SPREAD for wait in stopping.waits)


@pytest.mark.parametrize("error", [ShardError(None, "no"), RuntimeError("a bug")])
def test_the_loop_survives_errors_and_tells_them(
    schedules: ScheduleService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(stopping: threading.Event) -> float:
        raise error

    monkeypatch.setattr(schedules, "fire_due", fail)
    stopping = Stopping(rounds=2)
    schedules.tend(stopping)
    assert len(stopping.waits) == 2
    assert min(stopping.waits) >= LOOK_EVERY
    assert str(error) in caplog.text
    assert caplog.records[0].levelno >= logging.WARNING


def test_the_loop_ends_with_the_queue(schedules: ScheduleService, control: Control) -> None:
    control.close()
    stopping = Stopping(rounds=9)
    schedules.tend(stopping)
    assert stopping.waits == []


def test_the_loop_breaks_off_when_it_is_told_to_stop(
    schedules: ScheduleService,
    clock: FakeClock,
    jobs: Callable[[], list[Job]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(5):
        schedules.put(f"n{number}", "t", interval=60)
    clock.advance(60)
    stopping = Stopping(rounds=9)
    submit = IntakeService.submit

    def and_stop(intake: IntakeService, *arguments: Any) -> JobHandle:
        stopping.set()
        return submit(intake, *arguments)

    monkeypatch.setattr(IntakeService, "submit", and_stop)
    schedules.tend(stopping)
    assert len(jobs()) == 1
