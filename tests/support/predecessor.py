"""Data directories as queue-max 0.1.1 and 0.2.0 left them, made without those packages."""

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any

from queue_max.storage import driver


class Release(StrEnum):
    """What wrote a directory."""

    FIRST = "0.1.1"
    SECOND = "0.2.0"
    BOTH = "0.1.1 then 0.2.0"
    """0.2.0 could not rebuild the tables of 0.1.1: it only changed indexes, and said version 2."""


# Both wrote two forms of time: the database's own and that of Python code.
FROM_SQL = "2026-01-02 03:04:05"
FROM_CODE = "2026-01-02T03:04:05.678Z"
LATER = "2999-01-01T00:00:00.000Z"

_FAILURE = {
    "last_error": "boom",
    "error_type": "ValueError",
    "error_stack": "ValueError: boom\n",
}

JOBS: dict[str, dict[str, Any]] = {
    "waiting": {"status": "pending"},
    "urgent": {"status": "pending", "priority": 2, "pagina_id": 42, "max_tentativas": 8},
    "not yet due": {
        "status": "pending",
        "tentativas": 1,
        "worker_id": "w1",
        "started_at": FROM_CODE,
        "heartbeat": FROM_CODE,
        "next_retry_at": LATER,
        **_FAILURE,
    },
    "due again": {
        "status": "pending",
        "tentativas": 2,
        "worker_id": "w1",
        "started_at": FROM_CODE,
        "heartbeat": FROM_CODE,
        "next_retry_at": FROM_CODE,
        **_FAILURE,
    },
    "orphaned": {
        "status": "processing",
        "tentativas": 1,
        "worker_id": "killed",
        "started_at": FROM_CODE,
        "heartbeat": FROM_CODE,
    },
    "failed": {
        "status": "failed",
        "tentativas": 4,
        "started_at": FROM_CODE,
        "completed_at": FROM_CODE,
        **_FAILURE,
    },
}
"""One job of each kind; they are numbered from 1 in this order."""

LAST_ID = len(JOBS) + 1
"""The number of a job that was completed, and so deleted."""


def make_directory(
    path: Path, shards: int = 3, release: Release = Release.FIRST, *, killed: bool = False
) -> Path:
    """Make a directory with the jobs of `JOBS` in each shard, one of them a dead letter too.

    With `killed`, its last process had no time to close the files: all lies in the WALs.
    """
    path.mkdir()
    for number in range(shards):
        target = path / f"shard_{number}.db"
        if killed:
            with_wal = path / f"open_{number}.db"
            connection = _write_shard(with_wal, number, release)
            for suffix in ("", "-wal"):
                shutil.copy(f"{with_wal}{suffix}", f"{target}{suffix}")
            connection.close()
            with_wal.unlink()
        else:
            _write_shard(target, number, release).close()
    return path


def make_empty_shard(path: Path, release: Release = Release.FIRST) -> Path:
    """Make a shard file that never held a job."""
    connection = _open(path)
    _run(connection, _TABLES[release], _INDEXES[release])
    connection.execute("INSERT INTO shard_metadata (shard_id) VALUES (0)")
    connection.close()
    return path


def payload_of(name: str, shard_id: int) -> str:
    """Give the payload of a job as it lies in the file."""
    return json.dumps({"name": name, "shard": shard_id})


def _write_shard(path: Path, number: int, release: Release) -> Any:
    connection = _open(path)
    _run(connection, _TABLES[release], _INDEXES[release])
    version = 1 if release is Release.FIRST or (release is Release.BOTH and number) else 2
    _insert(
        connection,
        "shard_metadata",
        shard_id=number,
        version=version,
        created_at=FROM_SQL,
        total_jobs_processed=1,
        total_jobs_failed=1,
    )
    for name, columns in JOBS.items():
        defaults = {"max_tentativas": 4, "created_at": FROM_SQL}
        _insert(connection, "fila", payload=payload_of(name, number), **defaults | columns)
    _insert(connection, "fila", payload=payload_of("completed", number), created_at=FROM_SQL)
    connection.execute("DELETE FROM fila WHERE id = ?", [LAST_ID])
    _insert(
        connection,
        "dead_letter_queue",
        original_job_id=list(JOBS).index("failed") + 1,
        payload=payload_of("failed", number),
        error="boom",
        error_type="ValueError",
        failed_at=FROM_SQL,
        shard_id=number,
    )
    return connection


