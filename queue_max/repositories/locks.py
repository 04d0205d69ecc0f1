"""Locks by name, for what a row cannot be locked for, since it may not be there yet."""

from sqlalchemy import Connection, func, select

from queue_max.repositories.compiled import is_sqlite


def hold_name(connection: Connection, name: str) -> None:
    """Keep other transactions from holding the same name until this one ends.

    On SQLite who writes is alone, and nothing is to be done.
    """
    if not is_sqlite(connection):
        lock = func.pg_advisory_xact_lock(func.hashtextextended(name, 0))
        connection.execute(select(lock))
