"""Which processes work on a directory: each holds the lock of a file of its own while it lives.

The kernel gives such a lock (flock) back when its process ends, however it ends, and not while it
is only stopped. The file says which jobs the process has really started, so that only those are
charged with its death.
"""

import ctypes
import itertools
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from queue_max import forking
from queue_max.domain.job import Lease
from queue_max.storage.bells import BELL
from queue_max.storage.ticks import boot

try:
    import fcntl
except ImportError:  # Windows: the time of leases alone tells who is dead
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_SLOT = 64


@dataclass(frozen=True, slots=True)
class Remains:
    """What a process has left that ended without a word."""

    identity: str
    started: frozenset[Lease] | None
    """The jobs it had started and not finished; None when that cannot be told."""
    path: Path

    def is_charged(self, lease: Lease) -> bool:
        """Tell whether a job that the process held counts its end as an attempt."""
        return self.started is None or lease in self.started

    def clear(self) -> None:
        """Remove its files, once all jobs of the process are taken care of."""
        self.path.with_suffix(BELL).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class Presence:
    """What others see of this process: a new identity each time it begins to work."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "workers"
        self._lock = forking.lock()
        self.identity: str | None = None
        """None while the process does not work."""
        self._file: int | None = None
        self._slots: dict[Lease, int] = {}
        self._free: list[int] = []
        self._new_slots = itertools.count()
        forking.in_child(self._forget)

    def appear(self) -> None:
        """Take an identity, and the lock that shows others that this process lives."""
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64]
        self.identity = f"{host}-{os.getpid()}-{secrets.token_hex(6)}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if fcntl is None:
            return
        draft = self._folder / f".{self.identity}"
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.pwrite(file, _header(), 0)
        fcntl.flock(file, fcntl.LOCK_EX)
        draft.rename(self._path())  # locked before anybody can see it
        self._file = file

    def vanish(self) -> None:
        """Give the identity up; nothing is left of it."""
        if self._file is not None:
            with suppress(OSError):
                self._path().unlink(missing_ok=True)
        self._forget()

    def started(self, lease: Lease, after: Lease | None = None) -> None:
        """Note that a job has begun; in the place of the one that its thread ran before, if any."""
        with self._lock:
            slot = self._slots.pop(after, None) if after is not None else None
            if slot is None:
                slot = self._free.pop() if self._free else next(self._new_slots)
            self._slots[lease] = slot
        # Beyond the lock: the thread has the slot for itself, and others need not wait for that.
        self._write(slot, b"%d %d %d" % lease)

    def ended(self, lease: Lease) -> None:
        """Note that a job runs no longer."""
        with self._lock:
            slot = self._slots.pop(lease, None)
        if slot is not None:
            self._write(slot, b"")
            with self._lock:
                self._free.append(slot)

    def dead(self) -> Iterator[Remains]:
        """Find processes of this host that are no more; each is given to one caller at a time."""
        if fcntl is None:
            return
        for path in self._folder.glob("*.lock"):
            if self.identity and path == self._path():
                continue
            with suppress(FileNotFoundError, PermissionError):  # somebody was faster; not ours
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield Remains(path.stem, _read_started(file), path)
                except BlockingIOError:
                    continue  # it lives
                finally:
                    os.close(file)

    def _path(self) -> Path:
        return self._folder / f"{self.identity}.lock"

    def _write(self, slot: int, text: bytes) -> None:
        if self._file is None:
            return
        try:
            _pwrite(self._file, text.ljust(_SLOT - 1) + b"\n", (slot + 1) * _SLOT)
        except OSError as error:
            # On a full disk, say. No job waits for that: it only may be charged wrongly.
            logger.warning("%s does not tell which jobs run: %s", self._path(), error)

    def _forget(self) -> None:
        """Be nobody: at the end, and in a child of fork, where closing does not unlock."""
        if self._file is not None:
            os.close(self._file)
        self.identity, self._file = None, None
        self._slots, self._free, self._new_slots = {}, [], itertools.count()


def _pwrite_without_pause() -> Callable[[int, bytes, int], object]:
    """Give `os.pwrite` that keeps Python's lock meanwhile, where there is one.

    It takes a microsecond, into the page cache; for another thread to run meanwhile and give the
    lock back takes ten times as long, at each job.
    """
    try:
        write = ctypes.PyDLL(None, use_errno=True).pwrite
    except (AttributeError, OSError, TypeError):
        return os.pwrite
    write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_ssize_t)
    write.restype = ctypes.c_ssize_t

    def pwrite(file: int, text: bytes, offset: int) -> None:
        if write(file, text, len(text), offset) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    return pwrite


_pwrite = _pwrite_without_pause()


def _header() -> bytes:
    return boot().ljust(_SLOT - 1) + b"\n"


def _read_started(file: int) -> frozenset[Lease] | None:
    """Read the jobs of a file; of another run of the machine, what was written last may lack."""
    lines = os.pread(file, 64 * 1024 * 1024, 0).splitlines() or [b""]
    header, *slots = (line.strip() for line in lines)
    if not header or header != boot():
        return None
    try:
        return frozenset(Lease(*map(int, slot.split())) for slot in slots if slot)
    except (TypeError, ValueError):
        return None
