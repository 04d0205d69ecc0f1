import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.job import Job, Lease
from queue_max.services.leases import LeaseService
from queue_max.services.recovery import RecoveryService

Start = Callable[..., Job]
Find = Callable[..., Job | None]
Locked = Callable[[int], AbstractContextManager[None]]

two_shards = pytest.mark.parametrize("shard_count", [2])
three_shards = pytest.mark.parametrize("shard_count", [3])


def heartbeat(job: Job | None) -> str | None:
    assert job is not None
    return job.heartbeat


def test_held_leases_are_prolonged_until_they_are_dropped(
    leases: LeaseService, start: Start, find: Find, clock: FakeClock
) -> None:
    kept, dropped, never_held = start(), start(), start()
    leases.hold(kept.lease)
    leases.hold(dropped.lease)
    clock.advance(5)
    leases.renew()
    at_first = to_text(clock.now)
    leases.drop(dropped.lease)
    clock.advance(5)
    leases.renew()
    assert heartbeat(find(kept.id)) == to_text(clock.now)
    assert heartbeat(find(dropped.id)) == at_first
    assert find(never_held.id) == never_held
    assert leases.last_renewal == clock.now


def test_dropping_what_is_not_held_is_harmless(leases: LeaseService) -> None:
    leases.drop(Lease(0, 1, 1))
    leases.renew()
    assert leases.last_renewal is None


@three_shards
def test_renewal_is_one_statement_a_shard_that_has_leases(
    leases: LeaseService, start: Start, statements: list[str]
) -> None:
    for shard_id in (0, 2):
        for _ in range(3):
            leases.hold(start(shard_id=shard_id).lease)
    statements.clear()
    leases.renew()
    assert statements.count("BEGIN IMMEDIATE") == 2
    assert len([sql for sql in statements if sql.startswith("UPDATE")]) == 2


def test_who_holds_nothing_writes_nothing(leases: LeaseService, statements: list[str]) -> None:
    leases.renew()
    assert statements == []


def test_a_lost_lease_is_not_won_back_by_holding_on_to_it(
    leases: LeaseService,
    recovery: RecoveryService,
    start: Start,
    claim: Callable[..., Job | None],
    find: Find,
    clock: FakeClock,
) -> None:
    lost = start("worker-a")
    leases.hold(lost.lease)
    clock.advance(31)
    recovery.recover()
    running = claim("worker-b")
    assert running is not None
    clock.advance(5)
    leases.renew()
    assert find(running.id) == running


@two_shards
def test_jobs_of_the_same_number_in_two_shards_are_told_apart(
    leases: LeaseService, start: Start, find: Find, clock: FakeClock
) -> None:
    first, second = start(shard_id=0), start(shard_id=1)
    assert (first.id, first.fence) == (second.id, second.fence)
    leases.hold(second.lease)
    clock.advance(5)
    leases.renew()
    assert find(first.id, shard_id=0) == first
    assert heartbeat(find(second.id, shard_id=1)) == to_text(clock.now)


@two_shards
@pytest.mark.parametrize("busy_timeout_ms", [6_000])
@pytest.mark.parametrize("bad", [0, 1])
def test_a_locked_shard_does_not_keep_the_leases_of_others_from_being_prolonged(
    leases: LeaseService, start: Start, find: Find, locked: Locked, clock: FakeClock, bad: int
) -> None:
    jobs = [start(shard_id=shard_id) for shard_id in range(2)]
    for job in jobs:
        leases.hold(job.lease)
    with locked(bad):
        # Again and again: the next round must not wait either until the locked one gives in.
        for _ in range(2):
            clock.advance(5)
            renewal = threading.Thread(target=leases.renew)
            renewal.start()
            renewal.join(4)
            assert heartbeat(find(jobs[1 - bad].id, shard_id=1 - bad)) == to_text(clock.now)
            assert not renewal.is_alive(), "it waits for the locked one"


@two_shards
@pytest.mark.parametrize("busy_timeout_ms", [50])
@pytest.mark.parametrize("bad", [0, 1])
def test_leases_that_could_not_be_prolonged_are_warned_of_and_tried_again(
    leases: LeaseService,
    start: Start,
    find: Find,
    locked: Locked,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    bad: int,
) -> None:
    jobs = [start(shard_id=shard_id) for shard_id in range(2)]
    for job in jobs:
        leases.hold(job.lease)
    clock.advance(5)
    with locked(bad):
        leases.renew()
    assert find(jobs[bad].id, shard_id=bad) == jobs[bad]
    assert heartbeat(find(jobs[1 - bad].id, shard_id=1 - bad)) == to_text(clock.now)
    [warning] = caplog.records
    assert "leases not renewed" in warning.getMessage()
    leases.renew()
    assert heartbeat(find(jobs[bad].id, shard_id=bad)) == to_text(clock.now)


@two_shards
def test_a_damaged_shard_does_not_keep_the_leases_of_others_from_being_prolonged(
    leases: LeaseService,
    start: Start,
    find: Find,
    damage: Callable[[int], None],
    clock: FakeClock,
) -> None:
    jobs = [start(shard_id=shard_id) for shard_id in range(2)]
    for job in jobs:
        leases.hold(job.lease)
    clock.advance(5)
    damage(0)
    leases.renew()
    assert heartbeat(find(jobs[1].id, shard_id=1)) == to_text(clock.now)


@two_shards
def test_a_worker_can_prolong_by_its_name_what_it_has_in_a_shard(
    leases: LeaseService, start: Start, find: Find, clock: FakeClock
) -> None:
    own = [start("worker-1", shard_id=1), start("worker-1", shard_id=1)]
    others = [start("worker-1", shard_id=0), start("worker-2", shard_id=1)]
    clock.advance(5)
    assert leases.renew_of_worker(1, "worker-1") == 2
    assert [heartbeat(find(job.id, shard_id=1)) for job in own] == [to_text(clock.now)] * 2
    assert [find(job.id, shard_id=job.shard_id) for job in others] == others


def test_a_worker_without_jobs_prolongs_nothing(leases: LeaseService, start: Start) -> None:
    start("worker-2")
    assert leases.renew_of_worker(0, "worker-1") == 0
