"""Room on the disk: where there is little, no job may begin; a reserve lets those that run end.

On a full disk SQLite can delete no row either, so that not even a job that is done can leave.
"""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from queue_max.exceptions import QueueFullError, ShardMissingError

logger = logging.getLogger(__name__)

MIB = 1024 * 1024

LEAST = 4 * MIB
"""Bytes that new jobs leave free."""

RESERVE = 4 * MIB
"""Bytes of the file that is given up for jobs that are to end."""


class Room:
    """What is left on the disk of a data directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reserve = folder / "reserve"
        self._is_given_up = False

    def free(self) -> int:
        """Tell how many bytes are left for us."""
        return shutil.disk_usage(self._folder).free

    def require(self) -> None:
        """Raise QueueFullError where new jobs would take the room that others need to end.

        ShardMissingError where the folder is gone.
        """
        try:
            free = self.free()
        except OSError as error:
            what = f"{self._folder} cannot be reached: {error.strerror}"
            raise ShardMissingError(None, what) from error
        if free < LEAST:
            raise QueueFullError(
                None,
                f"only {free / MIB:.1f} MiB are left on the disk of {self._folder}; "
                f"{LEAST // MIB} MiB stay free for jobs that run. Make room, or purge old jobs",
            )
        if self._is_given_up:
            self.keep_reserve()

    def keep_reserve(self) -> None:
        """Make the reserve, where it is missing and there is plenty of room."""
        if self._reserve.exists() or self.free() < LEAST + 2 * RESERVE:
            return
        with suppress(OSError):  # another time, then
            file = os.open(self._reserve, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            try:
                _allocate(file, RESERVE)
            finally:
                os.close(file)
            self._is_given_up = False

    def give_up_reserve(self) -> None:
        """Leave the room of the reserve to whoever met a full disk."""
        with suppress(OSError):
            self._reserve.unlink()
            self._is_given_up = True
            logger.error("the disk of %s is full: jobs that run can end, no other", self._folder)


def _allocate(file: int, size: int) -> None:
    """Take room on the disk for a file; where the system cannot do just that, by writing it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.write(file, bytes(size))