def _open(path: Path) -> Any:
    connection = driver.choose().module.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def _run(connection: Any, *statements: tuple[str, ...]) -> None:
    for group in statements:
        for statement in group:
            connection.execute(statement)


def _insert(connection: Any, table: str, **columns: Any) -> None:
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
    connection.execute(statement, list(columns.values()))


_TABLES_OF_FIRST = (
    """
    CREATE TABLE fila (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pagina_id INTEGER,
        payload TEXT NOT NULL,
        status TEXT DEFAULT 'pending',
        priority INTEGER DEFAULT 0,
        tentativas INTEGER DEFAULT 0,
        max_tentativas INTEGER DEFAULT 3,
        retry_delay INTEGER DEFAULT 60,
        last_error TEXT,
        error_type TEXT,
        error_stack TEXT,
        worker_id TEXT,
        heartbeat TEXT,
        created_at TEXT DEFAULT (datetime('now')),
        started_at TEXT,
        completed_at TEXT,
        next_retry_at TEXT
    )
    """,
    """
    CREATE TABLE shard_metadata (
        shard_id INTEGER PRIMARY KEY,
        version INTEGER DEFAULT 1,
        created_at TEXT DEFAULT (datetime('now')),
        last_vacuum TEXT,
        total_jobs_processed INTEGER DEFAULT 0,
        total_jobs_failed INTEGER DEFAULT 0
    )
    """,
    """
    CREATE TABLE dead_letter_queue (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        original_job_id INTEGER,
        payload TEXT NOT NULL,
        error TEXT NOT NULL,
        error_type TEXT NOT NULL,
        failed_at TEXT DEFAULT (datetime('now')),
        shard_id INTEGER
    )
    """,
)

_TABLES_OF_SECOND = (
    """
    CREATE TABLE fila (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pagina_id INTEGER,
        payload TEXT NOT NULL,
        status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN (
            'pending', 'processing', 'failed', 'completed', 'cancelled', 'scheduled'
        )),
        priority INTEGER NOT NULL DEFAULT 0,
        tentativas INTEGER NOT NULL DEFAULT 0,
        max_tentativas INTEGER NOT NULL DEFAULT 3,
        retry_delay INTEGER NOT NULL DEFAULT 60,
        last_error TEXT,
        error_type TEXT,
        error_stack TEXT,
        worker_id TEXT,
        heartbeat TEXT,
        created_at TEXT NOT NULL DEFAULT (datetime('now')),
        started_at TEXT,
        completed_at TEXT,
        next_retry_at TEXT
    )
    """,
    """
    CREATE TABLE shard_metadata (
        shard_id INTEGER PRIMARY KEY,
        version INTEGER NOT NULL DEFAULT 1,
        created_at TEXT NOT NULL DEFAULT (datetime('now')),
        last_vacuum TEXT,
        total_jobs_processed INTEGER NOT NULL DEFAULT 0,
        total_jobs_failed INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE dead_letter_queue (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        original_job_id INTEGER,
        payload TEXT NOT NULL,
        error TEXT NOT NULL,
        error_type TEXT NOT NULL,
        failed_at TEXT NOT NULL DEFAULT (datetime('now')),
        shard_id INTEGER
    )
    """,
)

_COMMON_INDEXES = (
    "CREATE INDEX idx_heartbeat ON fila (heartbeat) WHERE status = 'processing'",
    "CREATE INDEX idx_created_at ON fila (created_at)",
    "CREATE INDEX idx_status_created ON fila (status, created_at)",
    "CREATE INDEX idx_dlq_failed_at ON dead_letter_queue (failed_at)",
)
_INDEXES_OF_FIRST = (
    "CREATE INDEX idx_status_priority ON fila (status, priority DESC)",
    "CREATE INDEX idx_next_retry ON fila (next_retry_at) WHERE status = 'pending'",
    *_COMMON_INDEXES,
)
_INDEXES_OF_SECOND = (
    "CREATE INDEX idx_pop_job ON fila (status, next_retry_at, priority DESC, id)",
    *_COMMON_INDEXES,
)

_TABLES = {
    Release.FIRST: _TABLES_OF_FIRST,
    Release.SECOND: _TABLES_OF_SECOND,
    Release.BOTH: _TABLES_OF_FIRST,
}
_INDEXES = {
    Release.FIRST: _INDEXES_OF_FIRST,
    Release.SECOND: _INDEXES_OF_SECOND,
    Release.BOTH: _INDEXES_OF_SECOND,
}
