"""`@task`: what is enqueued, and what a worker makes of it."""

import asyncio
import functools
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from queue_max import (
    ConfigurationError,
    InvalidJobError,
    JobTimeoutError,
    Queue,
    QueueError,
    RetryPolicy,
    RunningJob,
    Task,
    Worker,
    current_job,
    default_queue,
    set_default_queue,
    task,
)
from queue_max.domain.job import JobPriority
from queue_max.workers import repertoire

Work = Callable[..., Worker]

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def note(*args: Any, **kwargs: Any) -> str:
    """Note how it was called."""
    calls.append((args, kwargs))
    return "noted"


at_module_level = task(note)


# Decorating


@pytest.mark.parametrize(
    "decorate", [task, task(), task(priority=2)], ids=["@task", "@task()", "options"]
)
def test_a_task_is_called_like_its_function(decorate: Any) -> None:
    made = decorate(note)
    assert made(1, b=2) == "noted"
    assert calls == [((1,), {"b": 2})]
    assert (made.__name__, made.__doc__) == ("note", "Note how it was called.")


def test_a_coroutine_function_stays_one() -> None:
    @task
    async def double(n: int) -> int:
        return 2 * n

    assert asyncio.run(double(2)) == 4


def test_decorating_opens_no_queue(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "not-made"))
    task(note)
    assert not (tmp_path / "not-made").exists()


def test_the_contracts_attributes(queue: Queue) -> None:
    made = task(queue, 2, 5, timeout=30, version=3)(note)
    assert made.task_name == f"{__name__}.note"
    assert (made.version, made.queue, made.priority, made.max_retries) == (3, queue, 2, 5)
    assert made.get_queue() is queue
    stats = made.get_stats()
    assert stats["queue_stats"].keys() == queue.get_stats().keys()
    assert {name: stats[name] for name in stats if name != "queue_stats"} == {
        "task_name": made.task_name,
        "version": 3,
        "priority": 2,
        "max_retries": 5,
        "timeout": 30,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue": 5}, "queue=5"),
        ({"priority": 3}, "priority=3"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"retry_delay": -1}, "retry_delay=-1"),
        ({"retry": "soon"}, "retry='soon'"),
        ({"pagina_id": "7"}, "pagina_id='7'"),
        ({"unique_key": ""}, "unique_key=''"),
        ({"unique_for": 0}, "unique_for=0"),
        ({"keep_result": -1}, "keep_result=-1"),
        ({"version": 0}, "version=0"),
        ({"on_success": 5}, "on_success=5"),
        ({"colour": "red"}, "unknown colour"),
        ({"rate_limit": 0}, "rate=0"),
        ({"rate_limit": "10 a second"}, "should be as"),
        ({"concurrency": 0}, "concurrency=0"),
    ],
)
def test_a_bad_option_is_refused_when_the_function_is_decorated(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        task(**options)(note)


@pytest.mark.parametrize(
    "function", [functools.partial(note, 1), note.__call__], ids=["partial", "method of C"]
)
def test_what_no_module_defines_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="should be a function"):
        task(name="odd")(function)


@pytest.mark.parametrize("name", ["", 5, "a\0b", "a" * 256])
def test_a_bad_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name="):
        task(name=name)(note)


def test_a_time_for_a_key_may_be_given_before_the_key(queue: Queue) -> None:
    made = task(queue, unique_for=60)(note)
    assert made.using(unique_key="k").delay("a", "b").created


def test_a_lambda_is_not_taken_for_another_one() -> None:
    task(lambda: 1)
    with pytest.raises(ConfigurationError, match="give one of them another name"):
        task(lambda: 2)
    task(name="tests.two")(lambda: 2)


def test_what_a_process_knows_is_told_as_of_now() -> None:
    known = repertoire.tasks.gates()
    task(name="tests.latecomer")(note)
    assert not any("latecomer" in gate for gate in known)
    assert any("latecomer" in gate for gate in repertoire.tasks.gates())


def generate() -> Iterator[int]:
    yield 1


async def generate_later() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [generate, generate_later])
def test_a_generator_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="is a generator"):
        task(function)


def test_two_tasks_of_one_name_are_refused() -> None:
    def one() -> None: ...

    def other() -> None: ...

    task(name="mail.send")(one)
    with pytest.raises(ConfigurationError, match=r"two tasks 'mail\.send' of version 1"):
        task(name="mail.send")(other)
    task(name="mail.send", version=2)(other)


def test_the_same_function_may_be_decorated_again_as_when_its_module_is_loaded_anew() -> None:
    assert task(note).task_name == task(note).task_name


def test_a_task_is_pickled_as_functions_are() -> None:
    global note
    function = note
    note = task(note)  # type: ignore[assignment]
    try:
        assert pickle.loads(pickle.dumps(note)) is note
    finally:
        note = function


