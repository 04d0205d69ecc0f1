"""A clock that goes on whatever is done to the time of day, and ends when the host does."""

import functools
import time
from pathlib import Path
from typing import NamedTuple

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Ticks(NamedTuple):
    """A moment, in nanoseconds."""

    clock: str
    """Which one was read: times of another one say nothing."""
    now: int
    earliest: int
    latest: int
    """It was read between these moments of the clock of this process, see `nanoseconds`."""

    @classmethod
    def here(cls) -> "Ticks":
        """Read the clock of this host."""
        return cls.of(_name_of_boot(), nanoseconds())

    @classmethod
    def of(cls, clock: str, now: int) -> "Ticks":
        """Give a moment of the clock that this process goes by, too."""
        return cls(clock, now, now, now)


def nanoseconds() -> int:
    """Read the clock of this host: time since it was started, sleep included."""
    return time.clock_gettime_ns(_CLOCK)


@functools.cache
def _name_of_boot() -> str:
    return boot().decode() or "host"


def boot() -> bytes:
    """Name the present run of the machine; empty where it has no name."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""
