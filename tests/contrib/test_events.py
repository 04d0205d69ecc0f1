"""Typed events: the contract's face, what arrives, and that nothing is left when it is closed."""

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.programs import eventually

from queue_max import ConfigurationError, Queue, QueueError, Worker
from queue_max.contrib import events as module
from queue_max.contrib.events import (
    TYPES,
    Alert,
    JobCompleted,
    JobEnqueued,
    JobEvent,
    JobFailed,
    QueueEvent,
    QueueEventBus,
)
from queue_max.domain.events import EVENTS

MakeBus = Callable[..., QueueEventBus]

CONTRACT = {
    "JobEnqueued": {"job_id": int, "shard_id": int},
    "JobCompleted": {"job_id": int, "shard_id": int},
    "JobFailed": {"job_id": int, "shard_id": int, "error": str},
    "JobRetried": {"job_id": int, "shard_id": int, "error": str},
    "Alert": {"alert_type": str, "pending": int, "threshold": int},
}

FACTS: dict[str, Any] = {
    "job_id": 7,
    "shard_id": 2,
    "worker_id": "w",
    "error": "it broke",
    "reason": "because",
    "type": "QUEUE_SIZE",
    "pending": 11,
    "threshold": 10,
    "name": "mail",
    "failures": 5,
}


@pytest.fixture
def make_bus(queue: Queue) -> Iterator[MakeBus]:
    """Make buses for the queue; all are closed at the end, and leave no thread."""
    made: list[QueueEventBus] = []

    def make(**options: Any) -> QueueEventBus:
        made.append(QueueEventBus(queue, **options))
        return made[-1]

    yield make
    for bus in made:
        bus.close()
    assert threads() == []


@pytest.fixture
def bus(make_bus: MakeBus) -> QueueEventBus:
    return make_bus()


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "queue-max-events"]


def publish(queue: Queue, event: str) -> dict[str, Any]:
    facts = {name: FACTS[name] for name in EVENTS[event]}
    queue.services.events.publish(event, **facts)
    return facts


def facts_of(event: QueueEvent) -> dict[str, Any]:
    """Give what is the event's own, and not that of the bus."""
    return {
        name: value for name, value in event.model_dump().items() if not name.startswith("event_")
    }


def noted(bus: QueueEventBus, event_type: type[QueueEvent] | str) -> list[QueueEvent]:
    """Give a list that grows by each event of a type."""
    seen: list[QueueEvent] = []
    bus.on(event_type, seen.append)
    return seen


# The contract


def test_the_classes_of_the_contract_have_its_fields() -> None:
    for name, fields in CONTRACT.items():
        own = getattr(module, name).model_fields
        assert {
            field: own[field].annotation for field in own if not field.startswith("event_")
        } == fields


def test_the_bus_has_the_face_of_the_contract() -> None:
    signature = inspect.signature(QueueEventBus)
    assert [
        (each.name, each.default, each.kind.name) for each in signature.parameters.values()
    ] == [
        ("queue", inspect.Parameter.empty, "POSITIONAL_OR_KEYWORD"),
        ("bus_name", "queue_max", "KEYWORD_ONLY"),
        ("wal_path", None, "KEYWORD_ONLY"),
        ("max_history_size", 50, "KEYWORD_ONLY"),
    ]
    assert list(inspect.signature(QueueEventBus.expect).parameters) == [
        "self",
        "event_type",
        "timeout",
        "predicate",
    ]


def test_there_is_a_type_for_each_event() -> None:
    assert list(TYPES) == list(EVENTS)


# Handlers


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_arrives_as_its_type(queue: Queue, bus: QueueEventBus, event: str) -> None:
    seen = noted(bus, TYPES[event])
    for each in EVENTS:
        facts = publish(queue, each)
        if each == event:
            expected = {f"alert_{key}" if key == "type" else key: facts[key] for key in facts}
    bus.close()
    [found] = seen
    assert type(found) is TYPES[event]
    assert facts_of(found) == expected


def test_an_alert_arrives(
    monkeypatch: pytest.MonkeyPatch, make_queue: Callable[..., Queue]
) -> None:
    monkeypatch.setenv("QUEUE_ALERT_THRESHOLD", "2")
    queue = make_queue(shards=1)
    with QueueEventBus(queue) as bus:
        seen = noted(bus, Alert)
        queue.enqueue_batch([{"payload": {}}] * 3)
    assert [facts_of(event) for event in seen] == [
        {"alert_type": "QUEUE_SIZE", "pending": 3, "threshold": 2}
    ]


