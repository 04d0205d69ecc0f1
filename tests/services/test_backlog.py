from collections.abc import Callable
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.events import Events
from queue_max.domain.job import Job, JobStatus
from queue_max.repositories.unit_of_work import Store
from queue_max.services.backlog import BacklogAlarm
from queue_max.services.intake import IntakeService
from queue_max.services.retry import RetryService

Told = list[tuple[str, dict[str, Any]]]
Add = Callable[..., list[int]]

five = pytest.mark.parametrize("alert_threshold", [5])


@pytest.fixture
def submit(intake: IntakeService) -> Callable[[int], None]:
    """Submit jobs one by one, all in the same moment."""

    def submit(number: int) -> None:
        for _ in range(number):
            intake.submit({"payload": {}})

    return submit


@pytest.fixture
def drain(store: Store) -> Callable[[], None]:
    """Let workers elsewhere do all that waits."""

    def drain() -> None:
        with store.writing(0) as unit:
            unit.job_lists.purge([JobStatus.PENDING, JobStatus.SCHEDULED])

    return drain


def alerts(told: Told) -> list[dict[str, Any]]:
    return [facts for event, facts in told if event == "alert"]


def counted(statements: list[str]) -> int:
    return len([sql for sql in statements if "count(" in sql])


@five
def test_more_jobs_than_the_threshold_ring_once(submit: Callable[[int], None], told: Told) -> None:
    submit(5)
    assert alerts(told) == []
    submit(1)
    assert alerts(told) == [{"type": "QUEUE_SIZE", "pending": 6, "threshold": 5}]
    submit(20)
    assert len(alerts(told)) == 1


@five
def test_it_does_not_ring_again_while_too_many_jobs_wait(
    submit: Callable[[int], None], clock: FakeClock, told: Told
) -> None:
    submit(6)
    for _ in range(5):
        clock.advance(2)
        submit(1)
    assert len(alerts(told)) == 1


@five
def test_it_rings_again_after_it_was_quiet(
    submit: Callable[[int], None], drain: Callable[[], None], clock: FakeClock, told: Told
) -> None:
    for crossings in (1, 2, 3):
        submit(6)
        assert len(alerts(told)) == crossings
        drain()
        clock.advance(2)
        submit(1)
        drain()


@five
@pytest.mark.parametrize(("size", "pending"), [(5, []), (6, [6]), (20, [20])])
def test_a_batch_rings_once_if_it_is_too_large(
    intake: IntakeService, told: Told, size: int, pending: list[int]
) -> None:
    intake.submit_many([{"payload": {}}] * size)
    assert [alert["pending"] for alert in alerts(told)] == pending


@five
@pytest.mark.parametrize("shard_count", [3])
def test_what_counts_is_the_number_in_all_shards(
    intake: IntakeService, add: Add, clock: FakeClock, told: Told
) -> None:
    for shard_id in range(3):
        add(1, shard_id=shard_id)
    for pagina in (0, 1):
        intake.submit({"payload": {}, "pagina_id": pagina})
    assert alerts(told) == []
    intake.submit({"payload": {}, "pagina_id": 2})
    assert [alert["pending"] for alert in alerts(told)] == [6]


@five
def test_jobs_that_wait_for_their_time_count_and_those_that_run_do_not(
    submit: Callable[[int], None], start: Callable[..., Job], retry: RetryService, told: Told
) -> None:
    for _ in range(3):
        retry.settle(start().id, 0, "not yet")
    start()
    submit(2)
    assert alerts(told) == []
    submit(1)
    assert [alert["pending"] for alert in alerts(told)] == [6]


@five
def test_jobs_of_other_processes_are_noticed_within_a_second(
    submit: Callable[[int], None], add: Add, clock: FakeClock, told: Told
) -> None:
    submit(1)
    add(10)
    clock.advance(1)
    submit(1)
    assert [alert["pending"] for alert in alerts(told)] == [12]


@pytest.mark.parametrize("alert_threshold", [100])
def test_what_waits_is_counted_a_few_times_only(
    submit: Callable[[int], None], told: Told, statements: list[str]
) -> None:
    submit(100)
    # At the first job, of whose company nothing is known; and not for those that must fit.
    assert counted(statements) == 1
    submit(100)
    # Where the threshold is crossed, and to tell how many there are.
    assert counted(statements) == 3
    assert len(alerts(told)) == 1


@five
def test_when_jobs_are_done_as_fast_as_they_come_they_are_counted_once_a_threshold(
    submit: Callable[[int], None],
    drain: Callable[[], None],
    told: Told,
    statements: list[str],
) -> None:
    for _ in range(60):
        submit(1)
        drain()
    assert alerts(told) == []
    assert counted(statements) <= 60 / 5 + 1


@pytest.mark.parametrize("alert_threshold", [3])
def test_no_count_walks_further_than_one_beyond_the_threshold(
    add: Add, alarm: BacklogAlarm, statements: list[str], clock: FakeClock
) -> None:
    add(50)
    alarm.added(0)
    clock.advance(5)
    statements.clear()
    alarm.added(1)
    assert counted(statements) == 1
    assert all("LIMIT" in sql for sql in statements if "count(" in sql)


@five
def test_who_is_alerted_may_add_jobs(
    intake: IntakeService, submit: Callable[[int], None], events: Events, told: Told
) -> None:
    events.on("alert", lambda **_: intake.submit({"payload": {"report": True}}))
    submit(6)
    assert len(alerts(told)) == 1


@five
@pytest.mark.parametrize("shard_count", [2])
def test_a_shard_that_cannot_be_counted_does_not_silence_the_alarm(
    intake: IntakeService, damage: Callable[[int], None], told: Told
) -> None:
    damage(1)
    for _ in range(6):
        intake.submit({"payload": {}, "pagina_id": 0})
    assert [alert["pending"] for alert in alerts(told)] == [6]
