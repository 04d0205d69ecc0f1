"""The table of schedules, on a control database of either kind."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support.clock import FakeClock

from queue_max.domain.schedules import Misfire, Overlap, Schedule, check_schedule
from queue_max.exceptions import QueueClosedError, ShardDamagedError
from queue_max.repositories.control import Control
from queue_max.storage.database import Database
from queue_max.storage.directory import Directory
from queue_max.storage.schema import schedules
from queue_max.storage.sqlite import SqliteOptions

Add = Callable[..., Schedule]


@pytest.fixture
def later(clock: FakeClock) -> Callable[[float], datetime]:
    return lambda seconds: clock.now + timedelta(seconds=seconds)


@pytest.fixture
def add(control: Control, clock: FakeClock) -> Add:
    """Store a schedule that is due, unless it says when; gives it as it is read."""

    def add(name: str = "nightly", next_at: datetime | None = None, **declared: Any) -> Schedule:
        defaults: dict[str, Any] = {"interval": 60.0, "options": {}}
        new = check_schedule(name, declared.pop("task", "t"), **defaults | declared)
        with control.writing() as unit:
            unit.schedules.add(new, next_at or clock.now)
        return find(control, name)

    return add


def find(control: Control, name: str = "nightly") -> Schedule:
    with control.reading() as unit:
        found = unit.schedules.find(name)
    assert found is not None
    return found


def test_a_schedule_is_read_as_it_was_stored(add: Add, clock: FakeClock) -> None:
    declared: dict[str, Any] = {
        "task": "reports.send",
        "interval": None,
        "cron": "30 2 * * *",
        "tz": "Europe/Berlin",
        "kwargs": {"to": "ü", "n": 2**70},
        "misfire": "all",
        "misfire_cap": 7,
        "overlap": "skip",
        "options": {"priority": 2, "timeout": 1.5},
    }
    stored = add(**declared)
    assert stored.is_as(check_schedule("nightly", **declared))
    assert (stored.misfire, stored.overlap) == (Misfire.ALL, Overlap.SKIP)
    assert (stored.is_paused, stored.last_at, stored.last_job) == (False, None, None)
    assert stored.next_at == stored.created_at == stored.updated_at == clock.now
    assert stored.revision == 1


def test_an_interval_is_read_to_the_millisecond(add: Add) -> None:
    assert add(interval=1.001).interval == 1.001


def test_a_name_that_is_not_there_is_none(control: Control) -> None:
    with control.writing() as unit:
        assert unit.schedules.find("nightly") is None
        assert unit.schedules.hold("nightly") is None
        unit.schedules.remove("nightly")


def test_schedules_are_listed_by_name(control: Control, add: Add) -> None:
    stored = [add(name) for name in ("b", "a", "c")]
    with control.reading() as unit:
        listed = unit.schedules.list()
    assert listed == sorted(stored, key=lambda each: each.name)


def test_what_is_due_is_named_and_when_the_next_will_be(
    control: Control, add: Add, later: Callable[[float], datetime], clock: FakeClock
) -> None:
    add("overdue", later(-60))
    add("due", clock.now)
    add("next", later(0.002))
    add("last", later(60))
    add("paused", later(-1))
    add("paused as well", later(0.001))
    with control.writing() as unit:
        unit.schedules.pause("paused")
        unit.schedules.pause("paused as well")
    with control.reading() as unit:
        assert set(unit.schedules.due()) == {"overdue", "due"}
        assert unit.schedules.next_at() == later(0.002)


def test_where_nothing_will_be_due_no_moment_is_named(control: Control, add: Add) -> None:
    add()
    with control.reading() as unit:
        assert unit.schedules.next_at() is None


def test_a_change_keeps_what_was_fired_and_whether_it_is_paused(
    control: Control, add: Add, clock: FakeClock, later: Callable[[float], datetime]
) -> None:
    stored = add()
    with control.writing() as unit:
        assert unit.schedules.advance(stored, later(60), clock.now, "0-abc")
        unit.schedules.pause("nightly")
    clock.advance(5)
    changed = check_schedule("nightly", "other", cron="@daily", args=[1], options={})
    with control.writing() as unit:
        unit.schedules.change(changed, later(7))
    found = find(control)
    assert found.is_as(changed)
    assert (found.next_at, found.is_paused) == (later(7), True)
    assert (found.last_at, found.last_job) == (later(-5), "0-abc")
    assert (found.created_at, found.updated_at) == (stored.created_at, clock.now)


def test_each_change_raises_the_revision(
    control: Control, add: Add, later: Callable[[float], datetime]
) -> None:
    stored = add()
    revisions = [stored.revision]
    changes: list[Callable[[Any], object]] = [
        lambda table: table.pause("nightly"),
        lambda table: table.resume("nightly", later(5)),
        lambda table: table.change(stored, later(6)),
        lambda table: table.advance(find(control), later(7), None, None),
    ]
    for change in changes:
        with control.writing() as unit:
            change(unit.schedules)
        revisions.append(find(control).revision)
    assert revisions == [1, 2, 3, 4, 5]


def test_a_schedule_that_others_have_changed_is_not_advanced(
    control: Control, add: Add, clock: FakeClock, later: Callable[[float], datetime]
) -> None:
    read = add()
    with control.writing() as unit:
        assert unit.schedules.advance(read, later(60), clock.now, "0-first")
    with control.writing() as unit:
        assert not unit.schedules.advance(read, later(60), clock.now, "0-second")
    found = find(control)
    assert (found.next_at, found.last_at, found.last_job) == (later(60), clock.now, "0-first")


def test_one_that_was_removed_and_added_anew_is_not_advanced(
    control: Control, add: Add, clock: FakeClock, later: Callable[[float], datetime]
) -> None:
    read = add()
    with control.writing() as unit:
        unit.schedules.remove("nightly")
    assert add(next_at=later(5)).revision == read.revision
    with control.writing() as unit:
        assert not unit.schedules.advance(read, later(60), clock.now, None)


def test_of_8_threads_that_find_a_name_free_one_adds_it(control: Control, clock: FakeClock) -> None:
    new = check_schedule("nightly", "t", interval=60, options={})
    barrier = threading.Barrier(8)

    def declare(_: int) -> bool:
        barrier.wait()
        with control.writing() as unit:
            if is_free := unit.schedules.hold("nightly") is None:
                unit.schedules.add(new, clock.now)
        return is_free

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(declare, range(8))) == 1


def test_of_8_threads_that_fired_a_tick_one_advances_the_schedule(
    control: Control, add: Add, clock: FakeClock, later: Callable[[float], datetime]
) -> None:
    read = add()
    barrier = threading.Barrier(8)

    def advance(number: int) -> bool:
        barrier.wait()
        with control.writing() as unit:
            return unit.schedules.advance(read, later(60), clock.now, f"0-{number}")

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(advance, range(8))) == 1
    assert find(control).revision == 2


def test_a_removed_schedule_is_gone_and_the_others_stay(control: Control, add: Add) -> None:
    add("a")
    other = add("b")
    with control.writing() as unit:
        unit.schedules.remove("a")
    with control.reading() as unit:
        assert unit.schedules.list() == [other]


@pytest.mark.parametrize(
    "damage", [{"payload": "{"}, {"options": ""}, {"misfire": "maybe"}, {"overlap": "maybe"}]
)
def test_a_row_that_is_not_what_was_stored_is_damage_and_named(
    control: Control, database: Database, add: Add, damage: dict[str, str]
) -> None:
    add("sound")
    add()
    with database.writing() as connection:
        connection.execute(update(schedules).where(schedules.c.name == "nightly").values(damage))
    with pytest.raises(ShardDamagedError, match="schedule 'nightly'"):
        find(control)
    assert find(control, "sound").name == "sound"


def test_a_unit_has_one_time(control: Control, clock: FakeClock) -> None:
    with control.reading() as unit:
        assert unit.now == clock.now


def test_without_a_clock_of_its_own_the_time_is_that_of_the_database(database: Database) -> None:
    with Control(database).reading() as unit, database.reading() as connection:
        assert abs(unit.now - database.now(connection)) < timedelta(minutes=1)


def test_an_exception_undoes_a_unit(control: Control, add: Add) -> None:
    stored = add()

    def fail_amid() -> None:
        with control.writing() as unit:
            unit.schedules.pause("nightly")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_amid()
    assert find(control) == stored


def test_once_it_is_closed_who_uses_it_is_told_so(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "other", SqliteOptions(full_sync=False))
    directory.open(1)
    control = Control(directory.control)
    control.close()
    with pytest.raises(QueueClosedError), control.reading():
        pass
    with pytest.raises(QueueClosedError), control.writing():
        pass
    directory.close()
