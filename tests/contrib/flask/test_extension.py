"""A queue for each Flask app, and tasks that run in the context of theirs."""

import asyncio
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, has_app_context
from support.programs import eventually
from werkzeug.exceptions import ServiceUnavailable

from queue_max import (
    AsyncWorker,
    ConfigurationError,
    PartialBatchError,
    Queue,
    QueueError,
    QueueFullError,
    ShardBusyError,
    ShardError,
    ShardNotFoundError,
    Worker,
    current_job,
)
from queue_max.contrib.flask import AppQueue, PeriodicAppTask, QueueExtension


def app_in(folder: Path, name: str = "shop", **config: Any) -> Flask:
    app = Flask(name)
    app.config.update({"QUEUE_MAX_DATA_DIR": str(folder), "QUEUE_MAX_SHARDS": 1} | config)
    return app


@pytest.fixture
def ext() -> QueueExtension:
    return QueueExtension()


@pytest.fixture
def app(ext: QueueExtension, tmp_path: Path) -> Flask:
    app = app_in(tmp_path / "shop")
    ext.init_app(app)
    return app


def test_the_constructor_does_what_init_app_does(tmp_path: Path) -> None:
    app = app_in(tmp_path / "shop")
    ext = QueueExtension(app)
    assert isinstance(app.extensions["queue_max"], AppQueue)
    assert "queue-max" in app.cli.commands
    with app.app_context():
        assert ext.get_stats() == app.extensions["queue_max"].get_stats() | {
            "uptime_seconds": pytest.approx(0, abs=60),
        }


def test_the_queue_is_opened_when_it_is_first_used(app: Flask, ext: QueueExtension) -> None:
    folder = Path(app.config["QUEUE_MAX_DATA_DIR"])
    assert not folder.exists()
    with app.app_context():
        assert ext.queue is ext.queue
    assert (folder / "shard_0.db").exists()


def test_the_configuration_describes_the_queue(ext: QueueExtension, tmp_path: Path) -> None:
    app = app_in(
        tmp_path / "shop",
        QUEUE_MAX_SHARDS=2,
        QUEUE_MAX_RATE_LIMIT=7,
        QUEUE_MAX_MAX_RETRIES=1,
        QUEUE_MAX_CIRCUIT_BREAKER_THRESHOLD=3,
        QUEUE_MAX_DURABILITY="normal",
    )
    ext.init_app(app)
    with app.app_context():
        stats = ext.get_stats()
        assert (stats["num_shards"], stats["rate_limit"], stats["max_retries"]) == (2, 7, 1)
        assert ext.queue.data_dir == str(tmp_path / "shop")
        assert ext.queue.services.settings.circuit_breaker_threshold == 3


