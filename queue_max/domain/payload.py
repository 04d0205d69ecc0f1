"""Payloads and arguments of jobs: strict JSON objects in, checked before anything is stored."""

import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from queue_max import checks
from queue_max.domain import json_text
from queue_max.domain.clock import cut, from_text
from queue_max.domain.identity import new_uid
from queue_max.domain.job import DEFAULT_QUEUE, DEFAULT_RETRY_DELAY, NewJob
from queue_max.domain.queues import queue_name
from queue_max.domain.retry import RetryPolicy
from queue_max.exceptions import ConfigurationError, InvalidJobError, PayloadError

MAX_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 20
MAX_KEY = 255
MAX_RESULT = 1024 * 1024

_PLAIN = frozenset({str, bool, type(None)})

_whole = partial(checks.whole, error=InvalidJobError)


def check_job(  # noqa: PLR0913 - the arguments of `enqueue`
    payload: object,
    *,
    pagina_id: object = None,
    priority: object = 0,
    max_retries: object,
    retry_delay: object = DEFAULT_RETRY_DELAY,
    retry: object = None,
    run_at: object = None,
    delay: float = 0.0,
    unique_key: object = None,
    unique_for: float | None = None,
    keep_result: float | None = None,
    task: object = None,
    timeout: float | None = None,
    queue: object = DEFAULT_QUEUE,
    concurrency_key: object = None,
    rate_key: object = None,
    breaker: object = None,
) -> NewJob:
    """Check all that makes a job; raises InvalidJobError that names the value."""
    if run_at is not None and delay:
        raise InvalidJobError("run_at and delay: give one of them, not both")
    if unique_for is not None and unique_key is None:
        raise InvalidJobError(f"unique_for={checks.shown(unique_for)}: needs a unique_key")
    return NewJob(
        payload=to_json(payload),
        uid=new_uid(),
        pagina_id=None if pagina_id is None else _whole("pagina_id", pagina_id),
        priority=_whole("priority", priority, at_least=0, at_most=2),
        max_attempts=_whole("max_retries", max_retries, at_least=0, at_most=1000) + 1,
        retry_delay=_whole("retry_delay", retry_delay, at_least=0),
        retry_policy=None if retry is None else _policy(retry),
        run_at=None if run_at is None else _moment("run_at", run_at),
        delay=_seconds("delay", delay, zero=True),
        unique_key=_key_or_none("unique_key", unique_key),
        unique_for=None if unique_for is None else _seconds("unique_for", unique_for),
        keep_result=None if keep_result is None else _seconds("keep_result", keep_result),
        task=_key_or_none("task", task),
        timeout=None if timeout is None else _seconds("timeout", timeout),
        queue=queue_name(queue, error=InvalidJobError),
        concurrency_key=_key_or_none("concurrency_key", concurrency_key),
        rate_key=_key_or_none("rate_key", rate_key),
        breaker=_key_or_none("breaker", breaker),
    )


def plain_job(payload: object, max_retries: int) -> NewJob:
    """Check a job that has nothing but a payload, as most have; as `check_job`, and quicker."""
    return NewJob(to_json(payload), new_uid(), max_retries + 1)


def _policy(retry: object) -> str:
    if not isinstance(retry, RetryPolicy):
        raise InvalidJobError(f"retry={checks.shown(retry)}: should be a RetryPolicy")
    try:
        return retry.to_json()
    except ConfigurationError as error:
        raise InvalidJobError(f"retry: {error}") from error


def _seconds(name: str, value: float, *, zero: bool = False) -> float:
    try:
        return checks.seconds(name, value, zero=zero)
    except ConfigurationError as error:
        raise InvalidJobError(str(error)) from error


def _moment(name: str, value: object) -> datetime:
    """Read an aware moment, or its text in ISO 8601."""
    try:
        if isinstance(value, str):
            return from_text(value)
        if isinstance(value, datetime) and value.tzinfo is not None:
            return cut(value)
    except (ValueError, OverflowError):
        pass
    raise InvalidJobError(
        f"{name}={checks.shown(value)}: should be a datetime with a time zone, or a text such as "
        "2026-01-31T08:00:00Z"
    )


def _key(name: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY or not value.isprintable():
        raise InvalidJobError(
            f"{name}={checks.shown(value)}: should be a str of 1 to {MAX_KEY} printable characters"
        )
    return value


def _key_or_none(name: str, value: object) -> str | None:
    return None if value is None else _key(name, value)


def to_json(payload: object) -> str:
    """Write a payload as JSON text.

    Raises PayloadError, with the path of the bad value, for what is not a JSON object, holds
    NaN or infinity, keys that are not strings, or values JSON has no form for, is nested
    deeper than 20 levels or longer than 10 MiB.
    """
    if not isinstance(payload, dict):
        raise PayloadError(f"payload: should be a dict, not {_kind(payload)}")
    _check(payload, "payload")
    text = json_text.write(payload)
    if len(text) > MAX_BYTES:
        raise PayloadError(f"payload: {len(text):,} bytes of JSON; at most {MAX_BYTES:,} are taken")
    return text.decode()


def result_to_json(result: object) -> str:
    """Write what a function returned as JSON text; raises PayloadError where that has no form."""
    _check(result, "result")
    text = json.dumps(result, allow_nan=False, separators=(",", ":"))
    if len(text) > MAX_RESULT:
        raise PayloadError(f"result: {len(text):,} bytes of JSON; at most {MAX_RESULT:,} are kept")
    return text


def _check(value: Any, path: str) -> None:
    """Refuse what is not JSON, with the path of the bad value."""
    if not _is_json(value, 1):
        _refuse_bad(value, path, 1)


def _is_json(value: Any, depth: int) -> bool:
    """Tell quickly of what is usual; False calls for a closer look, with paths."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is int:
        return bool(value.bit_length() <= checks.MOST_BITS)
    if kind is float:
        return math.isfinite(value)
    if depth > MAX_DEPTH or kind not in {dict, list}:
        return False
    if kind is dict:
        if value and set(map(type, value)) != {str}:
            return False
        value = value.values()
    return all(_is_json(each, depth + 1) for each in value)


def _refuse_bad(value: Any, path: str, depth: int) -> None:
    match value:
        case str() | bool() | None:
            return
        case int():
            _check_digits(value, path)
        case float() if math.isfinite(value):
            return
        case dict() | list() | tuple():
            if depth > MAX_DEPTH:
                raise PayloadError(f"{path}: nested deeper than {MAX_DEPTH} levels")
            for item_path, item in _items(value, path):
                _refuse_bad(item, item_path, depth + 1)
        case _:
            raise PayloadError(f"{path}: {checks.shown(value)} ({_kind(value)}) is not JSON")


def _items(container: dict[Any, Any] | Sequence[Any], path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(container, dict):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(container))
        return
    for key, item in container.items():
        if not isinstance(key, str):
            raise PayloadError(f"{path}: key {checks.shown(key)} should be a str, not {_kind(key)}")
        yield f"{path}[{checks.shown(key)}]", item


def _check_digits(value: int, path: str) -> None:
    if value.bit_length() > checks.MOST_BITS:
        raise PayloadError(f"{path}: a whole number of {value.bit_length():,} bits is too long")


def _kind(value: object) -> str:
    return type(value).__name__