# Enqueueing


def test_delay_writes_the_payload_of_the_contract(queue: Queue) -> None:
    made = task(queue, timeout=9, retry_delay=7)(note)
    handle = made.delay(1, "x", key=[2])
    assert handle.keys() == {"id", "shard_id"}
    job = queue.get_job(handle)
    assert job.payload == {
        "task": made.task_name,
        "version": 1,
        "args": [1, "x"],
        "kwargs": {"key": [2]},
        "timeout": 9,
        "retry_delay": 7,
    }
    assert (job.task, job.timeout_seconds, job.retry_delay) == (made.task_name, 9, 7)


def test_an_argument_may_have_any_name(queue: Queue) -> None:
    @task(queue)
    def tell(**facts: str) -> dict[str, str]:
        return facts

    handle = tell.delay(self="ada", args="b", when="now")
    assert queue.get_job(handle).payload["kwargs"] == {"self": "ada", "args": "b", "when": "now"}
    assert tell(self="ada") == {"self": "ada"}


def test_arguments_are_checked_where_they_are_enqueued(queue: Queue) -> None:
    @task(queue)
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError, match=r"Invalid arguments for .*add: too many positional"):
        add.delay(1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(InvalidJobError, match="is not JSON"):
        add.delay(1, object())  # type: ignore[arg-type]
    assert queue.is_empty()


def test_map_and_bulk_delay_are_one_batch(queue: Queue, work: Work) -> None:
    made = task(queue)(note)
    handles = made.map(["a", "b"], "hello", polite=True)
    handles += made.bulk_delay([(("c",), {}), ([], {"d": 1})])
    assert [queue.get_job(each).payload["args"] for each in handles] == [
        ["a", "hello"],
        ["b", "hello"],
        ["c"],
        [],
    ]
    work()
    assert sorted(calls, key=str) == sorted(
        [
            (("a", "hello"), {"polite": True}),
            (("b", "hello"), {"polite": True}),
            (("c",), {}),
            ((), {"d": 1}),
        ],
        key=str,
    )


@pytest.mark.parametrize("call", [5, ("ab", {}), ({"a", "b"}, {}), (("a", "b"), []), ("a",)])
def test_a_call_is_a_pair_of_a_tuple_and_a_dict(queue: Queue, call: Any) -> None:
    with pytest.raises(TypeError, match="should be a pair"):
        task(queue)(note).bulk_delay([call])


def test_one_bad_call_keeps_a_batch_out(queue: Queue) -> None:
    with pytest.raises(InvalidJobError, match="job 1: "):
        task(queue)(note).map([1, object()])
    assert queue.is_empty()


def test_using_gives_other_options_for_some_jobs(queue: Queue) -> None:
    made = task(queue)(note)
    urgent = made.using(priority=2, unique_key="one", keep_result=60, pagina_id=3, max_retries=0)
    job = queue.get_job(urgent.delay())
    assert (job.priority, job.pagina_id, job.max_attempts) == (JobPriority.HIGH, 3, 1)
    assert urgent.delay().created is False
    assert queue.get_job(made.delay()).priority == JobPriority.LOW
    assert urgent.task_name == made.task_name
    with pytest.raises(ConfigurationError, match="unknown colour"):
        made.using(colour="red")


def test_a_task_has_a_retry_policy_of_its_own(queue: Queue) -> None:
    policy = RetryPolicy.linear(5, retry_on=[TimeoutError])
    job = queue.get_job(task(queue, retry=policy)(note).delay())
    assert job.retry_policy == policy.to_json()


@pytest.mark.parametrize("form", ["aware", "naive", "text"])
def test_schedule_at_waits_for_a_moment(queue: Queue, form: str) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    when = {"aware": at, "naive": at.replace(tzinfo=None), "text": at.isoformat()}[form]
    job = queue.get_job(task(queue)(note).schedule_at(when, 1))
    assert job.status == "scheduled"
    expected = at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert (job.next_retry_at, job.payload["scheduled_at"]) == (expected, expected)
    assert job.payload["args"] == [1]


def test_schedule_in_waits_for_a_time(queue: Queue) -> None:
    job = queue.get_job(task(queue)(note).schedule_in(3600, 1))
    assert job.status == "scheduled"
    assert job.payload["args"] == [1]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01T00:00:00.000Z is in the past"),
        ("yesterday", "'yesterday': should be a datetime"),
        (5, "5: should be a datetime"),
    ],
)
def test_a_moment_that_is_over_or_none_is_refused(queue: Queue, when: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        task(queue)(note).schedule_at(when)


@pytest.mark.parametrize("seconds", [-1, "5", None])
def test_a_time_that_is_none_is_refused(queue: Queue, seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="seconds="):
        task(queue)(note).schedule_in(seconds)


# The default queue


def test_a_task_without_a_queue_uses_the_default_one(queue: Queue) -> None:
    set_default_queue(queue)
    assert task(note).get_queue() is queue is default_queue()
    set_default_queue(lambda: queue)
    assert task(note).get_queue() is queue
    with pytest.raises(ConfigurationError, match="queue=5"):
        set_default_queue(5)  # type: ignore[arg-type]


def test_the_default_queue_is_opened_once_by_the_settings(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "default"))
    with default_queue() as queue:
        assert queue is default_queue()
        assert queue.data_dir == str(tmp_path / "default")


