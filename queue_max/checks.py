"""Checks of arguments: one wording for all of them, with name, value and what is allowed."""

import math
import threading

from queue_max.exceptions import ConfigurationError

LARGEST = 2**63 - 1
"""What a column for whole numbers holds, on SQLite as on PostgreSQL."""


def whole(
    name: str,
    value: object,
    *,
    at_least: int = -LARGEST,
    at_most: int = LARGEST,
    error: type[ValueError] = ConfigurationError,
) -> int:
    """Give the value if it is a whole number within the bounds; True and 1.0 are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        kind = type(value).__name__
        raise error(f"{name}={shown(value)}: should be a whole number, not {kind}")
    if not at_least <= value <= at_most:
        raise error(f"{name}={shown(value)}: should be from {at_least} to {at_most}")
    return int(value)


def limit(name: str, value: object) -> float:
    """Give the value if it is a whole number of at least 1, or infinity for no limit."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not is_whole and value != math.inf:
        raise ConfigurationError(
            f"{name}={shown(value)}: should be a whole number of at least 1, or inf for no limit"
        )
    return value  # type: ignore[return-value]


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Give the value if it is a time to wait, longer than nothing unless `zero` may be."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    least = "0 seconds or more" if zero else "more than 0 seconds"
    if not is_number or not (value >= 0 if zero else value > 0):  # type: ignore[operator]
        raise ConfigurationError(f"{name}={shown(value)}: should be {least}")
    return min(float(value), threading.TIMEOUT_MAX)  # type: ignore[arg-type]


def shown(value: object) -> str:
    """Show a value in an error, which must neither repeat a megabyte nor fail itself."""
    try:
        text = repr(value)
    except Exception:  # user code, or a number that Python refuses to write
        return f"<{type(value).__name__}>"
    return text if len(text) <= 60 else f"{text[:60]}…"
