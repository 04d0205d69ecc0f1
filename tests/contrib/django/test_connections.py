"""Connections to Django's databases: a worker leaves them as a request does."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import override_settings
from support.postgres import PostgresServer

from queue_max import AsyncWorker, Queue, Worker
from queue_max.contrib.django.connections import tidy_round_jobs

KINDS = pytest.mark.parametrize("kind", [Worker, AsyncWorker])


@pytest.fixture(autouse=True)
def _as_in_a_worker() -> None:
    tidy_round_jobs()


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[None]:
    """Let the project have a database on a server, whose connections may last."""
    url = postgres.url
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.database or "postgres",
        "USER": url.username,
        "HOST": url.query.get("host") or url.host,
        "PORT": url.port or "",
        "CONN_MAX_AGE": 600,
    }
    connections.settings["server"] = connections.configure_settings(
        {"default": {}, "server": database}
    )["server"]
    yield
    connections["server"].close()
    del connections["server"], connections.settings["server"]


def ask() -> int:
    """Ask the server who we are; gives the number of its process for this connection."""
    with connections["server"].cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        return int(cursor.fetchone()[0])


def leave_after(times: int, seen: list[int]) -> None:
    """Close the connection in the last job: its thread ends with the worker."""
    if len(seen) == times:
        connections["server"].close()


def work(queue: Queue, function: Callable[..., Any], kind: type[Any], times: int) -> None:
    """Run jobs one after the other, in one worker; all are done in the end."""
    for n in range(times):
        queue.enqueue({"n": n}, retry_delay=0, pagina_id=0)
    options = {} if kind is Worker else {"concurrency": 1}
    worker = kind("worker-1", function, queue, poll_interval=0.005, **options)
    worker.start()
    assert queue.wait_until_empty(30)
    assert worker.stop(30)


@pytest.mark.usefixtures("server")
def test_a_connection_lasts_as_long_as_the_settings_say(queue: Queue) -> None:
    seen: list[int] = []

    def function(_payload: object) -> None:
        seen.append(ask())
        leave_after(3, seen)

    work(queue, function, Worker, 3)
    assert len(set(seen)) == 1
    connections.settings["server"]["CONN_MAX_AGE"] = 0
    seen.clear()
    work(queue, function, Worker, 3)
    assert len(set(seen)) == 3


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_connection_that_was_dropped_costs_one_attempt(queue: Queue, is_coroutine: bool) -> None:
    """As when the server is started anew: the attempts after that have another connection."""
    seen: list[int] = []
    attempts: list[int] = []

    def function(payload: dict[str, int]) -> None:
        attempts.append(payload["n"])
        seen.append(ask())
        leave_after(4, seen)
        if len(seen) == 1:
            with connections["server"].cursor() as cursor:
                cursor.execute("select pg_terminate_backend(pg_backend_pid())")

    async def coroutine(payload: dict[str, int]) -> None:
        await sync_to_async(function)(payload)

    work(queue, coroutine if is_coroutine else function, Worker, 3)
    assert len(attempts) == 4
    assert len(set(seen)) == 2


@pytest.mark.usefixtures("server")
def test_connections_end_with_the_threads_that_plain_functions_have_beside_coroutines(
    queue: Queue,
) -> None:
    tidy_round_jobs(threads_last=False)
    seen: list[int] = []

    def function(_payload: object) -> None:
        seen.append(ask())  # one that were left open would be warned of

    work(queue, function, AsyncWorker, 3)
    assert len(set(seen)) == 3


@KINDS
def test_queries_that_were_logged_are_forgotten(queue: Queue, kind: type[Any]) -> None:
    logged: list[int] = []

    def function(_payload: object) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("select 1")
        logged.append(len(connections["default"].queries))
        if kind is AsyncWorker:
            connections["default"].close()

    with override_settings(DEBUG=True):
        work(queue, function, kind, 3)
    assert logged == [1, 1, 1]


def test_no_thread_but_that_of_the_job_is_touched(queue: Queue) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("select 1")
    mine = connections["default"].connection
    threads: list[threading.Thread] = []
    work(queue, lambda _payload: threads.append(threading.current_thread()), Worker, 1)
    assert threads != [threading.main_thread()]
    assert connections["default"].connection is mine
