"""Checkpoints where SQLite's own are not safe: one process makes them, and alone with the file.

A TRUNCATE checkpoint holds the write lock, so no commit can meet it; that is what keeps the
WAL-reset bug away (see `storage.driver`).
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from queue_max.exceptions import ShardError
from queue_max.storage.sqlite import SqliteDatabase

try:
    import fcntl
except ImportError:  # Windows: every process checkpoints; the write lock keeps them apart
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the size of the WALs."""

_ENOUGH = 1000 * 4096  # bytes; SQLite's own default, 1000 pages


class Checkpointer:
    """Empties the WALs of a directory while it holds the directory's `maintenance.lock`."""

    def __init__(self, directory: Path, databases: Sequence[SqliteDatabase]) -> None:
        self._lock_path = directory / "maintenance.lock"
        self._databases = databases
        self._lock: int | None = None

    def run(self) -> None:
        """Checkpoint what has grown, if this process is, or can become, the one to do it."""
        if not self._is_elected():
            return
        for database in self._databases:
            if database.wal_bytes() >= _ENOUGH:
                try:
                    database.checkpoint()
                except ShardError as error:
                    logger.warning("no checkpoint now, another try follows: %s", error)

    def close(self) -> None:
        """Let another process take over."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_elected(self) -> bool:
        if fcntl is None or self._lock is not None:
            return True
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True
