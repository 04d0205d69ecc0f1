from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from support.clock import FakeClock

from queue_max.domain.job import DEFAULT_QUEUE, Job, Lease
from queue_max.exceptions import LeaseLostError, Permanent
from queue_max.limits.circuit_breaker import CircuitBreaker, CircuitState
from queue_max.limits.rate_limiter import RateLimiter
from queue_max.services import dispatch as dispatch_module
from queue_max.services.admission import Admission, Permit
from queue_max.services.dispatch import DispatchService
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


# Tokens


@pytest.mark.parametrize("rate_limit", [2])
def test_a_job_is_admitted_for_a_token(admission: Admission, limiter: RateLimiter) -> None:
    permits = [admission.admit(0) for _ in range(3)]
    assert permits == [Permit(is_probe=False), Permit(is_probe=False), None]
    admission.withdraw(Permit(is_probe=False))
    assert limiter.get_remaining_tokens() == 1
    assert admission.admit(0)


@pytest.mark.parametrize("rate_limit", [2])
def test_no_token_is_taken_while_the_circuit_is_open(
    admission: Admission, limiter: RateLimiter, breaker: CircuitBreaker
) -> None:
    for _ in range(3):
        breaker.record_failure()
    assert admission.admit(30) is None
    assert limiter.get_remaining_tokens() == 2


@pytest.mark.parametrize("rate_limit", [1])
def test_who_gets_no_token_gives_the_pass_of_the_circuit_back(
    admission: Admission, limiter: RateLimiter, breaker: CircuitBreaker, clock: FakeClock
) -> None:
    for _ in range(3):
        breaker.record_failure()
    clock.advance(60)
    limiter.acquire()
    assert admission.admit(0) is None
    assert breaker.probe_in_flight is False


@pytest.mark.parametrize("rate_limit", [2])
def test_the_wait_is_that_of_the_stricter_limit(
    admission: Admission, breaker: CircuitBreaker
) -> None:
    assert admission.wait(DEFAULT_QUEUE) == 0
    admission.admit(0)
    admission.admit(0)
    assert admission.wait(DEFAULT_QUEUE) == pytest.approx(30)
    for _ in range(3):
        breaker.record_failure()
    assert admission.wait(DEFAULT_QUEUE) == pytest.approx(60)


# What counts as a failure


def test_failures_in_a_row_open_the_circuit(
    trip: Callable[[], None], breaker: CircuitBreaker
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
    error: Exception,
    permanent: bool,
) -> None:
    add(4)
    for _ in range(4):
        retry.settle(started(dispatch).id, 0, error, permanent=permanent)
    assert breaker.state is CLOSED
    assert breaker.get_stats()["failure_count"] == 0


def test_the_jobs_own_fault_forgives_no_failure_either(
    dispatch: DispatchService, retry: RetryService, add: Add, breaker: CircuitBreaker
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
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
    breaker: CircuitBreaker,
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


def test_a_probe_that_takes_longer_than_the_circuit_waits_still_closes_it(
    dispatch: DispatchService,
    settlement: SettlementService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: CircuitBreaker,
) -> None:
    trip()
    add(4)
    clock.advance(60)
    slow = started(dispatch)
    clock.advance(60)
    assert started(dispatch)
    settlement.complete(slow.id, 0)
    assert breaker.state is CLOSED


def test_a_probe_of_an_earlier_opening_says_nothing_about_this_one(
    dispatch: DispatchService,
    settlement: SettlementService,
    retry: RetryService,
    trip: Callable[[], None],
    add: Add,
    clock: FakeClock,
    breaker: CircuitBreaker,
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


def test_a_job_that_was_admitted_before_the_circuit_opened_is_no_probe(
    admission: Admission,
    breaker: CircuitBreaker,
    clock: FakeClock,
) -> None:
    early, probe = Lease(0, 1, 1), Lease(0, 2, 1)
    slow = admission.admit(0)
    assert slow
    for _ in range(3):
        breaker.record_failure()
    clock.advance(60)
    permit = admission.admit(0)
    assert permit
    admission.started(probe, permit)
    admission.started(early, slow)
    admission.succeeded(early)
    assert breaker.state is HALF_OPEN
    admission.succeeded(probe)
    assert breaker.state is CLOSED


def test_to_withdraw_what_was_admitted_before_the_circuit_opened_lets_no_second_probe_go(
    admission: Admission,
    breaker: CircuitBreaker,
    clock: FakeClock,
) -> None:
    slow = admission.admit(0)
    assert slow
    for _ in range(3):
        breaker.record_failure()
    clock.advance(60)
    permit = admission.admit(0)
    assert permit
    admission.started(Lease(0, 2, 1), permit)
    admission.withdraw(slow)
    assert admission.admit(0) is None
