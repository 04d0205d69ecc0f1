"""Checkpoints where SQLite's own are not safe: under the write lock, so that no commit meets them.

That is what keeps the WAL-reset bug away (see `storage.driver`). One process makes them for all;
the others help only where it does not, as when it is stopped.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from queue_max import forking
from queue_max.exceptions import ShardError
from queue_max.storage.sqlite import WAL_LIMIT, SqliteDatabase

try:
    import fcntl
except ImportError:  # Windows: every process checkpoints; the write lock keeps them apart
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the WALs."""

_ENOUGH = 1000 * 4096  # bytes; SQLite's own default, 1000 pages


class Checkpointer:
    """Moves the WALs of a directory into their files; who holds `maintenance.lock` does it."""

    def __init__(self, directory: Path, databases: Sequence[SqliteDatabase]) -> None:
        self._lock_path = directory / "maintenance.lock"
        self._databases = databases
        self._lock: int | None = None
        self._done: dict[SqliteDatabase, int] = {}
        forking.in_child(self.close)

    def run(self) -> None:
        """Checkpoint what has grown and was written to since it was last done."""
        enough = _ENOUGH if self._is_elected() else 2 * WAL_LIMIT
        for database in self._databases:
            size, written_at = database.wal()
            if size < enough or self._done.get(database) == written_at:
                continue
            try:
                if database.checkpoint():
                    self._done[database] = written_at
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
