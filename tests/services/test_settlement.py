from collections.abc import Callable
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.events import Events
from queue_max.domain.job import Job
from queue_max.exceptions import LeaseLostError, ShardNotFoundError
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store
from queue_max.services.inspection import InspectionService
from queue_max.services.of_the_queue import QueueCircuitBreaker
from queue_max.services.recovery import RecoveryService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService

Told = list[tuple[str, dict[str, Any]]]
Start = Callable[..., Job]
Claim = Callable[..., Job | None]
Find = Callable[..., Job | None]


@pytest.mark.parametrize("fenced", [False, True])
def test_a_completed_job_is_gone_counted_and_told_of(
    settlement: SettlementService,
    inspection: InspectionService,
    start: Start,
    find: Find,
    told: Told,
    fenced: bool,
) -> None:
    job = start()
    assert settlement.complete(job.id, 0, fence=job.fence if fenced else None) is True
    assert find(job.id) is None
    assert inspection.totals() == Totals(processed=1, failed=0)
    assert told == [("job_completed", {"job_id": job.id, "shard_id": 0})]


def test_the_event_comes_after_the_commit(
    settlement: SettlementService, inspection: InspectionService, start: Start, events: Events
) -> None:
    seen: list[tuple[int, int]] = []
    events.on(
        "job_completed",
        lambda **_: seen.append((inspection.counts().processing, inspection.totals().processed)),
    )
    settlement.complete(start().id, 0)
    assert seen == [(0, 1)]


def test_completing_twice_counts_once(
    settlement: SettlementService, inspection: InspectionService, start: Start, told: Told
) -> None:
    job = start()
    assert [settlement.complete(job.id, 0) for _ in range(3)] == [True, False, False]
    assert inspection.totals() == Totals(processed=1, failed=0)
    assert len(told) == 1


def test_completing_twice_under_a_fence_counts_once_and_is_an_error(
    settlement: SettlementService, inspection: InspectionService, start: Start, told: Told
) -> None:
    job = start()
    settlement.complete(job.id, 0, fence=job.fence)
    with pytest.raises(LeaseLostError) as caught:
        settlement.complete(job.id, 0, fence=job.fence)
    assert (caught.value.job_id, caught.value.shard_id, caught.value.fence) == (
        job.id,
        0,
        job.fence,
    )
    assert inspection.totals() == Totals(processed=1, failed=0)
    assert len(told) == 1


@pytest.mark.parametrize("failure_threshold", [3])
def test_completing_what_does_not_run_changes_nothing(
    settlement: SettlementService,
    inspection: InspectionService,
    add: Callable[..., list[int]],
    breaker: QueueCircuitBreaker,
    told: Told,
) -> None:
    [waiting] = add()
    breaker.record_failure()
    assert settlement.complete(waiting, 0) is False
    assert settlement.complete(9_999, 0) is False
    assert inspection.counts().pending == 1
    assert inspection.totals() == Totals()
    assert told == []
    # Nor is it a success that the circuit breaker hears of.
    assert breaker.get_stats()["failure_count"] == 1


@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_wrong_fence_completes_nothing(
    settlement: SettlementService,
    inspection: InspectionService,
    start: Start,
    find: Find,
    told: Told,
    off_by: int,
) -> None:
    job = start()
    with pytest.raises(LeaseLostError):
        settlement.complete(job.id, 0, fence=job.fence + off_by)
    assert find(job.id) == job
    assert inspection.totals() == Totals()
    assert told == []


def test_a_worker_that_lost_its_lease_cannot_complete_the_next_ones_job(
    settlement: SettlementService,
    recovery: RecoveryService,
    clock: FakeClock,
    start: Start,
    claim: Claim,
    find: Find,
) -> None:
    lost = start("worker-a")
    clock.advance(31)
    assert recovery.recover() == 1
    running = claim("worker-b")
    assert running is not None
    with pytest.raises(LeaseLostError):
        settlement.complete(lost.id, 0, fence=lost.fence)
    assert find(running.id) == running
    assert settlement.complete(running.id, 0, fence=running.fence) is True


def test_a_purged_job_is_a_lost_lease(
    settlement: SettlementService, store: Store, start: Start
) -> None:
    job = start()
    with store.writing(0) as unit:
        unit.job_lists.purge([job.status])
    with pytest.raises(LeaseLostError):
        settlement.complete(job.id, 0, fence=job.fence)


@pytest.mark.parametrize("shard_count", [2])
def test_a_job_is_completed_in_its_own_shard(
    settlement: SettlementService, start: Start, find: Find
) -> None:
    first, second = start(shard_id=0), start(shard_id=1)
    assert first.id == second.id
    settlement.complete(second.id, 1)
    assert find(first.id, shard_id=0) == first
    assert find(second.id, shard_id=1) is None


def test_a_shard_that_does_not_exist_is_an_error(settlement: SettlementService) -> None:
    with pytest.raises(ShardNotFoundError):
        settlement.complete(1, 5)


@pytest.mark.parametrize("failure_threshold", [3])
def test_a_job_that_is_done_forgives_the_failures_before_it(
    settlement: SettlementService, start: Start, breaker: QueueCircuitBreaker
) -> None:
    breaker.record_failure()
    settlement.complete(start().id, 0)
    assert breaker.get_stats()["failure_count"] == 0


def test_a_job_that_keeps_its_result_keeps_its_worker_and_its_failed_attempts(
    settlement: SettlementService,
    retry: RetryService,
    inspection: InspectionService,
    start: Start,
    claim: Claim,
    find: Find,
    clock: FakeClock,
) -> None:
    job = start(keep_result=60.0)
    retry.settle(job.id, 0, "not yet")
    clock.advance(3600)
    again = claim()
    assert again is not None
    settlement.complete(job.id, 0)
    kept = find(job.id)
    assert kept is not None
    assert kept.is_completed
    assert kept.worker_id == again.worker_id
    assert [each.error for each in inspection.attempts(kept)] == ["not yet"]
