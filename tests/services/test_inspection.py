import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.exceptions import ConfigurationError, ShardDamagedError, ShardNotFoundError
from queue_max.repositories.job_lists import Counts
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store
from queue_max.services.inspection import InspectionService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService

Add = Callable[..., list[int]]
Start = Callable[..., Job]

two_shards = pytest.mark.parametrize("shard_count", [2])
three_shards = pytest.mark.parametrize("shard_count", [3])


@two_shards
def test_counts_are_those_of_all_shards_or_of_one(
    inspection: InspectionService, retry: RetryService, start: Start, add: Add
) -> None:
    retry.settle(start(shard_id=0).id, 0, "not yet")
    retry.settle(start(shard_id=1).id, 1, "never", permanent=True)
    start(shard_id=1)
    add(2, shard_id=0)
    add(3, shard_id=1)
    assert inspection.counts([0]) == Counts(pending=2, scheduled=1, processing=0, failed=0)
    assert inspection.counts([1]) == Counts(pending=3, scheduled=0, processing=1, failed=1)
    assert inspection.counts() == Counts(pending=5, scheduled=1, processing=1, failed=1)


@two_shards
def test_the_queue_is_idle_when_no_job_is_due_and_none_runs(
    inspection: InspectionService,
    retry: RetryService,
    add: Add,
    claim: Callable[..., Job | None],
    clock: FakeClock,
) -> None:
    assert inspection.is_idle([DEFAULT_QUEUE])
    add(1, shard_id=1)
    assert not inspection.is_idle([DEFAULT_QUEUE])
    running = claim(shard_id=1)
    assert running is not None
    assert not inspection.is_idle([DEFAULT_QUEUE])
    retry.settle(running.id, 1, "not yet")
    assert inspection.is_idle([DEFAULT_QUEUE])
    clock.advance(3600)  # it is due, and nobody has made it pending
    assert not inspection.is_idle([DEFAULT_QUEUE])


@two_shards
def test_totals_are_those_of_all_shards_or_of_one(
    inspection: InspectionService,
    retry: RetryService,
    settlement: SettlementService,
    start: Start,
) -> None:
    settlement.complete(start(shard_id=0).id, 0)
    settlement.complete(start(shard_id=1).id, 1)
    settlement.complete(start(shard_id=1).id, 1)
    retry.settle(start(shard_id=0).id, 0, "never", permanent=True)
    assert inspection.totals([0]) == Totals(processed=1, failed=1)
    assert inspection.totals([1]) == Totals(processed=2, failed=0)
    assert inspection.totals() == Totals(processed=3, failed=1)


@two_shards
def test_a_shard_that_cannot_be_read_is_not_counted_as_empty(
    inspection: InspectionService, damage: Callable[[int], None]
) -> None:
    damage(1)
    with pytest.raises(ShardDamagedError):
        inspection.counts()
    with pytest.raises(ShardDamagedError):
        inspection.totals()
    with pytest.raises(ShardDamagedError):
        inspection.jobs(tuple(JobStatus), 10)
    assert inspection.counts([0]) == Counts()


def test_a_shard_that_does_not_exist_is_an_error(inspection: InspectionService) -> None:
    with pytest.raises(ShardNotFoundError):
        inspection.counts([99])


# Lists


@three_shards
@pytest.mark.parametrize("limit", [0, 1, 4, 9, 100])
def test_the_limit_of_a_list_holds_over_all_shards(
    inspection: InspectionService, add: Add, limit: int
) -> None:
    for shard_id in range(3):
        add(3, shard_id=shard_id)
    assert len(inspection.jobs([JobStatus.PENDING], limit)) == min(limit, 9)


@three_shards
def test_a_list_begins_with_the_newest_of_all_shards(
    inspection: InspectionService, add: Add, clock: FakeClock
) -> None:
    added = []
    for _ in range(3):
        for shard_id in range(3):
            added += [(shard_id, add(shard_id=shard_id)[0])]
            clock.advance(1)
    listed = [(job.shard_id, job.id) for job in inspection.jobs([JobStatus.PENDING], 4)]
    assert listed == added[:-5:-1]


@two_shards
def test_without_a_limit_all_are_listed(inspection: InspectionService, add: Add) -> None:
    add(150, shard_id=0)
    add(150, shard_id=1)
    assert len(inspection.jobs([JobStatus.PENDING], None)) == 300


