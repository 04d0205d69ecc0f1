"""The queue that `settings.QUEUE_MAX` describes: one a process, opened when it is first used."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from django.conf import settings

from queue_max import Queue, RetryPolicy, checks, forking
from queue_max.exceptions import ConfigurationError, QueueNotFoundError
from queue_max.settings import Settings

KEYS = [name.upper() for name in inspect.signature(Queue).parameters]
"""What the dict may have: the arguments of `Queue`, in capitals."""

_lock = forking.lock()
_queue: Queue | None = None


def get_queue(*, create: bool = True) -> Queue:
    """Give the project's queue.

    Raises ConfigurationError for bad settings, QueueNotFoundError where there is no queue and
    none is to be made.
    """
    global _queue
    with _lock:
        if _queue is None:
            _queue = _opened(queue_options() | ({} if create else {"create": False}))
        return _queue


def _opened(options: Mapping[str, Any]) -> Queue:
    try:
        return Queue(**options)
    except QueueNotFoundError as error:
        raise QueueNotFoundError(
            f"there is no queue in {load_settings().data_dir} yet; the first job that is enqueued "
            "makes it, or `queue_worker`"
        ) from error


def close_queue() -> None:
    """Close the project's queue; it is opened again, by the settings of then, when it is used."""
    global _queue
    with _lock:
        if _queue is not None:
            _queue.close()
            _queue = None


def given() -> Mapping[str, Any]:
    """Give the setting as it is; raises ConfigurationError where it is no dict."""
    found = getattr(settings, "QUEUE_MAX", {})
    if not isinstance(found, Mapping):
        raise ConfigurationError(
            f'QUEUE_MAX={checks.shown(found)}: should be a dict, such as {{"SHARDS": 4}}'
        )
    return found


def unknown_keys() -> dict[str, str]:
    """Find keys of the setting that mean nothing, each with the nearest one that does."""
    return {
        str(key): get_close_matches(str(key).upper(), KEYS, n=1, cutoff=0)[0]
        for key in given()
        if key not in KEYS
    }


def queue_options() -> dict[str, Any]:
    """Give the arguments of `Queue` that the setting says."""
    for key, nearest in unknown_keys().items():
        raise ConfigurationError(f"QUEUE_MAX: {key} is no key of it; did you mean {nearest}?")
    return {key.lower(): value for key, value in given().items()}


def load_settings() -> Settings:
    """Give what holds for the queue; raises ConfigurationError as opening it would."""
    options = queue_options()
    for name in ("auto_migrate", "create", "immediate"):
        checks.instance(name, options.pop(name, True), bool, "True or False")
    for name in ("rate_limiter_timeout", "full_timeout"):
        checks.seconds(name, options.pop(name, 5.0), zero=True)
    kinds = (RetryPolicy, type(None))
    checks.instance("retry", options.pop("retry", None), kinds, "a RetryPolicy")
    return Settings.load(**options)
