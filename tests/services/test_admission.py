from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.job import DEFAULT_QUEUE, Job
from queue_max.exceptions import LeaseLostError, Permanent
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.services import dispatch as dispatch_module
from queue_max.services.admission import Admission, Refusal
from queue_max.services.breaker_service import BreakerService
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls
from queue_max.services.dispatch import DispatchService
from queue_max.services.limits import LimitService
from queue_max.services.of_the_queue import QueueCircuitBreaker, QueueRateLimiter
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits
from queue_max.services.recovery import RecoveryService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

Add = Callable[..., list[int]]

pytestmark = pytest.mark.parametrize("failure_threshold", [3])


class HttpError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"the server said {status_code}")
        self.status_code = status_code


def started(dispatch: DispatchService) -> Job:
    job = dispatch.claim("worker-1")
    assert job is not None
    return job


@pytest.fixture
def trip(dispatch: DispatchService, retry: RetryService, add: Add) -> Callable[[], None]:
    """Let jobs fail until the circuit opens."""

    def trip() -> None:
        add(3)
        for _ in range(3):
            retry.settle(started(dispatch).id, 0, "the service is down")

    return trip


def a_job(number: int = 1, **facts: Any) -> Job:
    """A job that was claimed."""
    return Job(id=number, payload={}, fence=1, **facts)


# Tokens


@pytest.mark.parametrize("rate_limit", [1])
def test_a_job_is_admitted_for_a_token(admission: Admission) -> None:
    assert admission.admit(a_job(1)) is None
    assert admission.admit(a_job(2)) == Refusal(None, pytest.approx(60))


@pytest.mark.parametrize("rate_limit", [2])
def test_no_token_is_taken_while_the_circuit_is_open(
    admission: Admission, limiter: QueueRateLimiter, breaker: QueueCircuitBreaker
) -> None:
    for _ in range(3):
        breaker.record_failure()
    assert admission.admit(a_job()) == Refusal(None, 60)
    assert limiter.get_remaining_tokens() == 2


@pytest.mark.parametrize("rate_limit", [1])
def test_who_gets_no_token_gives_the_pass_of_the_circuit_back(
    admission: Admission, limiter: QueueRateLimiter, breaker: QueueCircuitBreaker, clock: FakeClock
) -> None:
    for _ in range(3):
        breaker.record_failure()
    clock.advance(60)
    limiter.acquire()
    assert admission.admit(a_job())
    assert breaker.probe_in_flight is False


@pytest.mark.parametrize("rate_limit", [1])
def test_who_may_not_pass_as_a_probe_gives_its_token_back(
    admission: Admission,
    limiter: QueueRateLimiter,
    breaker_service: BreakerService,
    controls: Controls,
    clock: FakeClock,
) -> None:
    is_open = breaker_service.open("stripe", 0.001)
    clock.advance(0.01)
    controls.now()
    breaker_service.close("stripe")
    breaker_service.open("stripe")
    controls.put(is_open)  # as others see it that have not looked since
    assert admission.admit(a_job(breaker="stripe"))
    assert limiter.get_remaining_tokens() == 1


@pytest.mark.parametrize("rate_limit", [1])
def test_the_wait_is_that_of_the_stricter_limit(
    admission: Admission, breaker: QueueCircuitBreaker
) -> None:
    assert admission.wait(DEFAULT_QUEUE) == 0
    admission.admit(a_job())
    assert admission.wait(DEFAULT_QUEUE) == pytest.approx(60)


def test_an_open_circuit_is_looked_at_again_soon_since_it_may_be_closed_by_hand(
    admission: Admission, breaker: QueueCircuitBreaker
) -> None:
    for _ in range(3):
        breaker.record_failure()
    assert 0 < admission.wait(DEFAULT_QUEUE) <= 0.25


# What counts as a failure


def test_failures_in_a_row_open_the_circuit(
    trip: Callable[[], None], breaker: QueueCircuitBreaker
) -> None:
    trip()
    assert breaker.state is OPEN


@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.parametrize(
    "error", ["in words", ValueError("a bug"), HttpError(503), HttpError(429), TimeoutError()]
)
def test_every_failure_counts_a_permanent_one_too(
    dispatch: DispatchService,
    retry: RetryService,
    add: Add,
    breaker: QueueCircuitBreaker,
    error: Exception | str,
    permanent: bool,
) -> None:
    add(3)
    for _ in range(3):
        retry.settle(started(dispatch).id, 0, error, permanent=permanent)
    assert breaker.state is OPEN


@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.parametrize(
    "error", [HttpError(400), HttpError(404), Permanent("a bad payload"), ValueError("HTTP 422")]
)
def test_what_is_the_jobs_own_fault_does_not_count(
    dispatch: DispatchService,
    retry: RetryService,
    add: Add,
    breaker: QueueCircuitBreaker,
    error: Exception,
    permanent: bool,
) -> None:
    add(4)
    for _ in range(4):
        retry.settle(started(dispatch).id, 0, error, permanent=permanent)
    assert breaker.state is CLOSED
    assert breaker.get_stats()["failure_count"] == 0


