"""Two linear histories of tables, and bringing a database to the end of its own.

Alembic is imported only when there is something to migrate: it takes longer than all the rest.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, inspect, text

from queue_max import forking
from queue_max.exceptions import SchemaError
from queue_max.storage.database import Database
from queue_max.storage.schema import control_tables, shard_tables
from queue_max.storage.sqlite import SqliteDatabase

if TYPE_CHECKING:  # Alembic is slow to import; see above
    from alembic.config import Config

BASELINE = "0001"
"""The layout of 0.1.1 and 0.2.0, whose files know nothing of Alembic."""

_alembic = forking.lock()  # Alembic keeps what it works on in globals of its modules

_blueprints: dict[tuple[str, str], list[str]] = {}
"""By end of a history, the statements that make a new SQLite database as Alembic made the first.

A queue has many shards, all alike, and each takes Alembic a twentieth of a second.
"""


@dataclass(frozen=True, slots=True)
class History:
    """One folder of revisions; `head` is the newest of them."""

    name: str
    version_table: str
    tables: MetaData
    head: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells the end of this history from all others."""
        return self.name, self.head


SHARD = History("shard", "alembic_version", shard_tables, head="0004")
CONTROL = History("control", "alembic_version_control", control_tables, head="0004")


def upgrade(database: Database, history: History, backups: Path) -> None:
    """Bring a database to the newest revision; many starters may do so at once.

    A database of 0.1.1 or 0.2.0 is copied into the folder `backups` before. A revision that
    fails leaves the database as it was. Raises SchemaError for tables that are not ours, or
    newer than this code.
    """
    if revision(database, history) == history.head:
        return
    adopt(database, history, backups)
    from alembic import command
    from alembic.util import CommandError

    with _alembic, database.writing() as connection:
        _wait_for_other_starters(connection)
        is_blank = isinstance(database, SqliteDatabase) and not _statements(connection)
        if is_blank and history.key in _blueprints:
            _build(connection, history)
            return
        try:
            command.upgrade(_config(connection, history), "head")
        except CommandError as error:
            found = _read_revision(connection, history)
            raise _unknown_revision(database, history, found) from error
        if is_blank:
            _blueprints[history.key] = _statements(connection)


def require(database: Database, history: History, remedy: str) -> None:
    """Raise SchemaError, with what to do, unless the database is at the newest revision."""
    found = revision(database, history)
    if found == history.head:
        return
    if found is not None and found > history.head:
        raise _unknown_revision(database, history, found)
    raise SchemaError(
        database.shard_id,
        f"its tables are at revision {found or 'none'}, this code needs {history.head}; {remedy}",
    )


def revision(database: Database, history: History) -> str | None:
    """Tell at which revision a database is; None when it knows of none."""
    with database.reading() as connection:
        return _read_revision(connection, history)


def predates_alembic(database: Database) -> bool:
    """Tell whether this is a shard as 0.1.1 or 0.2.0 left it."""
    with database.reading() as connection:
        tables = set(inspect(connection).get_table_names())
    return "fila" in tables and SHARD.version_table not in tables


def adopt(database: Database, history: History, backups: Path) -> None:
    """Note in a shard of 0.1.1 or 0.2.0 that it is at the baseline; copy it first."""
    if history is not SHARD or not predates_alembic(database):
        return
    with database.reading() as connection:
        _refuse_strangers(connection, database)
    if isinstance(database, SqliteDatabase):
        _back_up(database, backups)
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with database.writing() as connection:
        if _read_revision(connection, history) is not None:
            return  # another starter was faster
        options = {"version_table": history.version_table}
        context = MigrationContext.configure(connection, opts=options)
        context.stamp(ScriptDirectory.from_config(_config(connection, history)), BASELINE)


def scripts() -> Path:
    """Find the revisions: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    if (package / "migrations").is_dir():
        return package / "migrations"
    # The ini file tells a checkout from a stranger's `migrations` in site-packages.
    if (package.parent / "alembic.ini").is_file():
        return package.parent / "migrations"
    raise FileNotFoundError(f"queue_max was installed without its migrations: {package}")


def _config(connection: Connection, history: History) -> "Config":
    from alembic.config import Config

    config = Config(attributes={"connection": connection, "history": history})
    # The ini format, in which Alembic keeps options, would read a % as the start of a name.
    folder = str(scripts()).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.set_main_option("version_locations", f"{folder}{os.sep}{history.name}")
    config.set_main_option("path_separator", "os")
    return config


def _statements(connection: Connection) -> list[str]:
    """Read by which statements the tables and indexes of a SQLite database were made."""
    query = text(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'sqlite_sequence'"
    )
    return list(connection.execute(query).scalars())


def _build(connection: Connection, history: History) -> None:
    for statement in _blueprints[history.key]:
        connection.exec_driver_sql(statement)
    noted = text(f"INSERT INTO {history.version_table} VALUES (:head)")  # noqa: S608 - a constant
    connection.execute(noted, {"head": history.head})


def _read_revision(connection: Connection, history: History) -> str | None:
    if not inspect(connection).has_table(history.version_table):
        return None
    query = text(f"SELECT version_num FROM {history.version_table}")  # noqa: S608 - a constant
    return connection.execute(query).scalar()


def _unknown_revision(database: Database, history: History, found: str | None) -> SchemaError:
    return SchemaError(
        database.shard_id,
        f"its tables are at revision {found}, which this code does not know (it knows up to "
        f"{history.head}): upgrade queue-max",
    )


def _wait_for_other_starters(connection: Connection) -> None:
    # On SQLite the BEGIN IMMEDIATE of this transaction has waited already.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('queue_max.migrations'))"))


def _refuse_strangers(connection: Connection, database: Database) -> None:
    """Compare what is there with the baseline: a file that has some `fila` need not be ours."""
    inspector = inspect(connection)
    for table, expected in _BASELINE_COLUMNS.items():
        found = (
            {column["name"] for column in inspector.get_columns(table)}
            if inspector.has_table(table)
            else set()
        )
        if found != expected:
            raise SchemaError(
                database.shard_id,
                f"table {table} is not as queue-max 0.1 or 0.2 made it "
                f"(missing {sorted(expected - found)}, unknown {sorted(found - expected)}): "
                "not touched",
            )


def _back_up(database: SqliteDatabase, backups: Path) -> None:
    """Copy a file of 0.1.1 or 0.2.0, once, before anything in it is changed."""
    backups.mkdir(mode=0o700, exist_ok=True)
    target = backups / f"{database.path.stem}.before-1.0{database.path.suffix}"
    draft = target.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    draft.unlink(missing_ok=True)
    database.copy_to(draft)
    draft.chmod(0o600)
    # Only a copy that was taken before anybody else upgraded the file counts.
    if predates_alembic(database) and not target.exists():
        draft.rename(target)
    else:
        draft.unlink()


_BASELINE_COLUMNS = {
    "fila": {
        "id",
        "pagina_id",
        "payload",
        "status",
        "priority",
        "tentativas",
        "max_tentativas",
        "retry_delay",
        "last_error",
        "error_type",
        "error_stack",
        "worker_id",
        "heartbeat",
        "created_at",
        "started_at",
        "completed_at",
        "next_retry_at",
    },
    "shard_metadata": {
        "shard_id",
        "version",
        "created_at",
        "last_vacuum",
        "total_jobs_processed",
        "total_jobs_failed",
    },
    "dead_letter_queue": {
        "id",
        "original_job_id",
        "payload",
        "error",
        "error_type",
        "failed_at",
        "shard_id",
    },
}
