import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.events import EVENTS, Events
from queue_max.exceptions import ConfigurationError, QueueClosedError, ShardBusyError, ShardError
from queue_max.repositories.control import Control
from queue_max.services import event_log
from queue_max.services.event_log import EventLog

KEPT = 5


@pytest.fixture
def log(control: Control, events: Events, clock: FakeClock) -> EventLog:
    log = EventLog(control, KEPT, clock)
    log.listen(events)
    return log


def numbers(log: EventLog, since: int | None = None, limit: int | None = None) -> list[Any]:
    return [event.facts["job_id"] for event in log.read(since, limit)]


def publish(events: Events, *job_ids: int) -> None:
    for job_id in job_ids:
        events.publish("job_enqueued", job_id=job_id, shard_id=0)


@contextmanager
def refusing(control: Control, error: Exception) -> Iterator[None]:
    """Let nothing be written to the control database within the block."""

    def refuse(wait: float | None = None) -> None:
        raise error

    control.noting = refuse  # type: ignore[assignment,method-assign]
    yield
    del control.noting  # type: ignore[method-assign]


def test_every_event_is_logged(log: EventLog, events: Events, clock: FakeClock) -> None:
    assert all(events.are_heard(event) for event in EVENTS)
    events.publish("alert", type="QUEUE_SIZE", pending=3, threshold=2)
    published_at = clock.now
    clock.advance(5)
    [found] = log.read(None, None)
    assert (found.event, found.at) == ("alert", published_at)
    assert found.facts == {"type": "QUEUE_SIZE", "pending": 3, "threshold": 2}


def test_to_publish_writes_nothing_and_what_is_read_has_been_written(
    log: EventLog, events: Events, control: Control
) -> None:
    with refusing(control, AssertionError("somebody writes")):
        publish(events, 1, 2)
    assert numbers(log) == [1, 2]


def test_a_log_that_only_reads_sees_what_others_have_written(
    log: EventLog, events: Events, control: Control
) -> None:
    publish(events, 1)
    reader = EventLog(control, 0)
    assert numbers(reader) == []
    log.write()
    assert numbers(reader) == [1]


def test_only_the_newest_are_kept(log: EventLog, events: Events) -> None:
    publish(events, *range(8))
    log.write()
    publish(events, 8)
    assert numbers(log) == [4, 5, 6, 7, 8]


def test_more_than_a_transaction_holds_is_written_in_several(
    log: EventLog, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "BATCH", 2)
    publish(events, *range(5))
    assert numbers(log) == [0, 1, 2, 3, 4]


def test_what_is_silenced_is_not_logged(log: EventLog, events: Events) -> None:
    with events.silenced():
        publish(events, 1)
    assert numbers(log) == []


def test_what_finds_no_room_is_lost_and_counted(
    log: EventLog,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(event_log, "ROOM", 2)
    publish(events, 1, 2, 3, 4, 5)
    assert numbers(log) == [1, 2]
    assert log.lost == 3
    publish(events, 6)
    assert numbers(log) == [1, 2, 6]
    assert [(each.levelno, each.message) for each in caplog.records] == [
        (logging.WARNING, "the log of events lacks 3 more")
    ]


def test_while_others_hold_the_database_events_wait_for_the_next_time(
    log: EventLog, events: Events, control: Control
) -> None:
    publish(events, 1, 2)
    with refusing(control, ShardBusyError(None, "others write to it")):
        log.write()
        publish(events, 3)
    assert numbers(log) == [1, 2, 3]
    assert log.lost == 0


@pytest.mark.parametrize(
    "error", [ShardError(None, "no room"), QueueClosedError(), TypeError("no JSON")], ids=repr
)
def test_what_cannot_be_written_is_lost_and_counted_and_raises_nothing(
    log: EventLog, events: Events, control: Control, error: Exception
) -> None:
    publish(events, 1, 2)
    with refusing(control, error):
        log.write()
    assert log.lost == 2
    publish(events, 3)
    assert numbers(log) == [3]


def test_a_reader_goes_on_after_what_it_has_seen(log: EventLog, events: Events) -> None:
    publish(events, 1, 2, 3)
    first, *_ = log.read(None, None)
    assert numbers(log, since=first.id, limit=1) == [2]
    assert numbers(log, since=first.id) == [2, 3]
    assert numbers(log, limit=1) == [3]


@pytest.mark.parametrize(
    ("since", "limit", "named"), [("1", 1, "since"), (-1, 1, "since"), (1, "1", "limit")]
)
def test_only_whole_numbers_can_be_asked_for(
    log: EventLog, since: Any, limit: Any, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{named}="):
        log.read(since, limit)


def test_all_threads_may_publish_and_write_at_once(events: Events, control: Control) -> None:
    log = EventLog(control, 1_000)
    log.listen(events)

    def work(first: int) -> None:
        for number in range(first, first + 50):
            publish(events, number)
            log.write()

    threads = [threading.Thread(target=work, args=[n * 50]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(log)) == [*range(200)]
