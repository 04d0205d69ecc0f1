"""Column types: how moments lie on disk."""

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, Text, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from queue_max.domain.clock import cut, from_text, to_text


class UnreadableValueError(ValueError):
    """Something else is stored than what was written."""


def to_moment(value: Any) -> datetime:
    """Read a moment as it is stored, on either database."""
    try:
        return from_text(value) if isinstance(value, str) else cut(value)
    except (AttributeError, ValueError, OverflowError) as error:
        raise UnreadableValueError(f"{value!r} is no moment") from error


class UtcTime(TypeDecorator[datetime]):
    """An aware moment: text of fixed width on SQLite, `timestamptz` on PostgreSQL.

    On SQLite the order of the text is the order of time, which indexes rely on.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the type on disk."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | datetime | None:
        """Write a moment."""
        if value is None or dialect.name == "postgresql":
            return value
        return to_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Read a moment."""
        return None if value is None else to_moment(value)
