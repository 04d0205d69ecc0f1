"""Time as the queue keeps it: aware, in UTC, cut to milliseconds."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Read the wall clock."""
    return cut(datetime.now(UTC))


def cut(moment: datetime) -> datetime:
    """Cut an aware moment to whole milliseconds of UTC."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def later(moment: datetime, seconds: float) -> datetime:
    """Add seconds to a moment; ten years at most, for a calendar does not hold all numbers."""
    return cut(moment + timedelta(seconds=min(seconds, 315_360_000)))


def to_text(moment: datetime) -> str:
    """Write a moment as `YYYY-MM-DDTHH:MM:SS.mmmZ`: 24 characters, so text order is time order."""
    return cut(moment).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def from_text(text: str) -> datetime:
    """Read ISO 8601; a moment without an offset is taken as UTC."""
    moment = datetime.fromisoformat(text)
    return cut(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