def test_the_life_of_a_job_is_handled_in_order(queue: Queue, bus: QueueEventBus) -> None:
    seen = noted(bus, "job_*")
    queue.enqueue({})
    queue.drain(print)
    queue.enqueue({}, max_retries=0)
    queue.drain(lambda payload: 1 / 0)
    bus.close()
    assert [type(event).__name__ for event in seen] == [
        *("JobEnqueued", "JobStarted", "JobCompleted"),
        *("JobEnqueued", "JobStarted", "JobFailed", "JobDeadLettered"),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("job_*", [name for name in EVENTS if name.startswith("job_")]),
        ("*", list(EVENTS)),
        ("alert", ["alert"]),
        ("JobFailed", ["job_failed"]),
        ("Circuit*", ["circuit_opened", "circuit_closed"]),
        (QueueEvent, list(EVENTS)),
        (JobEvent, [name for name in EVENTS if name.startswith("job_")]),
    ],
)
def test_a_pattern_matches_all_events_it_fits(
    queue: Queue, bus: QueueEventBus, pattern: Any, expected: list[str]
) -> None:
    seen = noted(bus, pattern)
    for event in EVENTS:
        publish(queue, event)
    bus.close()
    assert [type(event) for event in seen] == [TYPES[name] for name in expected]


@pytest.mark.parametrize("pattern", ["job_lost", "", 5, None, int, "JOB_*"])
def test_what_fits_no_event_is_refused_with_those_there_are(
    bus: QueueEventBus, pattern: Any
) -> None:
    for subscribe in (lambda: bus.on(pattern, print), lambda: bus.expect(pattern, timeout=0)):
        with pytest.raises(ConfigurationError, match=r"^event_type=.*job_dead_lettered"):
            subscribe()


def test_a_decorated_function_stays_what_it_was(queue: Queue, bus: QueueEventBus) -> None:
    seen: list[int] = []

    @bus.on(JobEnqueued)
    @bus.on("job_completed")
    def handle(event: JobEnqueued) -> None:
        seen.append(event.job_id)

    assert handle.__name__ == "handle"
    assert bus.on(JobEnqueued, handle) is handle
    queue.enqueue({})
    bus.close()
    assert seen == [1, 1]


def test_handlers_of_any_kind_are_called_though_they_share_a_name(
    queue: Queue, bus: QueueEventBus
) -> None:
    seen: list[str] = []

    class Handler:
        def __call__(self, event: JobEnqueued) -> None:
            seen.append("object")

        def method(self, event: JobEnqueued) -> None:
            seen.append("method")

    async def coroutine(event: JobEnqueued) -> None:
        await asyncio.sleep(0)
        seen.append("coroutine")

    for handler in (Handler(), Handler(), Handler().method, coroutine, coroutine):
        bus.on(JobEnqueued, handler)
    bus.on(JobEnqueued, lambda event: seen.append("lambda"))
    bus.on(JobEnqueued, lambda event: seen.append("lambda"))
    queue.enqueue({})
    bus.close()
    assert seen == [*["object"] * 2, "method", *["coroutine"] * 2, *["lambda"] * 2]


def caused() -> Exception:
    error = ValueError("no")
    error.__cause__ = KeyError("why")
    return error


