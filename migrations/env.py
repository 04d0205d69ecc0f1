"""Runs a history: on the connection it is handed, else on each database of DATA_DIR.

Two histories share this file, told apart by the section of alembic.ini: shards by default, the
control database as `control`. Logging is left alone: it belongs to the program that runs us.
"""

from typing import Any, Literal

from alembic import command, context
from sqlalchemy import Connection

from queue_max.storage.directory import Directory
from queue_max.storage.migrations import CONTROL, SHARD, History, adopt
from queue_max.storage.types import UtcTime


def render_type(kind: str, item: Any, _autogen: Any) -> str | Literal[False]:
    """Write our column types as what they are on disk: a revision must outlive the code."""
    if kind == "type" and isinstance(item, UtcTime):
        return 'sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")'
    return False


def migrate(connection: Connection, history: History) -> None:
    context.configure(
        connection=connection,
        target_metadata=history.tables,
        version_table=history.version_table,
        # Both histories may lie in one database: each minds its own tables.
        include_name=lambda name, kind, _parents: kind != "table" or name in history.tables.tables,
        render_as_batch=True,
        render_item=render_type,
    )
    with context.begin_transaction():
        context.run_migrations()


def walk(history: History) -> None:
    from queue_max.assembly import storage_options
    from queue_max.settings import Settings

    # `current` and `check` only look; a file of 0.1 or 0.2 is left to them as it is.
    chosen = getattr(context.config.cmd_opts, "cmd", (None,))[0]
    upgrades = chosen is command.upgrade
    settings = Settings.load()
    directory = Directory(settings.data_dir, storage_options(settings))
    try:
        for database in directory.existing(history):
            print(f"{database.label}:")
            if upgrades:
                adopt(database, history, directory.backups)
            with database.writing() as connection:
                migrate(connection, history)
    finally:
        directory.close()


handed = context.config.attributes
if "connection" in handed:
    migrate(handed["connection"], handed["history"])
else:
    walk(CONTROL if context.config.config_ini_section == CONTROL.name else SHARD)
