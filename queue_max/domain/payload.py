"""Payloads and arguments of jobs: strict JSON objects in, checked before anything is stored."""

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from queue_max import checks
from queue_max.domain.identity import new_uid
from queue_max.domain.job import DEFAULT_RETRY_DELAY, NewJob
from queue_max.domain.retry import RetryPolicy
from queue_max.exceptions import ConfigurationError, InvalidJobError, PayloadError

MAX_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 20

_whole = partial(checks.whole, error=InvalidJobError)
_write = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def check_job(
    payload: object,
    *,
    pagina_id: object = None,
    priority: object = 0,
    max_retries: object,
    retry_delay: object = DEFAULT_RETRY_DELAY,
    retry: object = None,
) -> NewJob:
    """Check all that makes a job; raises InvalidJobError that names the value."""
    return NewJob(
        payload=to_json(payload),
        uid=new_uid(),
        pagina_id=None if pagina_id is None else _whole("pagina_id", pagina_id),
        priority=_whole("priority", priority, at_least=0, at_most=2),
        max_attempts=_whole("max_retries", max_retries, at_least=0, at_most=1000) + 1,
        retry_delay=_whole("retry_delay", retry_delay, at_least=0),
        retry_policy=None if retry is None else _policy(retry),
    )


def _policy(retry: object) -> str:
    if not isinstance(retry, RetryPolicy):
        raise InvalidJobError(f"retry={checks.shown(retry)}: should be a RetryPolicy")
    try:
        return retry.to_json()
    except ConfigurationError as error:
        raise InvalidJobError(f"retry: {error}") from error


def to_json(payload: object) -> str:
    """Write a payload as JSON text.

    Raises PayloadError, with the path of the bad value, for what is not a JSON object, holds
    NaN or infinity, keys that are not strings, or values JSON has no form for, is nested
    deeper than 20 levels or longer than 10 MiB.
    """
    if not isinstance(payload, dict):
        raise PayloadError(f"payload: should be a dict, not {_kind(payload)}")
    _check_value(payload, "payload", 1)
    text = _write(payload)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        # A lone surrogate has no form in UTF-8; escaped, JSON can carry it.
        text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
        size = len(text)
    if size > MAX_BYTES:
        raise PayloadError(f"payload: {size:,} bytes of JSON; at most {MAX_BYTES:,} are taken")
    return text


def _check_value(value: Any, path: str, depth: int) -> None:
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
                _check_value(item, item_path, depth + 1)
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
