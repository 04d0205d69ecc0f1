"""Checks of arguments: one wording for all of them, with name, value and what is allowed."""

import math
import os
import threading
from pathlib import Path
from typing import Any

from queue_max.exceptions import ConfigurationError

LARGEST = 2**63 - 1
"""What a column for whole numbers holds, on SQLite as on PostgreSQL."""

MOST_BITS = 13_000
"""Beyond this many bits Python refuses to write a number in decimal."""


def instance(
    name: str,
    value: object,
    kinds: type | tuple[type, ...],
    what: str,
    *,
    error: type[ValueError] = ConfigurationError,
) -> None:
    """Refuse a value that is of none of these kinds; `what` says in words which they are."""
    if not isinstance(value, kinds):
        raise error(f"{name}={shown(value)}: should be {what}, not {type(value).__name__}")


def function(name: str, value: object) -> None:
    """Refuse a value that cannot be called."""
    if not callable(value):
        raise ConfigurationError(f"{name}={shown(value)}: should be callable")


def text(name: str, value: str) -> str:
    """Give the value if it is a text that any database stores."""
    instance(name, value, str, "a str")
    try:
        is_storable = b"\0" not in value.encode()
    except UnicodeEncodeError:
        is_storable = False
    if not is_storable:
        raise ConfigurationError(
            f"{name}={shown(value)}: should be a str without NUL and lone surrogates"
        )
    return value


def path(name: str, value: Any) -> Path:
    """Give the value as a path, if a file may have it."""
    try:
        found = Path(value)
        is_possible = b"\0" not in os.fsencode(found)
    except (TypeError, UnicodeEncodeError):
        is_possible = False
    if not is_possible:
        raise ConfigurationError(f"{name}={shown(value)}: should be a path that a file may have")
    return found


def identity(name: str, value: object) -> int:
    """Give the value if it is a whole number, whether or not anything goes by it."""
    number = _integer(name, value, ConfigurationError)
    if number.bit_length() > MOST_BITS:
        raise ConfigurationError(
            f"{name}={shown(value)}: should be a whole number of at most {MOST_BITS:,} bits"
        )
    return number


def whole(
    name: str,
    value: object,
    *,
    at_least: int = -LARGEST,
    at_most: int = LARGEST,
    error: type[ValueError] = ConfigurationError,
) -> int:
    """Give the value if it is a whole number within the bounds; True and 1.0 are none."""
    number = _integer(name, value, error)
    if not at_least <= number <= at_most:
        raise error(f"{name}={shown(value)}: should be from {at_least} to {at_most}")
    return number


def limit(name: str, value: float) -> float:
    """Give the value if it is a whole number of at least 1, or infinity for no limit."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST
    if not is_whole and value != math.inf:
        raise ConfigurationError(
            f"{name}={shown(value)}: should be a whole number from 1 to {LARGEST}, "
            "or inf for no limit"
        )
    return value


def amount(name: str, value: float, *, at_least: float, at_most: float) -> float:
    """Give the value if it is a number, whole or not, within the bounds."""
    if not _is_number(value) or not at_least <= value <= at_most:
        raise ConfigurationError(
            f"{name}={shown(value)}: should be a number from {at_least} to {at_most}"
        )
    return value


YEAR = 366 * 86_400.0
"""Seconds for which something is held back by hand, at most."""


def seconds(name: str, value: float, *, zero: bool = False, at_most: float = math.inf) -> float:
    """Give the value if it is a time to wait, longer than nothing unless `zero` may be.

    What is longer than a thread can wait, and that is some 292 years, is cut to it.
    """
    least = "0 seconds or more" if zero else "more than 0 seconds"
    if not _is_number(value) or not (value >= 0 if zero else value > 0):
        raise ConfigurationError(f"{name}={shown(value)}: should be {least}")
    if value > at_most:
        raise ConfigurationError(f"{name}={shown(value)}: should be {at_most:.0f} seconds at most")
    return float(min(value, threading.TIMEOUT_MAX))


def shown(value: object) -> str:
    """Show a value in an error, which must neither repeat a megabyte nor fail itself."""
    try:
        text = repr(value)
    except Exception:  # user code, or a number that Python refuses to write
        return f"<{type(value).__name__}>"
    return text if len(text) <= 60 else f"{text[:60]}…"


def _integer(name: str, value: object, error: type[ValueError]) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        kind = type(value).__name__
        raise error(f"{name}={shown(value)}: should be a whole number, not {kind}")
    return int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