@pytest.mark.parametrize(
    "error", [ValueError("no"), caused(), SystemExit(3), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_raises_is_logged_and_counted_and_harms_nobody(
    queue: Queue,
    bus: QueueEventBus,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    is_async: bool,
) -> None:
    def fail(event: JobEnqueued) -> None:
        raise error

    async def fail_later(event: JobEnqueued) -> None:
        raise error

    bus.on(JobEnqueued, fail_later if is_async else fail)
    seen = noted(bus, JobEnqueued)
    queue.enqueue({})
    queue.enqueue({})
    bus.close()
    assert len(seen) == 2
    assert bus.get_metrics()["total_errors"] == 2
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("handler", ["print", 5])
def test_what_cannot_be_called_is_no_handler(bus: QueueEventBus, handler: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^handler="):
        bus.on(JobEnqueued, handler)


def test_a_slow_handler_holds_up_neither_workers_nor_producers(
    queue: Queue, bus: QueueEventBus
) -> None:
    go = threading.Event()
    seen: list[int] = []

    @bus.on(JobCompleted)
    def handle(event: JobCompleted) -> None:
        assert go.wait(60)
        seen.append(event.job_id)

    worker = Worker("w", lambda payload: None, queue)
    worker.start()
    queue.enqueue_batch([{"payload": {}}] * 30)
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    assert seen == []
    go.set()
    bus.close()
    assert sorted(seen) == [*range(1, 31)]


def test_many_events_at_once_are_all_handled(queue: Queue, bus: QueueEventBus) -> None:
    """bubus itself takes no more than 50."""
    seen = noted(bus, JobEnqueued)
    queue.enqueue_batch([{"payload": {}}] * 300)
    bus.close(60)
    assert len(seen) == 300


def test_what_nobody_can_keep_up_with_is_dropped_and_counted(
    queue: Queue, bus: QueueEventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue_max.contrib.events.delivery.ROOM", 3)
    entered, go = threading.Event(), threading.Event()

    @bus.on(JobEnqueued)
    def handle(event: JobEnqueued) -> None:
        entered.set()
        assert go.wait(60)

    queue.enqueue({})
    assert entered.wait(30)
    queue.enqueue_batch([{"payload": {}}] * 5)
    go.set()
    metrics = bus.get_metrics()
    assert (metrics["total_dispatched"], metrics["total_dropped"]) == (4, 2)


def test_an_event_that_is_not_as_its_type_says_harms_no_other(
    queue: Queue, bus: QueueEventBus, caplog: pytest.LogCaptureFixture
) -> None:
    seen = noted(bus, "*")
    queue.services.events.publish("shard_available", shard_id="none")
    publish(queue, "alert")
    bus.close()
    assert [type(event) for event in seen] == [Alert]
    assert "could not be handled" in caplog.text


def test_handlers_of_one_queue_hear_nothing_of_another(
    queue: Queue, bus: QueueEventBus, tmp_path: Path
) -> None:
    seen = noted(bus, "*")
    with Queue(data_dir=tmp_path / "another", shards=1) as another, QueueEventBus(another):
        another.enqueue({})
    bus.close()
    assert seen == []


def test_a_queue_may_have_several_buses(queue: Queue, make_bus: MakeBus) -> None:
    buses = [make_bus() for _ in range(3)]
    seen = [noted(bus, JobEnqueued) for bus in buses]
    for n in range(20):
        queue.enqueue({"n": n})
    for bus in buses:
        bus.close()
    assert [len(each) for each in seen] == [20, 20, 20]


# Waiting for an event


def in_thread(call: Callable[[], Any]) -> Any:
    """Begin a call in a thread; gives its future, once an event is expected."""
    return ThreadPoolExecutor(1).submit(call)


def expecting(bus: QueueEventBus, number: int = 1) -> None:
    eventually(lambda: len(bus._handlers) == number)


def test_an_event_can_be_waited_for(queue: Queue, bus: QueueEventBus) -> None:
    waiting = in_thread(lambda: bus.expect(JobFailed, timeout=30))
    expecting(bus)
    queue.enqueue({}, max_retries=0)
    queue.drain(lambda payload: 1 / 0)
    event = waiting.result(30)
    assert (type(event), event.job_id, event.error) == (JobFailed, 1, "division by zero")
    assert bus._handlers == []


def test_several_threads_may_wait_at_once_for_different_ones(
    queue: Queue, bus: QueueEventBus
) -> None:
    waiting = [
        in_thread(lambda n=n: bus.expect("job_enqueued", predicate=lambda each: each.job_id == n))
        for n in (3, 1, 2)
    ]
    expecting(bus, 3)
    queue.enqueue_batch([{"payload": {}}] * 3)
    assert [each.result(30).job_id for each in waiting] == [3, 1, 2]


def test_what_does_not_come_in_time_is_a_timeout(bus: QueueEventBus) -> None:
    with pytest.raises(TimeoutError, match=r"no event .*JobFailed.* within 0\.01 s"):
        bus.expect(JobFailed, timeout=0.01)
    assert bus._handlers == []


def test_the_error_of_a_predicate_is_that_of_its_caller(queue: Queue, bus: QueueEventBus) -> None:
    waiting = in_thread(lambda: bus.expect(JobEnqueued, predicate=lambda event: 1 / 0))
    expecting(bus)
    queue.enqueue({})
    with pytest.raises(ZeroDivisionError):
        waiting.result(30)
    bus.close()
    assert bus.get_metrics()["total_errors"] == 0


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan")])
def test_only_a_time_can_be_waited(bus: QueueEventBus, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout="):
        bus.expect(JobFailed, timeout=timeout)


def test_a_handler_cannot_wait_for_itself(queue: Queue, bus: QueueEventBus) -> None:
    errors: list[str] = []

    @bus.on(JobEnqueued)
    def handle(event: JobEnqueued) -> None:
        try:
            bus.expect(JobCompleted, timeout=30)
        except QueueError as error:
            errors.append(str(error))

    queue.enqueue({})
    bus.close()
    assert len(errors) == 1


def test_who_waits_when_the_bus_is_closed_is_told(bus: QueueEventBus) -> None:
    waiting = in_thread(lambda: bus.expect(JobFailed))
    expecting(bus)
    bus.close()
    with pytest.raises(QueueError, match="closed before"):
        waiting.result(30)
    with pytest.raises(QueueError, match="closed bus"):
        bus.expect(JobFailed)


def test_a_program_with_an_event_loop_of_its_own_may_use_it(
    queue: Queue, bus: QueueEventBus
) -> None:
    seen = noted(bus, JobEnqueued)

    async def main() -> JobEnqueued:
        expected = asyncio.create_task(asyncio.to_thread(bus.expect, JobEnqueued, timeout=30))
        while len(bus._handlers) < 2:
            await asyncio.sleep(0.001)
        await queue.aenqueue({})
        queue.enqueue({})
        event = await expected
        bus.log_tree()
        bus.close()
        return event

    assert asyncio.run(main()).job_id == 1
    assert len(seen) == 2


# Looking at it


def test_metrics_count_what_was_published_by_type(queue: Queue, bus: QueueEventBus) -> None:
    assert bus.get_metrics() == {
        "total_dispatched": 0,
        "total_errors": 0,
        "total_dropped": 0,
        "by_type": {},
        "last_event_time": None,
    }
    queue.enqueue_batch([{"payload": {}}] * 2)
    publish(queue, "alert")
    metrics = bus.get_metrics()
    assert (metrics["total_dispatched"], metrics["by_type"]) == (3, {"JobEnqueued": 2, "Alert": 1})
    assert datetime.fromisoformat(metrics["last_event_time"]).tzinfo is not None
    bus.close()
    assert bus.get_metrics() == metrics


def test_the_tree_shows_handlers_and_what_they_have_caused(
    queue: Queue, bus: QueueEventBus
) -> None:
    @bus.on(JobCompleted)
    def follow_up(event: JobCompleted) -> None:
        queue.enqueue({"after": event.job_id})

    @bus.on(JobEnqueued)
    async def note(event: JobEnqueued) -> None:
        if event.job_id == 2:
            await asyncio.to_thread(queue.enqueue, {"after": event.job_id})

    queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    queue.complete_job(job.id, 0)
    eventually(lambda: bus.get_metrics()["total_dispatched"] == 5)
    assert "JobEnqueued#" in bus.log_tree()
    bus.close()
    events = [line for line in bus.log_tree().splitlines() if "Job" in line]
    roots = [line for line in events if line.startswith(("├", "└"))]
    caused = [line for line in events if line not in roots]
    assert [re.search("[A-z]+", line)[0] for line in roots] == [  # type: ignore[index]
        "JobEnqueued",
        "JobStarted",
        "JobCompleted",
    ]
    assert ["JobEnqueued#" in line for line in caused] == [True, True]
    assert "follow_up" in bus.log_tree()


def test_only_so_many_events_are_remembered(queue: Queue, make_bus: MakeBus) -> None:
    bus = make_bus(max_history_size=2)
    queue.enqueue_batch([{"payload": {}}] * 10)
    bus.close()
    assert bus.log_tree().count("JobEnqueued#") == 2


def test_each_event_is_written_down_once_it_was_handled(
    queue: Queue, make_bus: MakeBus, tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    bus = make_bus(wal_path=path)
    queue.enqueue_batch([{"payload": {}}] * 2)
    bus.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event_type"], line["job_id"]) for line in lines] == [
        ("JobEnqueued", 1),
        ("JobEnqueued", 2),
    ]


def test_a_file_that_cannot_be_written_harms_no_handler(
    queue: Queue, make_bus: MakeBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(wal_path=tmp_path)
    seen = noted(bus, "*")
    queue.enqueue_batch([{"payload": {}}] * 2)
    bus.close()
    assert len(seen) == 2
    assert "not be written down" in caplog.text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bus_name": "my bus"}, "bus_name"),
        ({"bus_name": "_bus"}, "bus_name"),
        ({"bus_name": 5}, "bus_name"),
        ({"max_history_size": 0}, "max_history_size"),
        ({"wal_path": 5}, "wal_path"),
    ],
)
def test_a_bad_option_is_refused_by_name(
    make_bus: MakeBus, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{named}="):
        make_bus(**options)


def test_only_a_queue_has_events() -> None:
    with pytest.raises(ConfigurationError, match=r"^queue="):
        QueueEventBus("./data")  # type: ignore[arg-type]


# The end


def test_closing_leaves_no_thread_and_no_subscription(queue: Queue, bus: QueueEventBus) -> None:
    seen = noted(bus, "*")
    queue.enqueue({})
    bus.close()
    assert threads() == []
    assert not any(queue.services.events.are_heard(event) for event in EVENTS)
    queue.enqueue({})
    bus.close()
    assert len(seen) == 1


def test_a_bus_that_has_heard_nothing_has_no_thread(queue: Queue) -> None:
    with QueueEventBus(queue) as bus:
        assert threads() == []
        assert "No events" in bus.log_tree()


def test_closing_waits_for_what_runs(queue: Queue, bus: QueueEventBus) -> None:
    seen: list[int] = []

    @bus.on(JobEnqueued)
    async def handle(event: JobEnqueued) -> None:
        await asyncio.sleep(0.05)
        seen.append(event.job_id)

    queue.enqueue_batch([{"payload": {}}] * 2)
    bus.close()
    assert seen == [1, 2]


def test_a_handler_that_does_not_end_is_cancelled(
    queue: Queue, bus: QueueEventBus, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled, entered = threading.Event(), threading.Event()

    @bus.on(JobEnqueued)
    async def handle(event: JobEnqueued) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    queue.enqueue({})
    assert entered.wait(30)
    bus.close(0.01)
    assert cancelled.wait(30)
    assert "were not handled in time" in caplog.text


def test_a_handler_may_close_the_bus(queue: Queue, bus: QueueEventBus) -> None:
    bus.on(JobEnqueued, lambda event: bus.close())
    seen = noted(bus, JobEnqueued)
    queue.enqueue({})
    eventually(lambda: threads() == [])
    assert len(seen) == 1


def test_a_bus_outlives_its_queue_harmlessly(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue(shards=1)
    with QueueEventBus(queue) as bus:
        seen = noted(bus, "*")
        queue.enqueue({})
        queue.close()
    assert len(seen) == 1


def run(code: str, *arguments: object) -> str:
    """Run a program, every warning being an error; gives all that it says, on stderr too."""
    strictly = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *strictly, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("closing", ["bus.close(); queue.close()", "queue.close()", ""])
def test_a_program_ends_without_a_word_however_it_ends(data_dir: Path, closing: str) -> None:
    said = run(
        """if True:
        import sys
        from queue_max import Queue
        from queue_max.contrib.events import QueueEventBus
        queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
        bus = QueueEventBus(queue, wal_path=sys.argv[1] + "/events.jsonl")
        bus.on("*", lambda event: print(type(event).__name__, event.job_id))
        queue.enqueue_batch([{"payload": {}}] * 3)
        """
        + closing,
        data_dir,
    )
    assert said.splitlines() == [f"JobEnqueued {n}" for n in (1, 2, 3)]


def test_a_child_of_fork_handles_its_own_events(data_dir: Path) -> None:
    said = run(
        """if True:
        import os, sys
        from queue_max import Queue
        from queue_max.contrib.events import QueueEventBus
        queue = Queue(data_dir=sys.argv[1], shards=1, durability="normal")
        bus = QueueEventBus(queue)
        parent = os.getpid()
        bus.on("*", lambda event: print(os.getpid() == parent, event.job_id, flush=True))
        queue.enqueue({})
        while not bus.log_tree().startswith("└── ✅"):
            pass
        child = os.fork()
        queue.enqueue({}) if child == 0 else os.waitpid(child, 0)
        bus.close()
        if child == 0:
            os._exit(0)
        queue.close()
        """,
        data_dir,
    )
    lines = [line for line in said.splitlines() if line.startswith(("True", "False"))]
    assert lines == ["True 1", "False 2"]
    assert "Traceback" not in said


# The extra


def test_without_the_extra_the_import_says_what_to_install() -> None:
    said = run(
        """if True:
        import sys
        sys.modules["bubus"] = None
        import queue_max
        try:
            import queue_max.contrib.events
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install 'queue-max[events]'" in said


def test_the_package_itself_does_not_load_it() -> None:
    assert run("import queue_max, sys; print('bubus' in sys.modules)") == "False\n"