def test_what_a_job_enqueues_goes_where_it_came_from(queue: Queue, work: Work) -> None:
    other = task(note)

    @task(queue)
    def first() -> None:
        other.delay("from a job")

    first.delay()
    work()
    assert calls == [(("from a job",), {})]


# Running


def test_a_worker_runs_a_task_by_its_name(queue: Queue, work: Work) -> None:
    handle = task(queue, keep_result=60)(note).delay(1, b=2)
    work()
    assert calls == [((1,), {"b": 2})]
    assert handle.result(0) == "noted"


def test_the_function_of_a_worker_gets_the_other_jobs(queue: Queue, work: Work) -> None:
    task(queue)(note).delay("task")
    queue.enqueue({"task": f"{__name__}.note", "args": ["no task"]})
    payloads: list[object] = []
    work(payloads.append)
    assert calls == [(("task",), {})]
    assert payloads == [{"task": f"{__name__}.note", "args": ["no task"]}]


def test_a_payload_names_nothing_that_is_imported(queue: Queue) -> None:
    queue.enqueue({"args": ["echo"]}, task="os.system")
    worker = Worker("worker-1", print, queue, poll_interval=0.005)
    worker.start()
    queue.enqueue({})
    assert queue.services.inspection.wait_until(lambda counts: counts.pending == 0, 30)
    assert worker.stop(30)
    assert worker.get_stats()["failed"] == 0
    (held,) = queue.list_jobs("scheduled")
    assert (held.held_by, held.attempts) == ("task:os.system@1", 0)


def test_a_coroutine_function_is_run(queue: Queue, work: Work) -> None:
    @task(queue, keep_result=60)
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    handle = double.delay(4)
    work()
    assert handle.result(0) == 8


def test_a_job_that_waits_keeps_its_name_and_version(queue: Queue, work: Work) -> None:
    @task(queue, name="mail.send", version=1)
    def send_v1(to: str) -> None:
        calls.append(("old", to))

    @task(queue, name="mail.send", version=2)
    def send(to: str, subject: str) -> None:
        calls.append(("new", to, subject))

    send_v1.delay("ann")
    send.delay("bob", "hi")
    work()
    assert sorted(calls) == [("new", "bob", "hi"), ("old", "ann")]


def test_the_running_job_is_given_as_ctx(queue: Queue, work: Work) -> None:
    @task(queue)
    def function(n: int, *, ctx: RunningJob | None = None) -> None:
        assert ctx is current_job()
        calls.append(ctx.id)

    handle = function.delay(1)
    work()
    assert calls == [handle["id"]]


def test_the_running_job_may_come_first(queue: Queue, work: Work) -> None:
    @task(queue)
    def first(ctx: RunningJob, n: int, *rest: int) -> None:
        calls.append((ctx.id, n, rest))

    @task(queue)
    def second(n: int, ctx: RunningJob, m: int = 0) -> None:
        calls.append((ctx.id, n, m))

    handles = [first.delay(5, 6), first.delay(n=7), second.delay(8), second.delay(9, 10)]  # type: ignore[arg-type, call-arg]
    work()
    ids = [each["id"] for each in handles]
    assert sorted(calls, key=lambda call: call[1]) == [
        (ids[0], 5, (6,)),
        (ids[1], 7, ()),
        (ids[2], 8, 0),
        (ids[3], 9, 10),
    ]


def test_arguments_that_fit_no_more_are_for_the_dead_letters(queue: Queue, work: Work) -> None:
    @task(queue)
    def pay(order: int) -> None: ...

    queue.enqueue({"args": [1, 2, 3]}, task=pay.task_name)
    work()
    (failed,) = queue.get_failed_jobs()
    assert failed.error_type == "Permanent"
    assert "too many positional arguments" in str(failed.last_error)
    assert failed.attempts == 1


def test_a_task_has_a_time_limit(queue: Queue, work: Work) -> None:
    @task(queue, timeout=0.05, max_retries=0)
    async def wait() -> None:
        await asyncio.Event().wait()

    wait.delay()
    work()
    (failed,) = queue.get_failed_jobs()
    assert failed.error_type == JobTimeoutError.__name__


# Callbacks


