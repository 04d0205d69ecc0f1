"""Whether a job that is read is the one that was stored: disks and memory flip bits."""

import zlib
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from queue_max.domain.job import JobStatus

_WHOLE = ("id", "attempts", "max_attempts", "retry_delay", "priority", "fence")
_whole = itemgetter(*_WHOLE)
_STATUSES = frozenset(map(str, JobStatus))


def checksum(uid: str, payload: str, task: str | None = None) -> int:
    """Sum up what names a job and what it is to do: CRC-32, as zlib has it."""
    text = f"{uid}\0{payload}" if task is None else f"{uid}\0{payload}\0{task}"
    return zlib.crc32(text.encode())


def damage_of(row: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a row of `fila`, by the names that a Job has; None: nothing.

    A row without a checksum was stored by 0.1 or 0.2, and is taken for what it says.
    """
    if set(map(type, _whole(row))) != {int}:
        name = next(name for name in _WHOLE if type(row[name]) is not int)
        return f"its {name} is not a whole number"
    if row["status"] not in _STATUSES:
        return "its status is none there is"
    for name in ("keep_result", "timeout"):
        if not isinstance(row[name], int | float | None):
            return f"its {name} is not a number"
    if not isinstance(row["payload"], str) or not isinstance(row["uid"], str):
        return "its payload or uid is not a text"
    if not isinstance(row["task"], str | None):
        return "its task is not a text"
    if row["checksum"] not in {None, checksum(row["uid"], row["payload"], row["task"])}:
        return "its payload is not the one that was stored"
    return None


def without_damage(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give the row with an empty payload, and nothing in it that could not be read."""
    whole = {name: row[name] if isinstance(row[name], int) else 0 for name in _WHOLE}
    status = row["status"] if row["status"] in _STATUSES else JobStatus.FAILED
    return {**row, **whole, "status": status, "payload": "{}", "keep_result": None, "timeout": None}
