"""The log of events, on a control database of either kind."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.events import StoredEvent
from queue_max.exceptions import ShardDamagedError
from queue_max.repositories.control import Control
from queue_max.storage.database import Database
from queue_max.storage.schema import events

Add = Callable[..., None]
Read = Callable[..., list[StoredEvent]]


@pytest.fixture
def control(database: Database) -> Control:
    return Control(database)


@pytest.fixture
def add(control: Control, clock: FakeClock) -> Add:
    """Store an event for each name, and trim the log if told to."""

    def add(*names: str, kept: int | None = None, **facts: Any) -> None:
        with control.noting() as unit:
            unit.events.add([(clock.now, name, facts) for name in names])
            if kept is not None:
                unit.events.trim(kept)

    return add


@pytest.fixture
def newest(control: Control) -> Read:
    def newest(limit: int | None = None) -> list[StoredEvent]:
        with control.reading() as unit:
            return list(unit.events.newest(limit))

    return newest


@pytest.fixture
def after(control: Control) -> Read:
    def after(since: int, limit: int | None = None) -> list[StoredEvent]:
        with control.reading() as unit:
            return list(unit.events.after(since, limit))

    return after


def names(found: list[StoredEvent]) -> str:
    return "".join(event.event for event in found)


def test_an_event_is_read_as_it_was_stored(add: Add, newest: Read, clock: FakeClock) -> None:
    facts = {"job_id": 2**62, "error": 'a "quote"\n\x00, half a pair \ud800 and é'}
    add("job_failed", **facts)
    [found] = newest()
    assert (found.event, found.at, found.facts) == ("job_failed", clock.now, facts)
    assert found.to_dict() == {
        "id": found.id,
        "at": to_text(clock.now),
        "event": "job_failed",
        "facts": facts,
    }


def test_events_come_in_order_and_have_rising_ids(add: Add, newest: Read) -> None:
    add("a", "b")
    add("c")
    found = newest()
    assert names(found) == "abc"
    assert [event.id for event in found] == sorted({event.id for event in found})


def test_only_the_newest_are_read_where_there_are_more(add: Add, newest: Read) -> None:
    add(*"abcde")
    assert names(newest(2)) == "de"
    assert newest(0) == []


def test_a_reader_goes_on_after_the_last_one_it_has_seen(
    add: Add, newest: Read, after: Read
) -> None:
    add(*"abcde")
    first = newest()[0].id - 1
    assert names(after(first, 2)) == "ab"
    assert names(after(after(first, 2)[-1].id, 2)) == "cd"
    assert names(after(after(first)[-1].id)) == ""
    assert names(after(2**63 - 1)) == ""


def test_only_so_many_are_kept(add: Add, newest: Read) -> None:
    add(*"abcde", kept=3)
    assert names(newest()) == "cde"
    add("f", kept=3)
    assert names(newest()) == "def"
    add("g", kept=1_000)
    assert names(newest()) == "defg"


def test_an_id_is_never_given_again(add: Add, newest: Read, control: Control) -> None:
    add("a")
    last = newest()[-1].id
    with control.writing() as unit:
        unit.events.trim(0)
    add("b")
    assert newest()[0].id > last


def test_who_reads_while_others_write_misses_none(control: Control, clock: FakeClock) -> None:
    """A number that is taken first, and committed last, would be passed over."""
    beginning, seen = threading.Barrier(5), list[int]()

    def write() -> None:
        beginning.wait(30)
        for _ in range(25):
            with control.noting() as unit:
                unit.events.add([(clock.now, "e", {})])

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(write) for _ in range(4)]
        beginning.wait(30)
        while True:
            is_over = all(each.done() for each in done)
            with control.reading() as unit:
                seen += [event.id for event in unit.events.after(seen[-1] if seen else 0, None)]
            if is_over:
                break
    assert [each.exception() for each in done] == [None] * 4
    assert len(seen) == 100


def test_facts_that_are_none_any_more_say_so(
    database: Database, add: Add, newest: Read, clock: FakeClock
) -> None:
    add("a")
    with database.writing() as connection:
        connection.execute(update(events).values(facts="{"))
    with pytest.raises(ShardDamagedError, match=r"event [0-9]+: "):
        newest()


def test_the_moment_of_an_event_is_that_of_its_publishing(
    control: Control, newest: Read, clock: FakeClock
) -> None:
    earlier = clock.now - timedelta(seconds=30)
    with control.noting() as unit:
        unit.events.add([(earlier, "a", {})])
    assert newest()[0].at == earlier
