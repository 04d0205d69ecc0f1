from datetime import UTC, datetime, timedelta

import pytest

from queue_max.domain.job import JobStatus
from queue_max.domain.retention import DaysKept

NOW = datetime(2026, 1, 31, 8, tzinfo=UTC)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def test_each_kind_of_end_has_its_own_days_or_those_that_hold_for_all() -> None:
    assert DaysKept(7, completed=0, cancelled=0.5).ended_before(NOW) == {
        JobStatus.COMPLETED: NOW,
        JobStatus.FAILED: days_ago(7),
        JobStatus.CANCELLED: days_ago(0.5),
    }
    assert DaysKept(7, failed=1).ended_before(NOW)[JobStatus.FAILED] == days_ago(1)


@pytest.mark.parametrize(("days", "moment"), [(None, None), (0, NOW), (30, days_ago(30))])
def test_dead_letters_are_kept_for_ever_unless_days_are_named(
    days: float | None, moment: datetime | None
) -> None:
    assert DaysKept(7, dead_letters=days).buried_before(NOW) == moment