@two_shards
def test_a_list_can_be_of_one_shard_and_of_some_states(
    inspection: InspectionService, start: Start, add: Add
) -> None:
    running = start(shard_id=1)
    [waiting] = add(shard_id=1)
    add(shard_id=0)
    both = inspection.jobs([JobStatus.PROCESSING, JobStatus.PENDING], 10, shard_id=1)
    assert [job.id for job in both] == [waiting, running.id]
    assert inspection.jobs([JobStatus.PROCESSING], 10) == [running]
    assert inspection.jobs([JobStatus.FAILED], 10) == []


@two_shards
def test_a_list_can_be_of_one_named_queue(inspection: InspectionService, add: Add) -> None:
    [wanted] = add(shard_id=0, queue="mail")
    add(3, shard_id=0)
    add(shard_id=1)
    assert [job.id for job in inspection.jobs(tuple(JobStatus), 1, queue="mail")] == [wanted]


# Waiting


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The naps taken, without taking them."""
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    return naps


@two_shards
def test_whether_a_job_has_ended_is_told_by_its_own_shard(
    inspection: InspectionService,
    retry: RetryService,
    settlement: SettlementService,
    start: Start,
    damage: Callable[[int], None],
) -> None:
    damage(1)
    running, again, failed, done = [start().key for _ in range(4)]
    for key, permanent in ((again, False), (failed, True)):
        retry.settle(inspection.find(key).id, 0, "no", permanent=permanent)
    settlement.complete(inspection.find(done).id, 0)
    assert [inspection.has_ended(key) for key in (running, again, failed, done)] == [
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(ShardDamagedError):
        inspection.has_ended("1-17")


def test_few_jobs_are_counted_anew_each_time(inspection: InspectionService, add: Add) -> None:
    for number in range(1, 4):
        add()
        assert inspection.recent_counts([0]) == Counts(pending=number)


def test_many_jobs_are_counted_again_when_that_took_a_hundredth_of_the_time(
    store: Store, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue_max.services.inspection.EXACT_UP_TO", 2)
    moments = iter([0.0, 0.5, 50.4, 50.5, 50.75])  # counted until 0.5, so good for 50 more
    inspection = InspectionService(store, clock=lambda: next(moments))
    for _ in range(3):
        add()
    assert inspection.recent_counts([0]) == Counts(pending=3)
    add()
    assert inspection.recent_counts([0]) == Counts(pending=3)
    assert inspection.recent_counts([0]) == Counts(pending=4)


def test_what_is_so_already_is_not_waited_for(
    inspection: InspectionService, naps: list[float]
) -> None:
    assert inspection.wait_until(lambda counts: not counts.unfinished, None) is True
    assert naps == []


def test_with_no_time_to_wait_the_answer_comes_at_once(
    inspection: InspectionService, add: Add, naps: list[float]
) -> None:
    add()
    assert inspection.wait_until(lambda counts: counts.pending == 1, 0) is True
    assert inspection.wait_until(lambda counts: counts.pending == 2, 0) is False
    assert naps == []


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_waiting_ends_when_the_condition_is_met(
    inspection: InspectionService,
    settlement: SettlementService,
    start: Start,
    timeout: float | None,
) -> None:
    job = start()
    looked = threading.Event()

    def is_done(counts: Counts) -> bool:
        looked.set()
        return not counts.unfinished

    def complete() -> None:
        looked.wait(20)
        settlement.complete(job.id, 0)

    worker = threading.Thread(target=complete)
    worker.start()
    assert inspection.wait_until(is_done, timeout) is True
    worker.join(20)


def test_waiting_ends_with_the_time_given(inspection: InspectionService, start: Start) -> None:
    start()
    assert inspection.wait_until(lambda counts: not counts.unfinished, 0.03) is False


@pytest.mark.parametrize("timeout", ["1", -1, True, float("nan")])
def test_a_time_that_cannot_be_waited_is_refused(
    inspection: InspectionService, timeout: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout=.*: should be 0 seconds or more"):
        inspection.wait_until(lambda counts: not counts.unfinished, timeout)


def test_the_longest_wait_is_that_of_the_job_due_for_the_longest_time(
    inspection: InspectionService, add: Add, clock: FakeClock
) -> None:
    assert inspection.longest_wait([DEFAULT_QUEUE]) == 0.0
    add(priority=2)
    clock.advance(40)
    add(priority=0)
    clock.advance(2)
    assert inspection.longest_wait([DEFAULT_QUEUE]) == 42.0
