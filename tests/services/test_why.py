"""Each thing that can hold a job back, told as data and in words."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.job import Job
from queue_max.domain.reasons import Explanation, Kind
from queue_max.exceptions import JobNotFoundError, ShardNotFoundError
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store
from queue_max.repositories.workers import Crew
from queue_max.services.breaker_service import BreakerService
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls
from queue_max.services.dispatch import DispatchService
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService
from queue_max.services.limits import LimitService
from queue_max.services.of_the_queue import QueueRateLimiter
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits
from queue_max.services.retry import RetryService
from queue_max.services.roster import Roster
from queue_max.services.settlement import SettlementService
from queue_max.services.why import WhyService

Ask = Callable[..., Explanation]
Damage = Callable[[int], None]


@pytest.fixture
def roster(control: Control, clock: FakeClock) -> Roster:
    """A process that lives, takes jobs of the default queue, and knows no tasks."""
    roster = Roster(control, clock=lambda: clock.now.timestamp())
    roster.sign(Crew("host-1", ["default"], ["task:"], 4))
    return roster


@pytest.fixture
def why(
    store: Store,
    inspection: InspectionService,
    controls: Controls,
    rates: RateLimits,
    breakers: Breakers,
    permits: Permits,
    roster: Roster,
) -> WhyService:
    return WhyService(
        store, inspection, controls, rates, breakers, permits, roster, timedelta(seconds=30)
    )


@pytest.fixture
def ask(why: WhyService, intake: IntakeService) -> Ask:
    """Enqueue a job, and ask why it does not run."""

    def ask(**options: Any) -> Explanation:
        return why.why(intake.submit({"payload": {}, **options}))

    return ask


def kinds(explanation: Explanation) -> list[Kind]:
    return [reason.kind for reason in explanation.reasons]


def claimed(dispatch: DispatchService) -> Job:
    job = dispatch.claim("worker-1")
    assert job is not None
    return job


def test_where_nothing_holds_a_job_the_next_worker_takes_it(ask: Ask) -> None:
    explanation = ask()
    assert explanation.status == "pending"
    assert kinds(explanation) == [Kind.NEXT]


def test_jobs_ahead_of_it_are_counted(ask: Ask) -> None:
    ask(priority=2)
    ask()
    explanation = ask()
    assert kinds(explanation) == [Kind.AHEAD]
    assert explanation.reasons[0].facts == {"ahead": 2, "queue": "default"}
    assert kinds(ask(priority=2)) == [Kind.AHEAD]


def test_a_job_of_another_queue_is_not_ahead(ask: Ask) -> None:
    ask(queue="mail")
    assert kinds(ask()) == [Kind.NEXT]


def test_a_scheduled_job_waits_for_its_time(ask: Ask) -> None:
    explanation = ask(delay=60)
    assert kinds(explanation) == [Kind.NOT_DUE]
    assert explanation.reasons[0].facts == {"until": "2026-01-01T12:01:00.000Z"}


def test_a_job_that_failed_tells_of_its_next_attempt_and_the_last_error(
    why: WhyService, intake: IntakeService, dispatch: DispatchService, retry: RetryService
) -> None:
    handle = intake.submit({"payload": {}, "max_retries": 3})
    retry.settle_job(claimed(dispatch), ValueError("it broke"))
    [reason] = why.why(handle).reasons
    assert reason.kind is Kind.RETRY
    assert (reason.facts["attempts"], reason.facts["max_attempts"]) == (1, 4)
    assert "attempt 2 of 4; the last one failed: ValueError: it broke" in reason.text


def test_a_job_that_runs_or_has_ended_says_so(
    why: WhyService,
    intake: IntakeService,
    dispatch: DispatchService,
    settlement: SettlementService,
) -> None:
    handle = intake.submit({"payload": {}})
    claimed(dispatch)
    running = why.why(handle)
    assert kinds(running) == [Kind.RUNNING]
    assert running.reasons[0].facts["worker_id"] == "worker-1"
    settlement.cancel(handle, "no need")
    ended = why.why(handle)
    assert kinds(ended) == [Kind.ENDED]
    assert "cancelled" in str(ended)
    assert "no need" in str(ended)


def test_a_job_whose_worker_is_silent_tells_who_takes_it_over(
    why: WhyService,
    intake: IntakeService,
    dispatch: DispatchService,
    clock: FakeClock,
    roster: Roster,
) -> None:
    handle = intake.submit({"payload": {}})
    claimed(dispatch)
    clock.advance(30)
    assert not why.why(handle).reasons[0].facts["is_silent"]
    clock.advance(1)
    [reason] = why.why(handle).reasons
    assert reason.facts["is_silent"]
    assert "silent for 31 s, it may be dead; another worker takes the job over" in reason.text
    roster.leave("host-1")
    assert "no other worker lives" in str(why.why(handle))


def test_a_pause_tells_its_reason(ask: Ask, limits: LimitService) -> None:
    limits.pause("queue:default", "the provider moves")
    limits.pause("shard:0")
    explanation = ask()
    assert kinds(explanation) == [Kind.PAUSED, Kind.PAUSED]
    assert "queue:default is paused: the provider moves" in str(explanation)


@pytest.mark.parametrize("rate_limit", [1])
def test_a_rate_tells_when_the_next_token_comes(ask: Ask, limiter: QueueRateLimiter) -> None:
    limiter.acquire()
    [reason] = ask().reasons
    assert reason.kind is Kind.RATE
    assert reason.facts == {
        "scope": "all",
        "rate": "1/m",
        "next_token_at": "2026-01-01T12:01:00.000Z",
    }


def test_only_the_rate_of_its_own_key_concerns_a_job(
    ask: Ask, limits: LimitService, rates: RateLimits
) -> None:
    limits.set("key:*", rate="1/m")
    assert rates.take(["key:a"]) is None
    assert kinds(ask(rate_key="a")) == [Kind.RATE]
    assert kinds(ask(rate_key="b")) == [Kind.AHEAD]


def test_an_open_breaker_tells_of_its_next_probe_and_the_last_failure(
    ask: Ask, breaker_service: BreakerService, breakers: Breakers
) -> None:
    breaker_service.open("stripe", 30)
    [reason] = ask(breaker="stripe").reasons
    assert reason.kind is Kind.BREAKER
    assert reason.facts["next_probe_at"] == "2026-01-01T12:00:30.000Z"
    breaker_service.open("default")
    both = ask(breaker="stripe")
    assert kinds(both)[:2] == [Kind.BREAKER, Kind.BREAKER]
    assert "until it is closed by hand" in str(both)


def test_the_holders_of_a_concurrency_key_are_named(
    why: WhyService, intake: IntakeService, dispatch: DispatchService
) -> None:
    first, second = (intake.submit({"payload": {}, "concurrency_key": "a"}) for _ in range(2))
    claimed(dispatch)
    [reason] = why.why(second).reasons
    assert reason.kind is Kind.CONCURRENCY
    assert reason.facts == {"key": "a", "limit": 1, "held_by": [first.key]}


def test_the_runs_that_fill_a_queue_are_named(
    ask: Ask, limits: LimitService, intake: IntakeService, dispatch: DispatchService
) -> None:
    limits.set("queue:default", concurrency=1)
    intake.submit({"payload": {}})
    running = claimed(dispatch)
    reason = ask().reasons[0]
    assert reason.kind is Kind.CONCURRENCY
    assert reason.facts["held_by"] == [{"shard_id": 0, "id": running.id}]


def test_it_is_told_where_no_worker_takes_its_queue_or_knows_its_task(
    ask: Ask, roster: Roster
) -> None:
    assert kinds(ask(queue="mail")) == [Kind.NO_WORKER]
    unknown = ask(task="reports.send")
    assert kinds(unknown)[0] is Kind.UNKNOWN_TASK
    assert "reports.send" in str(unknown)
    roster.leave("host-1")
    assert "no worker lives" in str(ask(queue="mail"))


def test_a_worker_that_has_not_signed_for_long_does_not_live(ask: Ask, clock: FakeClock) -> None:
    clock.advance(60)
    assert kinds(ask()) == [Kind.NO_WORKER]


def test_all_reasons_are_told_the_weightiest_first(ask: Ask, limits: LimitService) -> None:
    limits.pause("queue:mail")
    explanation = ask(queue="mail", delay=60)
    assert kinds(explanation) == [Kind.PAUSED, Kind.NOT_DUE, Kind.NO_WORKER]
    assert explanation.to_dict()["reasons"][1] == {
        "kind": "not_due",
        "text": "it is scheduled for 2026-01-01T12:01:00.000Z",
        "facts": {"until": "2026-01-01T12:01:00.000Z"},
    }


def test_a_shard_that_cannot_be_read_is_the_reason(
    why: WhyService, intake: IntakeService, damage: Damage
) -> None:
    handle = intake.submit({"payload": {}})
    damage(0)
    explanation = why.why(handle)
    assert (explanation.status, kinds(explanation)) == (None, [Kind.SHARD])


def test_a_job_that_is_not_there_is_an_error(why: WhyService) -> None:
    with pytest.raises(JobNotFoundError):
        why.why("0-99")
    with pytest.raises(ShardNotFoundError):
        why.why("7-1")