def test_the_jobs_own_fault_forgives_no_failure_either(
    dispatch: DispatchService, retry: RetryService, add: Add, breaker: QueueCircuitBreaker
) -> None:
    add(3)
    for error in ("down", HttpError(404), "down"):
        retry.settle(started(dispatch).id, 0, error)
    assert breaker.get_stats()["failure_count"] == 2


def test_an_outcome_that_was_not_stored_does_not_count(
    dispatch: DispatchService,
    retry: RetryService,
    settlement: SettlementService,
    add: Add,
    breaker: QueueCircuitBreaker,
) -> None:
    add()
    job = started(dispatch)
    for _ in range(3):
        with pytest.raises(LeaseLostError):
            retry.settle(job.id, 0, "down", fence=job.fence + 1)
        assert retry.settle(9_999, 0, "down") is None
    breaker.record_failure()
    assert settlement.complete(9_999, 0) is False
    assert breaker.get_stats()["failure_count"] == 1


# The probe


def test_an_open_circuit_starts_no_job_until_it_is_time_for_a_probe(
    dispatch: DispatchService, trip: Callable[[], None], add: Add, clock: FakeClock
) -> None:
    trip()
    add(2)
    clock.advance(59.999)
    assert dispatch.claim("worker-1") is None
    clock.advance(0.001)
    assert dispatch.claim("worker-1") is not None


def test_exactly_one_job_probes(
    dispatch: DispatchService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
) -> None:
    trip()
    add(5)
    clock.advance(60)
    claimed = [dispatch.claim("worker-1") for _ in range(5)]
    assert [job is not None for job in claimed] == [True, False, False, False, False]
    assert breaker.state is HALF_OPEN


def test_empty_polls_do_not_use_the_probe_up(
    dispatch: DispatchService,
    settlement: SettlementService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
) -> None:
    trip()
    clock.advance(61)
    for _ in range(10):
        assert dispatch.claim("worker-1") is None
    [good] = add(priority=2)
    probe = started(dispatch)
    assert probe.id == good
    settlement.complete(probe.id, 0, fence=probe.fence)
    assert breaker.state is CLOSED


def test_a_probe_that_could_not_be_claimed_after_all_is_left_to_the_next(
    dispatch: DispatchService,
    trip: Callable[[], None],
    add: Add,
    locked: Callable[[int], AbstractContextManager[None]],
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch_module, "BUSY_SHARD_WAIT", 0.02)
    trip()
    add()
    clock.advance(60)
    with locked(0):
        assert dispatch.claim("worker-1") is None
    assert breaker.probe_in_flight is False
    assert dispatch.claim("worker-1") is not None


def test_a_probe_that_works_closes_the_circuit_and_one_that_fails_opens_it_anew(
    dispatch: DispatchService,
    settlement: SettlementService,
    retry: RetryService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
) -> None:
    trip()
    add(3)
    clock.advance(60)
    retry.settle(started(dispatch).id, 0, "still down")
    assert breaker.state is OPEN
    assert dispatch.claim("worker-1") is None
    clock.advance(60)
    settlement.complete(started(dispatch).id, 0)
    assert breaker.state is CLOSED
    assert dispatch.claim("worker-1") is not None


def test_jobs_begun_before_the_circuit_opened_say_nothing_while_it_is_not_closed(
    dispatch: DispatchService,
    settlement: SettlementService,
    retry: RetryService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
) -> None:
    add(6)
    early = [started(dispatch) for _ in range(6)]
    trip()
    settlement.complete(early[0].id, 0)
    retry.settle(early[1].id, 0, "down")
    assert breaker.state is OPEN
    clock.advance(60)
    add(3)
    probe = started(dispatch)
    settlement.complete(early[2].id, 0)
    assert breaker.state is HALF_OPEN
    retry.settle(early[3].id, 0, "down")
    assert breaker.state is HALF_OPEN
    retry.settle(early[4].id, 0, HttpError(404))
    retry.hand_back(early[5], "worker-1 was told to leave")
    # Nor do they let another probe go.
    assert dispatch.claim("worker-1") is None
    settlement.complete(probe.id, 0)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("how", ["handed back", "its own fault"])
def test_a_probe_that_says_nothing_is_followed_by_another_at_once(
    dispatch: DispatchService,
    retry: RetryService,
    settlement: SettlementService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
    how: str,
) -> None:
    trip()
    add(3)
    clock.advance(60)
    probe = started(dispatch)
    if how == "handed back":
        retry.hand_back(probe, "worker-1 was told to leave")
    else:
        retry.settle(probe.id, 0, HttpError(404), fence=probe.fence)
    assert breaker.state is HALF_OPEN
    another = started(dispatch)
    assert dispatch.claim("worker-1") is None
    settlement.complete(another.id, 0, fence=another.fence)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("recovered", [False, True])
def test_a_probe_that_is_lost_is_followed_by_another_in_time(
    dispatch: DispatchService,
    recovery: RecoveryService,
    settlement: SettlementService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
    recovered: bool,
) -> None:
    trip()
    add(3)
    clock.advance(60)
    lost = started(dispatch)
    clock.advance(60)
    if recovered:
        assert recovery.recover() == 1
        with pytest.raises(LeaseLostError):
            settlement.complete(lost.id, 0, fence=lost.fence)
    probe = started(dispatch)
    assert dispatch.claim("worker-1") is None
    settlement.complete(probe.id, 0, fence=probe.fence)
    assert breaker.state is CLOSED


