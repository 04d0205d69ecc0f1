"""Which SQLite this process uses: one library for all files, and free of known bugs if it can be.

SQLite 3.7.0 to 3.51.2 can lose commits when a checkpoint meets a writer that restarts the WAL
(the "WAL-reset bug", https://sqlite.org/wal.html#walresetbug). It is repaired in 3.51.3, and in
3.50.7 and 3.44.6 of the older lines; 3.52.0 was withdrawn. On an affected library memory mapping
stays off, and automatic checkpoints too: see `storage.checkpoints`.

Two libraries in one process must never open the same file: the locks of one are dropped when the
other closes it (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType

# Primary result codes, https://sqlite.org/rescode.html; pysqlite3 has no names for them.
BUSY, LOCKED, CORRUPT, FULL, CANNOT_OPEN, TOO_BIG, CONSTRAINT, NOT_A_DATABASE = (
    5, 6, 11, 13, 14, 18, 19, 26,
)  # fmt: skip

Version = tuple[int, int, int]

_REPAIRED = (3, 51, 3)
_WITHDRAWN = (3, 52, 0)
_BACKPORTS = {(3, 44): 6, (3, 50): 7}


@dataclass(frozen=True, slots=True)
class Driver:
    """A DB-API module for SQLite and the library behind it."""

    module: ModuleType
    version: Version

    @property
    def name(self) -> str:
        """The module and its library, for people."""
        return f"{self.module.__name__} with SQLite {'.'.join(map(str, self.version))}"

    @property
    def has_wal_reset_bug(self) -> bool:
        """Whether commits can be lost unless checkpoints are kept apart from writers."""
        return has_wal_reset_bug(self.version)


def has_wal_reset_bug(version: Version) -> bool:
    """Tell whether that version of SQLite is affected by the WAL-reset bug."""
    if version < (3, 7, 0) or version == _WITHDRAWN:
        return version == _WITHDRAWN
    backport = _BACKPORTS.get(version[:2])
    return version < _REPAIRED and not (backport is not None and version[2] >= backport)


def primary_code(error: BaseException | None) -> int:
    """Tell the result code of an error that the driver raised; 0 for any other."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


@functools.cache
def choose() -> Driver:
    """Take the standard library's SQLite where it is sound, else pysqlite3 where that is."""
    standard = _load("sqlite3")
    assert standard is not None  # noqa: S101 - part of Python
    if standard.has_wal_reset_bug:
        bundled = _load("pysqlite3")
        if bundled is not None and not bundled.has_wal_reset_bug:
            return bundled
    return standard


def _load(package: str) -> Driver | None:
    try:
        module = importlib.import_module(f"{package}.dbapi2")
    except ImportError:
        return None
    return Driver(module, module.sqlite_version_info)
