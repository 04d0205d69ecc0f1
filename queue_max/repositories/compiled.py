"""Statements that are built once, for what jobs pass again and again.

On SQLite the driver itself runs their text: what SQLAlchemy does at each execution takes longer
than SQLite's own part.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, Connection, Executable, Table, bindparam
from sqlalchemy.dialects import sqlite

from queue_max.domain.clock import to_text

_DIALECT = sqlite.dialect(paramstyle="named")


class Compiled:
    """A statement, for use within a transaction that has begun."""

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        self._statement = statement
        self._text = str(compiled)
        self._constants = compiled.params

    def run(self, connection: Connection, **values: Any) -> Any:
        """Execute it; gives a cursor with `rowcount` and `fetchone`."""
        if not is_sqlite(connection):
            return connection.execute(self._statement, values)
        bound = self._constants.copy()
        for name, value in values.items():
            bound[name] = to_text(value) if isinstance(value, datetime) else value
        return connection.connection.cursor().execute(self._text, bound)


def to_be_bound(table: Table, *, but: Collection[str] = ()) -> dict[str, BindParameter[Any]]:
    """Give a place for a value of each column, under its name in Python."""
    return {
        column.key: bindparam(column.key, type_=column.type)
        for column in table.c
        if column.key not in but
    }


def is_sqlite(connection: Connection) -> bool:
    """Tell whether the database is SQLite."""
    return connection.dialect.name == "sqlite"
