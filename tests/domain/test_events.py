import logging
import threading
from typing import Any

import pytest

from queue_max.domain.events import EVENTS, Events
from queue_max.exceptions import ConfigurationError

FACTS: dict[str, dict[str, Any]] = {
    event: {name: f"the {name} of {event}" for name in facts} for event, facts in EVENTS.items()
}
CONTRACT = {
    "job_enqueued": ("job_id", "shard_id"),
    "job_completed": ("job_id", "shard_id"),
    "job_failed": ("job_id", "shard_id", "error"),
    "job_retried": ("job_id", "shard_id", "error"),
    "alert": ("type", "pending", "threshold"),
}


class Listener:
    """A callback that keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def __call__(self, **facts: Any) -> None:
        self.heard.append(facts)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def listener(events: Events) -> Listener:
    listener = Listener()
    events.on("job_enqueued", listener)
    return listener


def broken(**_: object) -> None:
    raise RuntimeError("callback broke")


def publish_from_a_thread(events: Events, event: str, **facts: Any) -> None:
    thread = threading.Thread(target=events.publish, args=(event,), kwargs=facts)
    thread.start()
    thread.join()


def test_there_are_the_events_of_the_contract_with_its_facts() -> None:
    assert {event: EVENTS[event] for event in CONTRACT} == CONTRACT


@pytest.mark.parametrize("event", FACTS)
def test_a_callback_is_told_the_facts_of_its_event_only(events: Events, event: str) -> None:
    listener = Listener()
    events.on(event, listener)
    for each, facts in FACTS.items():
        events.publish(each, **facts)
    assert listener.heard == [FACTS[event]]


def test_all_callbacks_of_an_event_are_told_in_the_order_they_came(events: Events) -> None:
    told: list[str] = []
    for name in "abc":
        events.on("job_completed", lambda name=name, **_: told.append(name))
    events.publish("job_completed", job_id=1, shard_id=0)
    assert told == ["a", "b", "c"]


def test_a_callback_that_came_twice_is_told_twice(events: Events, listener: Listener) -> None:
    events.on("job_enqueued", listener)
    events.publish("job_enqueued", job_id=1)
    assert len(listener.heard) == 2


def test_an_unknown_event_is_refused_with_those_there_are(events: Events) -> None:
    with pytest.raises(ValueError, match=r"Unknown event: 'job_done'; .*job_completed") as caught:
        events.on("job_done", Listener())
    assert isinstance(caught.value, ConfigurationError)
    assert all(event in str(caught.value) for event in FACTS)


def test_a_callback_that_raises_is_logged_and_harms_nobody(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    events.on("job_failed", broken)
    events.on("job_failed", listener)
    events.publish("job_failed", job_id=1)
    assert listener.heard == [{"job_id": 1}]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "job_failed" in record.getMessage()
    assert "callback broke" in str(record.exc_info[1])


def test_two_queues_share_no_callbacks(events: Events, listener: Listener) -> None:
    Events().publish("job_enqueued", job_id=1)
    assert listener.heard == []


def test_a_callback_may_publish(events: Events, listener: Listener) -> None:
    events.on("job_completed", lambda **_: events.publish("job_enqueued", job_id=2))
    events.publish("job_completed", job_id=1)
    assert listener.heard == [{"job_id": 2}]


def test_nothing_is_told_while_silenced_nor_made_up_for(events: Events, listener: Listener) -> None:
    with events.silenced():
        events.publish("job_enqueued", job_id=1)
    events.publish("job_enqueued", job_id=2)
    assert listener.heard == [{"job_id": 2}]


def test_the_end_of_an_inner_silence_does_not_end_the_outer(
    events: Events, listener: Listener
) -> None:
    with events.silenced():
        with events.silenced():
            events.publish("job_enqueued", job_id=1)
        events.publish("job_enqueued", job_id=2)
    events.publish("job_enqueued", job_id=3)
    assert listener.heard == [{"job_id": 3}]


def test_a_silence_ends_with_an_error_too(events: Events, listener: Listener) -> None:
    with pytest.raises(RuntimeError), events.silenced():
        raise RuntimeError
    events.publish("job_enqueued", job_id=1)
    assert listener.heard == [{"job_id": 1}]


def test_other_threads_are_heard_during_a_silence(events: Events, listener: Listener) -> None:
    with events.silenced():
        publish_from_a_thread(events, "job_enqueued", job_id=1)
        events.publish("job_enqueued", job_id=2)
    assert listener.heard == [{"job_id": 1}]


def test_the_silence_of_another_thread_is_not_ours(events: Events, listener: Listener) -> None:
    silent, done = threading.Barrier(2), threading.Event()

    def be_silent() -> None:
        with events.silenced():
            silent.wait(30)
            done.wait(30)

    thread = threading.Thread(target=be_silent)
    thread.start()
    silent.wait(30)
    events.publish("job_enqueued", job_id=1)
    done.set()
    thread.join()
    assert listener.heard == [{"job_id": 1}]


def test_the_silence_of_one_queue_is_not_that_of_another(
    events: Events, listener: Listener
) -> None:
    with Events().silenced():
        events.publish("job_enqueued", job_id=1)
    assert listener.heard == [{"job_id": 1}]


@pytest.mark.parametrize("callback", [None, "print", 5])
def test_what_cannot_be_called_is_no_callback(events: Events, callback: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^callback={callback!r}: should be callable"):
        events.on("job_enqueued", callback)


@pytest.mark.parametrize("event", [[], {}])
def test_an_event_of_no_name_at_all_is_unknown(events: Events, event: Any) -> None:
    with pytest.raises(ConfigurationError, match="Unknown event: "):
        events.on(event, print)


def test_who_has_unsubscribed_is_told_no_more(events: Events, listener: Listener) -> None:
    events.off("job_enqueued", listener)
    events.publish("job_enqueued", job_id=1)
    assert listener.heard == []
    assert not events.are_heard("job_enqueued")


def test_of_two_subscriptions_one_is_undone_at_a_time(events: Events, listener: Listener) -> None:
    events.on("job_enqueued", listener)
    events.off("job_enqueued", listener)
    events.publish("job_enqueued", job_id=1)
    assert len(listener.heard) == 1


def test_to_unsubscribe_who_never_asked_is_harmless(events: Events, listener: Listener) -> None:
    events.off("job_completed", listener)
    events.off("job_enqueued", print)
    events.publish("job_enqueued", job_id=1)
    assert len(listener.heard) == 1


def test_a_callback_may_unsubscribe_itself(events: Events, listener: Listener) -> None:
    def once(**_: object) -> None:
        events.off("job_completed", once)
        listener()

    events.on("job_completed", once)
    events.publish("job_completed", job_id=1)
    events.publish("job_completed", job_id=2)
    assert len(listener.heard) == 1


def test_another_thread_can_be_made_to_tell_what_this_one_publishes(
    events: Events, listener: Listener
) -> None:
    left: list[Any] = []
    with events.told_elsewhere(left.append):
        events.publish("job_enqueued", job_id=1)
        publish_from_a_thread(events, "job_enqueued", job_id=2)
    assert listener.heard == [{"job_id": 2}]
    events.publish("job_enqueued", job_id=3)
    [tell] = left
    tell()
    assert listener.heard == [{"job_id": 2}, {"job_id": 3}, {"job_id": 1}]


def test_nothing_is_left_to_be_told_where_nobody_listens_or_is_to_hear(
    events: Events, listener: Listener
) -> None:
    left: list[Any] = []
    with events.told_elsewhere(left.append), events.silenced():
        events.publish("job_enqueued", job_id=1)
    with events.told_elsewhere(left.append):
        events.publish("job_completed", job_id=1)
    assert left == []
