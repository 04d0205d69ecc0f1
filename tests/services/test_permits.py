"""Permits, of which there are so many for the jobs of a scope that run at once."""

import math
from collections.abc import Callable

import pytest
from support.clock import FakeClock

from queue_max.domain.job import Job, Lease
from queue_max.exceptions import ShardBusyError
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store
from queue_max.services.controls import Controls
from queue_max.services.limits import LimitService
from queue_max.services.permits import AGAIN_IN, CHECK_EVERY, Permits

SCOPE = "task:t"
Start = Callable[..., Job]


@pytest.fixture
def other(control: Control, controls: Controls, store: Store, clock: FakeClock) -> Permits:
    """Those of another process."""
    return Permits(control, controls, store, clock=lambda: clock.now.timestamp())


def test_who_is_refused_asks_again_in_a_tenth_of_a_second(
    permits: Permits, other: Permits, start: Start, clock: FakeClock
) -> None:
    assert permits.take(start().lease, {SCOPE: 1}) is None
    assert permits.wait(SCOPE) == 0
    assert other.take(start().lease, {SCOPE: 1}) == SCOPE
    assert other.wait(SCOPE) == pytest.approx(AGAIN_IN)
    clock.advance(AGAIN_IN)
    assert other.wait(SCOPE) == 0


def test_a_permit_is_free_again_once_its_job_has_ended_and_that_is_flushed(
    permits: Permits, other: Permits, start: Start
) -> None:
    job = start()
    assert permits.take(job.lease, {SCOPE: 1}) is None
    permits.ended(job.lease)
    permits.flush()
    assert permits.holders(SCOPE) == []
    assert other.take(start().lease, {SCOPE: 1}) is None


def test_who_takes_one_gives_back_what_has_ended_with_it(permits: Permits, start: Start) -> None:
    first, second = start(), start()
    assert permits.take(first.lease, {SCOPE: 1}) is None
    permits.ended(first.lease)
    assert permits.take(second.lease, {SCOPE: 1}) is None
    assert permits.holders(SCOPE) == [second.lease]


def test_permits_of_jobs_that_run_no_more_are_dropped_but_not_looked_at_all_the_time(
    permits: Permits, start: Start, store: Store, clock: FakeClock, other: Permits
) -> None:
    lost, runs, new = start(), start(), start()
    for job in (lost, runs):
        assert permits.take(job.lease, {SCOPE: 2}) is None
    assert other.take(new.lease, {SCOPE: 2}) == SCOPE  # it has looked: both run
    with store.writing(0) as unit:
        assert unit.jobs.complete(lost.id, lost.fence)
    assert other.take(new.lease, {SCOPE: 2}) == SCOPE
    clock.advance(CHECK_EVERY)
    assert other.take(new.lease, {SCOPE: 2}) is None
    assert set(permits.holders(SCOPE)) == {runs.lease, new.lease}


def test_a_job_that_was_given_to_another_worker_holds_no_permit_of_its_former_run(
    permits: Permits, other: Permits, start: Start, store: Store, claim: Start
) -> None:
    job = start()
    assert permits.take(job.lease, {SCOPE: 1}) is None
    with store.writing(0) as unit:
        assert unit.jobs.give_back(job)
    again = claim()
    assert other.take(again.lease, {SCOPE: 1}) is None
    assert permits.holders(SCOPE) == [again.lease]


def test_several_are_had_all_or_none(permits: Permits, start: Start) -> None:
    assert permits.take(start().lease, {"all": 1}) is None
    assert permits.take(start().lease, {SCOPE: 5, "all": 1, "queue:default": 5}) == "all"
    assert permits.holders(SCOPE) == permits.holders("queue:default") == []


def test_what_is_free_is_told_by_what_this_process_holds(
    permits: Permits, other: Permits, limits: LimitService, start: Start
) -> None:
    assert permits.free(SCOPE) == math.inf
    limits.set(SCOPE, concurrency=3)
    assert permits.limits([SCOPE, "all"]) == {SCOPE: 3}
    job = start()
    assert permits.take(job.lease, {SCOPE: 3}) is None
    assert (permits.free(SCOPE), other.free(SCOPE)) == (2, 3)
    permits.ended(job.lease)
    assert permits.free(SCOPE) == 3


def test_nothing_starts_while_the_control_database_is_busy(
    permits: Permits, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ShardBusyError(None, "others write")

    monkeypatch.setattr(control, "noting", refuse)
    assert permits.take(Lease(0, 1, 1), {SCOPE: 1}) == SCOPE
    assert permits.wait(SCOPE) == pytest.approx(AGAIN_IN)


def test_a_child_of_fork_holds_none(permits: Permits, start: Start) -> None:
    job = start()
    assert permits.take(job.lease, {SCOPE: 1}) is None
    permits._forget()
    permits.ended(job.lease)
    permits.flush()
    assert permits.holders(SCOPE) == [job.lease]


def test_a_run_that_another_process_has_ended_holds_no_place_for_long(
    permits: Permits,
    limits: LimitService,
    start: Callable[..., Job],
    store: Store,
    clock: FakeClock,
) -> None:
    limits.set("queue:default", concurrency=1)
    first, second, third = (start() for _ in range(3))
    only = {"queue:default": 1}
    assert permits.take(first.lease, only) is None
    assert permits.free("queue:default") == 0
    with store.writing(0) as unit:  # as another process does, which knows nothing of the permit
        unit.jobs.complete(first.id, first.fence)
    assert permits.wait("queue:default") > 0
    clock.advance(1.1)
    assert permits.wait("queue:default") == 0
    assert permits.take(second.lease, only) is None
    assert permits.free("queue:default") == 0
    permits.ended(second.lease)
    assert permits.free("queue:default") == 1
    assert permits.take(third.lease, only) is None