def test_a_probe_that_takes_longer_than_its_lease_stays_the_only_one_while_it_is_renewed(
    dispatch: DispatchService,
    settlement: SettlementService,
    breakers: Breakers,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
) -> None:
    trip()
    add(4)
    clock.advance(60)
    slow = started(dispatch)
    for _ in range(10):
        clock.advance(20)
        breakers.renew()
    assert dispatch.claim("worker-1") is None
    settlement.complete(slow.id, 0)
    assert breaker.state is CLOSED


def test_a_probe_that_was_given_up_says_nothing_any_more(
    dispatch: DispatchService,
    settlement: SettlementService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
) -> None:
    trip()
    add(4)
    clock.advance(60)
    slow = started(dispatch)
    clock.advance(60)
    probe = started(dispatch)
    settlement.complete(slow.id, 0)
    assert breaker.state is HALF_OPEN
    settlement.complete(probe.id, 0)
    assert breaker.state is CLOSED


def test_a_probe_of_an_earlier_opening_says_nothing_about_this_one(
    dispatch: DispatchService,
    settlement: SettlementService,
    retry: RetryService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: QueueCircuitBreaker,
) -> None:
    trip()
    add(5)
    clock.advance(60)
    slow = started(dispatch)
    clock.advance(60)
    retry.settle(started(dispatch).id, 0, "still down")
    assert breaker.state is OPEN
    clock.advance(60)
    assert started(dispatch)
    settlement.complete(slow.id, 0)
    assert breaker.state is HALF_OPEN


# An answer to come later


class TooManyRequestsError(HttpError):
    def __init__(self, seconds: float) -> None:
        super().__init__(429)
        self.retry_after = seconds


@pytest.mark.parametrize(
    ("rated", "slowed"),
    [
        (["key:a", "task:t", "all"], "key:a"),
        (["task:t", "all"], "task:t"),
        (["all"], None),
        (["key:other"], None),
    ],
)
def test_a_server_that_asks_for_time_slows_the_narrowest_scope_that_is_limited(
    admission: Admission,
    limits: LimitService,
    rates: RateLimits,
    rated: list[str],
    slowed: str | None,
) -> None:
    for scope in rated:
        limits.set(scope, rate="100/s")
    job = a_job(task="t", rate_key="a")
    assert admission.admit(job) is None
    admission.failed(job, TooManyRequestsError(7))
    waits = {scope: rates.level(scope).next_token for scope in rated}
    assert {scope for scope in rated if waits[scope] > 1} == ({slowed} if slowed else set())
    if slowed:
        assert waits[slowed] == pytest.approx(7)


def test_a_server_that_does_not_say_for_how_long_gets_a_second(
    admission: Admission, limits: LimitService, rates: RateLimits
) -> None:
    limits.set("task:t", rate="100/s")
    admission.failed(a_job(task="t"), HttpError(429))
    assert rates.level("task:t").next_token == pytest.approx(1)


@pytest.mark.parametrize("error", [HttpError(503), ValueError("a bug"), "in words"])
def test_other_failures_slow_nobody(
    admission: Admission, limits: LimitService, rates: RateLimits, error: Exception | str
) -> None:
    limits.set("task:t", rate="100/s")
    admission.failed(a_job(task="t"), error)
    assert rates.level("task:t").next_token == 0


def test_who_gets_no_token_gives_its_permits_back(
    admission: Admission, limits: LimitService, permits: Permits
) -> None:
    limits.set("task:t", rate="1/h burst 1", concurrency=5)
    assert admission.admit(a_job(1, task="t")) is None
    refusal = admission.admit(a_job(2, task="t"))
    assert refusal is not None
    assert refusal.gate == "rate:task:t"
    admission.flush()
    assert [lease.job_id for lease in permits.holders("task:t")] == [1]


def test_who_gets_no_permit_takes_no_token(
    admission: Admission, limits: LimitService, rates: RateLimits, start: Callable[..., Job]
) -> None:
    limits.set("task:t", rate="10/h", concurrency=1)
    assert admission.admit(start(task="t")) is None
    refusal = admission.admit(start(task="t"))
    assert refusal is not None
    assert refusal == Refusal("limit:task:t", pytest.approx(0.1))
    assert int(rates.level("task:t").tokens) == 9


# The same limits for all jobs of a kind, looked up once


def test_a_limit_holds_for_the_next_job_of_a_kind_that_had_none(
    admission: Admission, limits: LimitService
) -> None:
    job = a_job(rate_key="acme")
    limits.set("key:other", rate="1/s")
    assert admission.admit(job) is None
    limits.set("key:acme", rate="1/s")
    assert admission.admit(job) is None
    refusal = admission.admit(job)
    assert refusal is not None
    assert refusal.gate == "rate:key:acme"
    limits.set("key:acme", rate="none")
    assert admission.admit(job) is None
