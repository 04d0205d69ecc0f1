"""Telling other processes of this host that there are new jobs, without a word in any database.

Each process with workers listens at a FIFO in `data/workers`; who has stored a job writes the
number of its shard there. Nothing depends on it: who misses a ring finds the job at its next look.
"""

import os
import select
import struct
import time
from contextlib import suppress
from pathlib import Path

from queue_max import forking

BELL = ".bell"
"""How the names of the FIFOs end, after the identity of their process."""

_SHARD = struct.Struct("<I")

# Opened for both, a FIFO can always be written to: nobody gets a SIGPIPE when the reader has died.
_FLAGS = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

ARE_POSSIBLE = hasattr(os, "mkfifo")
"""Whether there are FIFOs here; else processes find new jobs by looking."""

JUST_NOW = 100_000_000
"""Nanoseconds for which the time of a folder's last change does not rule out another one."""


class Bell:
    """The ear of a process with workers; raises OSError where it cannot have one."""

    def __init__(self, directory: Path, identity: str) -> None:
        self._path = directory / "workers" / f"{identity}{BELL}"
        os.mkfifo(self._path, 0o600)
        self._file: int | None = os.open(self._path, _FLAGS)
        forking.in_child(self._forget)

    def heard(self, timeout: float) -> set[int]:
        """Wait until it rings, for `timeout` seconds at most; gives the shards it rang for."""
        if self._file is None:
            return set()
        rung, _, _ = select.select([self._file], [], [], timeout)
        said = os.read(self._file, 1024 * _SHARD.size) if rung else b""
        return {shard_id for (shard_id,) in _SHARD.iter_unpack(said)}

    def ring(self) -> None:
        """Let whoever listens look up."""
        if self._file is not None:
            _write(self._file, 0)

    def take_down(self) -> None:
        """Listen no longer."""
        self._path.unlink(missing_ok=True)
        self._forget()

    def _forget(self) -> None:
        """Hear nothing: at the end, and in a child of fork, where the parent listens."""
        if self._file is not None:
            os.close(self._file)
        self._file = None


class Bells:
    """The bells of all other processes with workers on a directory."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "workers"
        self._lock = forking.lock()
        self._files: dict[str, int] = {}
        self._seen: int | None = None
        forking.in_child(self.close)

    def ring(self, shard_id: int, but: str | None = None) -> None:
        """Tell all others of new jobs in a shard; `but` is our own identity, if we have one."""
        with self._lock:
            self._look()
            for name, file in self._files.items():
                if name != but:
                    _write(file, shard_id)

    def close(self) -> None:
        """Close all files; also in a child of fork, which opens its own."""
        for file in self._files.values():
            os.close(file)
        self._files, self._seen = {}, None

    def _look(self) -> None:
        """See who is there, if anything has changed since the last time."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except OSError:  # nobody ever was
            return
        if changed == self._seen:
            return
        self._seen = changed if time.time_ns() - changed > JUST_NOW else None
        present = {path.stem: path for path in self._folder.glob(f"*{BELL}")}
        for name in self._files.keys() - present.keys():
            os.close(self._files.pop(name))
        for name in present.keys() - self._files.keys():
            with suppress(OSError):  # somebody else's, or gone again
                self._files[name] = os.open(present[name], _FLAGS)


def _write(file: int, shard_id: int) -> None:
    with suppress(OSError):  # full: it has enough to hear
        os.write(file, _SHARD.pack(shard_id))