def callbacks() -> dict[str, Callable[..., None]]:
    return {
        "on_success": lambda result, task_name: calls.append(("success", result, task_name)),
        "on_failure": lambda error, task_name: calls.append(("failure", str(error), task_name)),
    }


def fail_first(payload: object = None) -> str:
    """Fail, but for the second attempt in a worker."""
    try:
        if current_job().attempt == 2:
            return "done"
    except QueueError:
        pass
    raise ValueError("it broke")


def test_callbacks_hear_of_calls_here() -> None:
    made = task(**callbacks())(note)
    made()
    calls.pop(0)
    failing: Task[..., str] = task(**callbacks())(fail_first)
    with pytest.raises(ValueError, match="it broke"):
        failing()
    assert calls == [
        ("success", "noted", made.task_name),
        ("failure", "it broke", failing.task_name),
    ]


def test_callbacks_of_a_coroutine_function_may_be_some_too() -> None:
    async def on_success(result: object, task_name: str) -> None:
        await asyncio.sleep(0)
        calls.append(result)

    @task(on_success=on_success)
    async def double(n: int) -> int:
        return 2 * n

    assert asyncio.run(double(2)) == 4
    assert calls == [4]
    with pytest.raises(ConfigurationError, match="only where the task is"):
        task(on_success=on_success)(note)


def test_callbacks_hear_from_workers_when_all_is_over(queue: Queue, work: Work) -> None:
    retried = task(queue, retry_delay=0, **callbacks())(fail_first)
    retried.delay()
    work()
    assert calls == [("success", "done", retried.task_name)]
    calls.clear()
    given_up = task(queue, max_retries=0, **callbacks())(fail_first)
    given_up.delay()
    work()
    assert calls == [("failure", "it broke", given_up.task_name)]


# Tasks that are not known


def test_a_job_nobody_knows_is_set_aside_and_runs_when_somebody_does(
    queue: Queue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[dict[str, Any]] = []
    queue.on("alert", lambda **facts: alerts.append(facts))
    made = task(queue, max_retries=0)(note)
    known = dict(repertoire.tasks._tasks)
    handles = [made.delay(n) for n in range(3)]
    monkeypatch.setattr(repertoire.tasks, "_tasks", {})
    stranger = Worker("worker-1", None, queue, poll_interval=0.005)
    stranger.start()
    assert queue.services.inspection.wait_until(lambda counts: counts.pending == 0, 30)
    assert stranger.stop(30)
    for handle in handles:
        job = queue.get_job(handle)
        assert (job.status, job.held_by) == ("scheduled", f"task:{made.task_name}@1")
        assert (job.attempts, job.next_retry_at) == (0, None)
    said = f"they wait for a worker that knows the task {made.task_name}, version 1"
    assert caplog.text.count(said) == 1
    assert alerts == [{"type": "UNKNOWN_TASK", "pending": 1, "threshold": 0}]
    assert queue.get_stats()["held"] == 3
    monkeypatch.setattr(repertoire.tasks, "_tasks", known)
    friend = Worker("worker-2", None, queue, poll_interval=0.005)
    friend.start()
    assert queue.wait_until_empty(30)
    assert friend.stop(30)
    assert sorted(calls) == [((n,), {}) for n in range(3)]


def test_a_job_without_a_task_waits_for_a_worker_with_a_function(queue: Queue) -> None:
    queue.enqueue({"n": 1})
    stranger = Worker("worker-1", None, queue, poll_interval=0.005)
    stranger.start()
    assert queue.services.inspection.wait_until(lambda counts: counts.pending == 0, 30)
    assert stranger.stop(30)
    assert queue.get_stats()["held"] == 1
    friend = Worker("worker-2", calls.append, queue, poll_interval=0.005)
    friend.start()
    assert queue.wait_until_empty(30)
    assert friend.stop(30)
    assert calls == [{"n": 1}]


def test_a_job_set_aside_can_be_called_off(queue: Queue) -> None:
    handle = queue.enqueue({}, task="no.such")
    stranger = Worker("worker-1", None, queue, poll_interval=0.005)
    stranger.start()
    assert queue.services.inspection.wait_until(lambda counts: counts.pending == 0, 30)
    assert queue.cancel(handle)
    assert stranger.stop(30)
    assert queue.get_job(handle).is_cancelled
    assert queue.get_stats()["held"] == 0


def test_a_dead_letter_keeps_the_task(queue: Queue, work: Work) -> None:
    made = task(queue, max_retries=0, keep_result=60)(fail_first)
    handle = made.delay()
    work()
    (letter,) = queue.dead_letters.list()
    assert letter.task == made.task_name
    queue.services.retention.purge("failed", force=False)
    monkey = task(queue, keep_result=60, name="another")(note)
    assert monkey.task_name == "another"
    anew = queue.dead_letters.requeue(handle)
    assert queue.get_job(anew).task == made.task_name
