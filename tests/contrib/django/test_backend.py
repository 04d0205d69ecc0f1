"""What Django asks of a backend for its tasks, and what ours adds."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings
from support.django_project.shop import tasks

from queue_max import AsyncWorker, Queue, Worker
from queue_max.contrib.django import QueueMaxBackend
from queue_max.contrib.django.backend import QueueMaxTask
from queue_max.contrib.django.results import class_path, like
from queue_max.contrib.django.running import learn, learn_all, task_named
from queue_max.contrib.django.shim import (
    InvalidTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from queue_max.exceptions import InvalidJobError
from queue_max.workers import repertoire

BACKEND = "queue_max.contrib.django.QueueMaxBackend"
LOG = logging.getLogger(task_enqueued.__class__.__module__)


def tasks_setting(**said: Any) -> Any:
    """Let the backend be another one, for a block."""
    return override_settings(TASKS={"default": {"BACKEND": BACKEND, "QUEUES": [], **said}})


def with_options(**options: Any) -> Any:
    return tasks_setting(OPTIONS=options)


def run(queue: Queue, times: int = 1) -> None:
    """Run what is due, and what waits for its next attempt."""
    for _ in range(times):
        queue.drain(scheduled=True)


@pytest.fixture
def signals() -> Iterator[list[tuple[str, TaskResult]]]:
    """The signals of a test, with the results as they were."""
    heard: list[tuple[str, TaskResult]] = []
    receivers = {}
    for name, sent in (
        ("enqueued", task_enqueued),
        ("started", task_started),
        ("finished", task_finished),
    ):

        def receive(sender: Any, task_result: TaskResult, name: str = name, **_: Any) -> None:
            assert sender is QueueMaxBackend
            heard.append((name, task_result))

        sent.connect(receive)
        receivers[name] = (sent, receive)
    yield heard
    for sent, receive in receivers.values():
        sent.disconnect(receive)


# What it can do


def test_it_says_what_it_can_do() -> None:
    backend = task_backends["default"]
    assert isinstance(backend, QueueMaxBackend)
    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_get_result
    assert backend.supports_priority


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"priority": 101}, "priority must be a whole number"),
        ({"priority": -101}, "priority must be a whole number"),
        ({"priority": 3.1}, "priority must be a whole number"),
        ({"queue_name": "unknown"}, "Queue 'unknown' is not valid"),
        ({"queue_name": "a=b", "backend": "any"}, "queue='a=b'"),
        ({"run_after": datetime(2030, 1, 1)}, "must be an aware datetime"),  # noqa: DTZ001
    ],
)
def test_a_task_that_cannot_be_run_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTask, match=words):
        tasks.add.using(**change)


def test_a_function_of_no_module_is_refused() -> None:
    def inner() -> None: ...

    for function in (any, inner):
        with pytest.raises(InvalidTask, match="module level"):
            tasks.task(function)


def test_a_task_that_takes_the_context_has_it_first() -> None:
    with pytest.raises(InvalidTask, match="context"):
        QueueMaxTask(func=tasks.add.func, takes_context=True)


def test_a_task_is_checked_when_it_is_enqueued_too(queue: Queue) -> None:
    elsewhere = tasks.add.using(queue_name="elsewhere", backend="any")
    with pytest.raises(InvalidTask):
        task_backends["default"].enqueue(like(elsewhere, backend="default"), (1,), {})
    with pytest.raises(InvalidTask):
        asyncio.run(task_backends["default"].aenqueue(like(elsewhere, backend="default"), (), {}))
    assert queue.is_empty()


def test_any_queue_will_do_where_the_settings_name_none(queue: Queue) -> None:
    result = tasks.add.using(queue_name="elsewhere", backend="any").enqueue(1)
    assert queue.get_job(result.id).queue == "elsewhere"


# Enqueuing


def test_a_task_is_enqueued_as_a_job_whose_key_is_the_id(queue: Queue) -> None:
    result = tasks.add.enqueue(1, b=2)
    job = queue.get_job(result.id)
    assert job.key == result.id
    assert len(result.id) < 64
    assert job.task == tasks.add.module_path
    assert result.status == TaskResultStatus.READY
    assert (result.args, result.kwargs, result.attempts) == ([1], {"b": 2}, 0)
    assert result.task == tasks.add
    assert result.enqueued_at is not None
    assert result.started_at is result.finished_at is result.last_attempted_at is None
    assert tasks.add.get_result(result.id) == result


def test_a_task_is_enqueued_and_read_from_coroutines(queue: Queue) -> None:
    async def main() -> None:
        result = await tasks.add.aenqueue(1, b=2)
        assert await tasks.add.aget_result(result.id) == result
        await asyncio.to_thread(run, queue)
        await result.arefresh()
        assert result.return_value == 3

    asyncio.run(main())


def test_a_coroutine_that_enqueues_is_in_the_way_of_no_other(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, threads, may_go = queue.services.intake.submit, [], threading.Event()

    def slowly(*args: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        assert may_go.wait(30)
        return store(*args, **options)

    async def main() -> None:
        waiting = asyncio.create_task(tasks.add.aenqueue(1))
        while not threads:
            await asyncio.sleep(0.001)
        may_go.set()
        await waiting

    monkeypatch.setattr(queue.services.intake, "submit", slowly)
    asyncio.run(main())
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("value", [datetime(2030, 1, 1, tzinfo=UTC), object(), {1, 2}])
def test_an_argument_that_json_has_no_form_for_is_refused(queue: Queue, value: object) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.nothing.enqueue(value)
    with pytest.raises(TypeError, match="Unsupported type"):
        asyncio.run(tasks.nothing.aenqueue(value))
    assert queue.is_empty()


def test_a_number_that_json_has_no_form_for_is_refused(queue: Queue) -> None:
    with pytest.raises(InvalidJobError, match="nan"):
        tasks.nothing.enqueue(float("nan"))
    assert queue.is_empty()


def test_tuples_come_back_as_lists(queue: Queue) -> None:
    assert tasks.nothing.enqueue((1, (2,))).args == [[1, [2]]]


@pytest.mark.parametrize(("exact", "ours"), [(-100, 0), (-1, 0), (0, 1), (1, 2), (100, 2)])
def test_a_priority_is_one_of_ours_and_is_given_back_as_it_was(
    queue: Queue, exact: int, ours: int
) -> None:
    result = tasks.add.using(priority=exact).enqueue(1)
    assert queue.get_job(result.id).priority == ours
    assert tasks.add.get_result(result.id).task.priority == exact


def test_a_task_runs_after_its_moment(queue: Queue) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    result = tasks.add.using(run_after=later).enqueue(1)
    assert queue.drain() == 0
    again = tasks.add.get_result(result.id)
    assert again == result
    assert again.task.run_after == later
    assert again.status == TaskResultStatus.READY
    run(queue)
    assert tasks.add.get_result(result.id).return_value == 1


@override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin")
def test_moments_are_those_of_the_time_zone_where_the_project_says_so(queue: Queue) -> None:
    result = tasks.add.using(run_after=datetime(2100, 1, 1, 12)).enqueue(1)  # noqa: DTZ001
    assert queue.get_job(result.id).next_retry_at == "2100-01-01T11:00:00.000Z"
    again = tasks.add.get_result(result.id)
    assert again == result
    assert again.enqueued_at.tzinfo is None
    assert again.task.run_after == datetime(2100, 1, 1, 12)  # noqa: DTZ001


# Results


def test_a_result_is_kept_with_who_made_it_and_when(queue: Queue) -> None:
    result = tasks.add.enqueue(1, b=2)
    with pytest.raises(ValueError, match="not finished"):
        result.return_value  # noqa: B018
    run(queue)
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.is_finished
    assert result.return_value == 3
    assert result.worker_ids == ["drain"]
    assert result.errors == []
    assert result.started_at == result.last_attempted_at
    assert result.enqueued_at <= result.started_at <= result.finished_at


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
def test_functions_and_coroutine_functions_run_in_workers(queue: Queue, kind: type[Any]) -> None:
    results = [tasks.add.enqueue(1), tasks.add_later.enqueue(2), tasks.nothing.enqueue(a=[None])]
    worker = kind("worker-7", None, queue, poll_interval=0.005)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)
    for result in results:
        result.refresh()
    assert [each.return_value for each in results] == [1, 2, None]
    assert [each.worker_ids for each in results] == [["worker-7"]] * 3


def test_a_result_is_kept_for_a_day_unless_the_options_say_otherwise(queue: Queue) -> None:
    assert queue.get_job(tasks.add.enqueue(1).id).keep_result == 86_400
    with with_options(keep_result=60):
        assert queue.get_job(tasks.add.enqueue(1).id).keep_result == 60


@pytest.mark.parametrize("bad", ["123", "0-123", "77-1", "nonsense", "", 5, None])
def test_a_result_that_does_not_exist_is_said(queue: Queue, bad: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(bad)
    with pytest.raises(TaskResultDoesNotExist):
        asyncio.run(task_backends["default"].aget_result(bad))


def test_a_job_of_another_kind_is_no_result(queue: Queue) -> None:
    handle = tasks.send.delay("ada")
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(handle.key)


def test_a_result_of_another_task_is_refused() -> None:
    result = tasks.add.enqueue(1)
    with pytest.raises(Exception, match="Task does not match"):
        tasks.nothing.get_result(result.id)


# Failures


def failed(queue: Queue, task: Any, *args: Any) -> TaskResult:
    with with_options(max_retries=0):
        result = task.enqueue(*args)
    run(queue)
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert result.is_finished
    with pytest.raises(ValueError, match="Task failed"):
        result.return_value  # noqa: B018
    return result


@pytest.mark.parametrize(
    ("name", "kind", "end"),
    [
        ("fail", ValueError, "ValueError: no\n"),
        ("leave", SystemExit, "SystemExit: out\n"),
        ("chain", ValueError, "ValueError: inner\n"),
        ("unspeakable", TypeError, "TypeError: Unsupported type: <class 'function'>\n"),
    ],
)
def test_an_error_is_kept_with_its_class_and_traceback(
    queue: Queue, name: str, kind: type[BaseException], end: str
) -> None:
    [error] = failed(queue, getattr(tasks, name)).errors
    assert error.exception_class is kind
    assert error.traceback.endswith(end)
    assert error.traceback.startswith("Traceback")


def test_a_task_whose_value_json_has_no_form_for_is_not_run_again(queue: Queue) -> None:
    result = tasks.unspeakable.enqueue()
    run(queue)
    result.refresh()
    assert tasks.made == ["ran"]
    assert result.status == TaskResultStatus.FAILED
    assert result.attempts == 1


def test_a_task_is_tried_again_and_all_attempts_are_told(queue: Queue) -> None:
    result = tasks.flaky.enqueue(3)
    queue.drain()
    result.refresh()
    assert result.status == TaskResultStatus.READY
    assert (result.attempts, len(result.errors), result.finished_at) == (1, 1, None)
    first_start = result.started_at
    run(queue)
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == result.attempts == 3
    assert [each.exception_class for each in result.errors] == [ConnectionError] * 2
    assert [each.traceback.splitlines()[-1] for each in result.errors] == [
        "ConnectionError: attempt 1",
        "ConnectionError: attempt 2",
    ]
    assert result.started_at == first_start
    assert result.last_attempted_at >= first_start


def test_attempts_are_counted_that_are_kept_no_more(queue: Queue) -> None:
    with with_options(max_retries=40, retry_delay=0):
        result = tasks.flaky.enqueue(30)
    run(queue)
    result.refresh()
    assert result.return_value == result.attempts == 30
    assert result.worker_ids == ["unknown"] * 9 + ["drain"] * 21


def test_a_running_task_is_running_and_a_cancelled_one_has_failed(queue: Queue) -> None:
    running, called_off = tasks.add.enqueue(1), tasks.mail.enqueue("ada")
    assert queue.pop_job("worker-1") is not None
    assert queue.cancel(called_off.id)
    running.refresh()
    called_off.refresh()
    assert (running.status, running.worker_ids) == (TaskResultStatus.RUNNING, ["worker-1"])
    assert running.last_attempted_at is not None
    assert called_off.status == TaskResultStatus.FAILED
    assert called_off.is_finished
    assert called_off.finished_at is not None


@pytest.mark.parametrize(
    ("error_type", "stack", "path"),
    [
        (
            "PayError",
            "Traceback\n  raise\nshop.PayError: no\nmoney: none\n",
            "shop.PayError",
        ),
        ("Inner", "Traceback\nshop.Outer.Inner\n", "shop.Outer.Inner"),
        ("KeyError", "Traceback\nKeyError: 'a'\n", "builtins.KeyError"),
        ("JobTimeoutError", None, "queue_max.exceptions.JobTimeoutError"),
        ("WorkerDied", None, "queue_max.exceptions.ProcessDiedError"),
        ("Strange", None, "Strange"),
    ],
)
def test_the_class_of_an_error_is_found_by_its_traceback(
    error_type: str, stack: str | None, path: str
) -> None:
    assert class_path(error_type, stack) == path


def test_an_error_without_a_traceback_is_told_in_words(queue: Queue) -> None:
    with with_options(max_retries=0, timeout=0.001):
        result = tasks.add.enqueue(1)
    job = queue.pop_job("worker-1")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, "it was too late", permanent=True)
    result.refresh()
    assert [each.traceback for each in result.errors] == ["Error: it was too late\n"]


# Contexts and signals


def test_a_task_may_take_the_context(queue: Queue) -> None:
    result = tasks.who.enqueue(1)
    run(queue)
    result.refresh()
    assert result.return_value == result.id


Heard = list[tuple[str, TaskResult]]


def test_signals_tell_of_the_life_of_a_task(queue: Queue, signals: Heard) -> None:
    result = tasks.add.enqueue(1)
    run(queue)
    assert [(name, each.id, each.status) for name, each in signals] == [
        ("enqueued", result.id, TaskResultStatus.READY),
        ("started", result.id, TaskResultStatus.RUNNING),
        ("finished", result.id, TaskResultStatus.SUCCESSFUL),
    ]
    finished = signals[-1][1]
    assert (finished.return_value, finished.worker_ids) == (1, ["drain"])


def test_the_end_is_told_once_when_no_further_attempt_follows(
    queue: Queue, signals: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    with with_options(max_retries=1, retry_delay=0), caplog.at_level("DEBUG"):
        tasks.fail.enqueue("bad")
        run(queue)
    names = [name for name, _ in signals]
    assert names == ["enqueued", "started", "started", "finished"]
    assert [each.attempts for _, each in signals] == [0, 1, 2, 2]
    finished = signals[-1][1]
    assert finished.status == TaskResultStatus.FAILED
    assert len(finished.errors) == 2
    [logged] = [each for each in caplog.records if "state=FAILED" in each.getMessage()]
    assert logged.exc_info is not None
    assert str(logged.exc_info[1]) == "bad"


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
def test_receivers_may_ask_the_database_wherever_a_task_runs(
    queue: Queue, kind: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def ask(sender: Any, **_: Any) -> None:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("select 1")
            asked.append(cursor.fetchone())
        connection.close()

    for sent in (task_started, task_finished):
        sent.connect(ask)
    try:
        with with_options(max_retries=0):
            for task in (tasks.add, tasks.add_later):
                task.enqueue(1)
            tasks.fail.enqueue("bad")
        worker = kind("worker-1", None, queue, poll_interval=0.005)
        worker.start()
        assert queue.wait_until_empty(30)
        assert worker.stop(30)
    finally:
        for sent in (task_started, task_finished):
            sent.disconnect(ask)
    assert asked == [(1,)] * 6, caplog.text


# Transactions


def test_a_task_is_enqueued_at_once_unless_the_options_say_otherwise(queue: Queue) -> None:
    with transaction.atomic():
        tasks.add.enqueue(1)
        assert queue.get_pending_count() == 1


@with_options(enqueue_on_commit=True)
def test_a_task_can_wait_for_the_commit(queue: Queue, signals: Heard) -> None:
    with transaction.atomic():
        result = tasks.add.enqueue(1)
        assert queue.is_empty()
        assert result.enqueued_at is None
        with pytest.raises(TaskResultDoesNotExist):
            tasks.add.get_result(result.id)
        assert signals == []
    assert [name for name, _ in signals] == ["enqueued"]
    assert tasks.add.get_result(result.id) == result
    run(queue)
    result.refresh()
    assert result.return_value == 1


@with_options(enqueue_on_commit=True)
def test_a_task_is_not_enqueued_by_a_transaction_that_is_rolled_back(queue: Queue) -> None:
    with transaction.atomic():
        tasks.add.enqueue(1)
        transaction.set_rollback(True)
    assert queue.is_empty()


@with_options(enqueue_on_commit=True)
def test_outside_of_a_transaction_nothing_waits(queue: Queue) -> None:
    assert tasks.add.get_result(tasks.add.enqueue(1).id).args == [1]
    assert asyncio.run(tasks.add.aenqueue(2)).args == [2]
    assert queue.get_pending_count() == 2


# Options


def test_options_of_the_backend_hold_for_all_its_tasks(queue: Queue) -> None:
    with with_options(max_retries=7, retry_delay=5, timeout=9):
        job = queue.get_job(tasks.add.enqueue(1).id)
    assert (job.max_attempts, job.retry_delay, job.timeout_seconds) == (8, 5, 9)


def test_a_task_may_have_options_of_its_own(queue: Queue) -> None:
    own = QueueMaxTask(func=tasks.add.func, max_retries=1, timeout=3)
    with with_options(max_retries=7, retry_delay=5, timeout=9):
        job = queue.get_job(own.enqueue(1).id)
    assert (job.max_attempts, job.retry_delay, job.timeout_seconds) == (2, 5, 3)
    with pytest.raises(InvalidTask, match="max_retries=-1"):
        QueueMaxTask(func=tasks.add.func, max_retries=-1)


@with_options(keep=5)
def test_bad_options_are_said_where_a_task_is_enqueued() -> None:
    with pytest.raises(ImproperlyConfigured, match="keep is no option"):
        tasks.add.enqueue(1)


def test_tasks_run_at_once_where_the_queue_says_so(queue_settings: dict[str, Any]) -> None:
    with override_settings(QUEUE_MAX=queue_settings | {"IMMEDIATE": True}):
        assert tasks.add.enqueue(1, b=2).return_value == 3
        assert asyncio.run(tasks.add_later.aenqueue(1, b=2)).return_value == 3


# Tasks and queues that are gone, or were never seen


def test_a_result_can_be_read_when_its_queue_is_taken_out_of_the_settings(queue: Queue) -> None:
    result = tasks.mail.enqueue("ada")
    with tasks_setting(QUEUES=["default"]):
        run(queue)
        again = task_backends["default"].get_result(result.id)
    assert again.return_value == "ada"
    assert again.task.queue_name == "mail"


def test_a_result_can_be_read_when_its_task_is_gone(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tasks.mail.enqueue("ada")
    monkeypatch.setattr(repertoire.tasks, "_tasks", {})
    monkeypatch.delattr(tasks, "mail")
    assert queue.drain() == 0  # it is set aside
    again = task_backends["default"].get_result(result.id)
    assert again.status == TaskResultStatus.READY
    assert (again.args, again.task.priority) == (["ada"], 7)
    assert again.task.module_path == "support.django_project.shop.tasks.mail"
    assert again.task.name == "mail"
    with pytest.raises(LookupError, match="is no more"):
        again.task.call("ada")


def test_a_task_of_an_app_is_imported_to_tell_its_result(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tasks.add.enqueue(1)
    monkeypatch.setattr(repertoire.tasks, "_tasks", {})
    assert task_backends["default"].get_result(result.id) == result


def test_nothing_is_imported_for_a_name_that_belongs_to_no_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "this", raising=False)
    assert task_named("this.s", QueueMaxBackend).name == "s"
    assert "this" not in sys.modules


def test_workers_know_tasks_that_were_made_for_another_backend(queue: Queue) -> None:
    task = like(tasks.add, backend="immediate")
    repertoire.tasks._tasks.clear()
    module = type(tasks)("jobs")
    module.task = task  # type: ignore[attr-defined]
    learn_all([module], QueueMaxBackend)
    result = task_backends["any"].enqueue(like(task, backend="any"), (1,), {})
    run(queue)
    assert task_backends["any"].get_result(result.id).return_value == 1


def test_a_task_is_known_once_however_often_it_is_changed(queue: Queue) -> None:
    [known] = [each for name, each in repertoire.tasks._tasks.items() if ".tasks.add@" in name]
    learn(tasks.add.using(priority=3), QueueMaxBackend)
    assert known in repertoire.tasks._tasks.values()


def test_a_task_may_enqueue_another(queue: Queue) -> None:
    result = tasks.enqueue_another.enqueue()
    run(queue)
    result.refresh()
    assert tasks.add.get_result(result.return_value).return_value == 1


def test_workers_take_jobs_of_all_queues_that_the_settings_name() -> None:
    from queue_max.contrib.django.management.commands.queue_worker import learn_tasks

    with tasks_setting(QUEUES=["default", "extra"]):
        learn_tasks([])
    assert set(repertoire.tasks.queues()) == {"default", "extra", "mail"}
