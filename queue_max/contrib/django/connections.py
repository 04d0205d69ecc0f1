"""Connections to Django's databases, which a worker is to leave as a request does."""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections, connections, reset_queries

from queue_max.workers.repertoire import surround
from queue_max.workers.running import RunningJob

_is_worker = False


def tidy() -> None:
    """Forget the queries that were logged; close connections that broke, or have had their time."""
    reset_queries()
    close_old_connections()


def tidy_round_jobs(*, threads_last: bool = True) -> None:
    """Have all jobs of this process begin and end as requests do: for workers only.

    A job that runs within a request, as by `drain`, must leave the request its connections. Where
    threads do not last, as those that run plain functions beside coroutines, no connection does.
    """
    global _is_worker
    _is_worker = True
    surround(partial(_tidily, tidy if threads_last else _close_all))


@contextmanager
def tidy_here() -> Iterator[None]:
    """Begin and end the block as a request does, in a process of workers."""
    if _is_worker:
        tidy()
    try:
        yield
    finally:
        if _is_worker:
            tidy()


def _close_all() -> None:
    reset_queries()
    connections.close_all()


def _tidily(
    leave: Callable[[], None], call: Callable[[RunningJob], Any], running: RunningJob
) -> Any:
    tidy()
    try:
        result = call(running)
    finally:
        leave()
    return _await(result) if inspect.isawaitable(result) else result


async def _await(result: Awaitable[Any]) -> Any:
    # Coroutines reach databases through the thread that sync_to_async has for them.
    await sync_to_async(tidy)()
    try:
        return await result
    finally:
        await sync_to_async(tidy)()