def test_what_the_configuration_leaves_open_the_environment_says(
    ext: QueueExtension, data_dir: Path
) -> None:
    app = Flask("shop")
    ext.init_app(app)
    assert app.config["QUEUE_MAX_DATA_DIR"] is None
    assert app.config["QUEUE_MAX_IMMEDIATE"] is False
    with app.app_context():
        assert ext.queue.data_dir == str(data_dir)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"QUEUE_MAX_SHARD": 4}, "QUEUE_MAX_SHARD=4: .* did you mean QUEUE_MAX_SHARDS"),
        ({"QUEUE_MAX_SHARDS": "many"}, "shards='many': should be"),
        ({"QUEUE_MAX_RATE_LIMIT": 0}, "rate_limit=0"),
    ],
)
def test_bad_configuration_is_refused_when_the_app_is_made(
    ext: QueueExtension, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ext.init_app(app_in(tmp_path, **config))


def test_two_apps_have_two_queues_and_their_jobs_know_their_app(
    ext: QueueExtension, tmp_path: Path
) -> None:
    apps = [app_in(tmp_path / name, name) for name in ("a", "b")]
    for app in apps:
        ext.init_app(app)

    @ext.task(keep_result=60)
    def where() -> str:
        return current_app.name

    handles = []
    for app in apps:
        with app.app_context():
            handles.append(where.delay())
            assert ext.queue.get_pending_count() == 1
    for app in apps:
        app.extensions["queue_max"].queue.drain()  # of which context knows nothing
    assert [handle.result(0) for handle in handles] == ["a", "b"]


def test_a_job_of_a_queue_of_no_app_fails_in_words(ext: QueueExtension, tmp_path: Path) -> None:
    @ext.task(max_retries=0)
    def where() -> str:
        return current_app.name

    with Queue(data_dir=tmp_path / "other", shards=1) as queue:
        where.using(queue=queue).delay()
        queue.drain()
        (job,) = queue.get_failed_jobs()
        assert "start workers by `flask --app ... queue-max worker`" in str(job.last_error)


def test_what_a_job_enqueues_goes_to_the_queue_that_it_came_from(
    app: Flask, ext: QueueExtension, other_queue: Queue
) -> None:
    @ext.task
    def inner() -> None: ...

    @ext.task
    def outer() -> None:
        inner.delay()

    outer.using(queue=other_queue).delay()
    assert other_queue.drain() == 2


def test_no_app_is_kept_alive(ext: QueueExtension, tmp_path: Path) -> None:
    app = app_in(tmp_path / "shop")
    ext.init_app(app)

    @ext.task
    def work() -> None: ...

    with app.app_context():
        work.delay()
        queue = ext.queue
    del app
    gc.collect()
    assert ext.only_app() is None
    with queue:
        assert queue.get_pending_count() == 1


def test_outside_of_any_app_there_is_no_queue(app: Flask, ext: QueueExtension) -> None:
    with pytest.raises(RuntimeError, match="application context"):
        ext.get_stats()


def test_an_app_that_was_not_set_up_says_so(ext: QueueExtension) -> None:
    with Flask("bare").app_context(), pytest.raises(ConfigurationError, match="'bare' has no qu"):
        ext.get_stats()


def test_an_app_is_set_up_once(app: Flask, ext: QueueExtension) -> None:
    with pytest.raises(ConfigurationError, match="has a queue already"):
        ext.init_app(app)


def test_a_queue_that_was_given_is_used_also_outside_of_apps(tmp_path: Path, queue: Queue) -> None:
    ext = QueueExtension(queue=queue)
    app = app_in(tmp_path / "unused")
    ext.init_app(app)
    assert ext.queue is queue
    with app.app_context():
        assert ext.queue is queue
    app.extensions["queue_max"].close()
    assert ext.get_stats()["pending"] == 0
    assert not (tmp_path / "unused").exists()


def test_one_app_may_be_given_a_queue_as_tests_do(ext: QueueExtension, queue: Queue) -> None:
    app = Flask("shop")
    ext.init_app(app, queue)
    with app.app_context():
        assert ext.queue is queue


@pytest.mark.parametrize("make", [QueueExtension, lambda queue: QueueExtension(None, queue)])
def test_what_is_no_queue_is_refused(make: Callable[[Any], Any]) -> None:
    with pytest.raises((ConfigurationError, AttributeError)):
        make(5)


def test_a_queue_is_opened_anew_after_it_was_closed(app: Flask, ext: QueueExtension) -> None:
    with app.app_context():
        first = ext.queue
        app.extensions["queue_max"].close()
        assert ext.queue is not first
        assert ext.queue.is_empty()


def test_tasks_are_made_in_both_forms_with_all_options(app: Flask, ext: QueueExtension) -> None:
    @ext.task
    def plain(n: int) -> int:
        return n + 1

    @ext.task(priority=2, max_retries=0, name="mails.send", keep_result=60, timeout=9)
    def send(to: str) -> str:
        return f"to {to}"

    assert plain(1) == 2
    assert plain.task_name.endswith("plain")
    with app.app_context():
        handle = send.delay("Ada")
        job = ext.queue.get_job(handle)
        assert (job.priority_int, job.max_attempts, job.task) == (2, 1, "mails.send")
        assert job.timeout_seconds == 9
        assert ext.queue.get_job(send.using(priority=0).delay("Bob")).priority_int == 0
        assert ext.queue.drain() == 2
        assert handle.result(0) == "to Ada"
        assert send.get_stats()["queue_stats"]["pending"] == 0
    with pytest.raises(ConfigurationError, match="func=5: should be a function"):
        ext.task(5)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="unknown colour"):
        ext.task(colour="red")


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
def test_functions_of_both_kinds_run_in_the_context_of_their_app(
    app: Flask, ext: QueueExtension, kind: Any
) -> None:
    torn_down: list[Any] = []
    app.teardown_appcontext(torn_down.append)

    @ext.task(keep_result=60)
    def function() -> str:
        g.mine = current_app.name
        return str(g.mine)

    @ext.task(keep_result=60)
    async def coroutine() -> str:
        await asyncio.sleep(0)
        return current_app.name

    @ext.task(keep_result=60)
    def another() -> str:
        return function.delay().key

    with app.app_context():
        queue = ext.queue
        handles = [each.delay() for each in (function, coroutine, another)]
    worker = kind("w", None, queue)
    worker.start()
    names = [handle.result(30) for handle in handles]
    assert queue.get_result(names.pop(), 30) == "shop"
    worker.stop()
    assert names == ["shop", "shop"]
    assert torn_down[0] is None
    queue.close()


