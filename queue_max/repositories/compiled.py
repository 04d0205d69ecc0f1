"""Statements that are run by SQLite's driver itself, for the few that every job passes.

SQLAlchemy writes them, once; what it does at each execution takes longer than SQLite's own part.
Values are bound as they are stored: moments as text.
"""

from typing import Any

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.dialects import sqlite

_DIALECT = sqlite.dialect(paramstyle="named")


class Compiled:
    """A statement as text, for SQLite; only within a transaction that has begun."""

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self._text = str(compiled)
        self._constants = compiled.params

    def run(self, connection: Connection, **values: Any) -> Any:
        """Execute it; gives the driver's cursor."""
        cursor = connection.connection.cursor()
        return cursor.execute(self._text, {**self._constants, **values})


def is_sqlite(connection: Connection) -> bool:
    """Tell whether such statements can be run there."""
    return connection.dialect.name == "sqlite"