def test_a_periodic_task_is_declared_by_workers_and_runs_in_the_context_of_the_app(
    app: Flask, ext: QueueExtension
) -> None:
    @ext.periodic_task(interval=3600, args=["daily"], priority=2, keep_result=60)
    def report(kind: str) -> str:
        return f"{kind} of {current_app.name}"

    with app.app_context():
        queue = ext.queue
    worker = Worker("w", None, queue)
    worker.start()
    eventually(queue.schedules.list)
    handle = queue.schedules.run_now(report.task_name)
    assert handle.result(30) == "daily of shop"
    assert queue.get_job(handle).priority == 2
    worker.stop()
    queue.close()
    assert isinstance(report.using(priority=0), PeriodicAppTask)
    with pytest.raises(ConfigurationError, match="with interval or cron"):
        ext.periodic_task(report)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="unique_key='k'"):
        ext.periodic_task(60, unique_key="k")


def test_each_job_has_a_context_of_its_own(app: Flask, ext: QueueExtension) -> None:
    @ext.task(keep_result=60)
    def count() -> int:
        g.calls = g.get("calls", 0) + 1
        return int(g.calls)

    with app.app_context():
        handles = [count.delay() for _ in range(2)]
        g.calls = 10
        ext.queue.drain()
        assert [handle.result(0) for handle in handles] == [1, 1]
        assert count() == 11  # a call is made where it stands


def test_callbacks_of_jobs_are_called_in_the_context_of_the_app(
    app: Flask, ext: QueueExtension
) -> None:
    heard: list[Any] = []

    def hear(fact: Any, task_name: str) -> None:
        heard.append((fact if isinstance(fact, int) else str(fact), current_app.name))

    async def hear_later(fact: Any, task_name: str) -> None:
        hear(fact, task_name)

    @ext.task(on_success=hear, on_failure=hear, max_retries=0)
    def half(n: int) -> int:
        if n % 2:
            raise ValueError("odd")
        return n // 2

    @ext.task(on_success=hear_later)
    async def half_later(n: int) -> int:
        return n // 2

    with app.app_context():
        for n in (2, 3):
            half.delay(n)
        half_later.delay(8)
        queue = ext.queue
    queue.drain()
    assert sorted(heard, key=str) == [("odd", "shop"), (1, "shop"), (4, "shop")]


def test_jobs_run_at_once_where_the_configuration_says_so(
    ext: QueueExtension, tmp_path: Path
) -> None:
    app = app_in(tmp_path, QUEUE_MAX_IMMEDIATE=True)
    ext.init_app(app)

    @ext.task(keep_result=60)
    def where() -> list[Any]:
        return [current_app.name, current_job() is not None]

    with app.app_context():
        assert where.delay().result(0) == ["shop", True]
    assert not has_app_context()


def failing(app: Flask, error: Exception) -> Flask:
    @app.post("/")
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "words", "retry_after"),
    [
        (QueueFullError(None, "no room in /srv/data"), "is full; try again later.", "1"),
        (QueueFullError(0, "not now", 61.5), "is full; try again later.", "62"),
        (ShardBusyError(3, "/srv/data/shard_3.db is locked"), "cannot be reached; try again", "5"),
        (PartialBatchError(ShardError(1, "/srv is gone"), 3), "A part of the jobs", None),
    ],
)
def test_what_the_queue_cannot_take_is_answered_by_503(
    app: Flask, error: Exception, words: str, retry_after: str | None
) -> None:
    answer = failing(app, error).test_client().post("/")
    assert answer.status_code == 503
    assert words in answer.text
    assert "/srv" not in answer.text
    assert answer.headers.get("Retry-After") == retry_after


def test_a_handler_of_the_app_for_503_makes_that_answer(app: Flask) -> None:
    @app.errorhandler(503)
    def mine(error: ServiceUnavailable) -> tuple[dict[str, Any], int]:
        return {"sorry": str(error.description)}, 503

    answer = failing(app, QueueFullError(None, "full")).test_client().post("/")
    assert answer.json == {"sorry": "The job queue is full; try again later."}


def test_an_error_that_is_no_fault_of_the_queue_stays_one(app: Flask) -> None:
    app.testing = True
    with pytest.raises(ShardNotFoundError):
        failing(app, ShardNotFoundError(7, "no such shard")).test_client().post("/")


@pytest.mark.parametrize("kind", [QueueFullError, ShardError, QueueError])
def test_handlers_of_the_apps_own_stay(
    ext: QueueExtension, tmp_path: Path, kind: type[Exception]
) -> None:
    app = app_in(tmp_path)
    app.register_error_handler(kind, lambda _error: ("mine", 507))
    ext.init_app(app)
    answer = failing(app, QueueFullError(None, "full")).test_client().post("/")
    assert (answer.status_code, answer.text) == (507, "mine")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_fork_uses_the_queue_whether_it_was_opened_before_or_not(
    app: Flask, ext: QueueExtension
) -> None:
    for _ in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with app.app_context():
                    ext.queue.enqueue({"from": "child"})
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        with app.app_context():
            ext.queue.enqueue({"from": "parent"})
    with app.app_context():
        assert ext.queue.get_pending_count() == 4
