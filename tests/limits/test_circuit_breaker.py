import inspect
import logging
import math
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from queue_max.exceptions import CircuitBreakerOpenError, ConfigurationError
from queue_max.limits import circuit_breaker
from queue_max.limits.circuit_breaker import CircuitBreaker, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Clock:
    """Stands still until `now` is changed."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=3, recovery_timeout=10.0, clock=clock)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        breaker.record_failure()


def half_open(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    assert breaker.is_allowed()
    assert breaker.state is HALF_OPEN


class TestSettings:
    def test_the_default_is_five_failures_and_sixty_seconds(self) -> None:
        stats = CircuitBreaker().get_stats()
        assert (stats["failure_threshold"], stats["recovery_timeout"]) == (5, 60.0)

    def test_time_is_real_unless_another_is_given(self) -> None:
        assert inspect.signature(CircuitBreaker).parameters["clock"].default is time.monotonic

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, math.nan, -math.inf, "5", None, 2**63])
    def test_a_threshold_that_is_no_count_is_refused_by_name_and_value(self, value: float) -> None:
        with pytest.raises(
            ConfigurationError, match=rf"failure_threshold={value!r}: should be .* inf"
        ):
            CircuitBreaker(failure_threshold=value)

    @pytest.mark.parametrize("value", [0, -1.0, True, math.nan, "60", None])
    def test_a_timeout_that_is_no_duration_is_refused_by_name_and_value(self, value: float) -> None:
        with pytest.raises(
            ConfigurationError, match=rf"recovery_timeout={value!r}: should be more than 0"
        ):
            CircuitBreaker(recovery_timeout=value)

    @pytest.mark.parametrize("value", [math.inf, pytest.param(10**400, id="401 digits")])
    def test_a_timeout_longer_than_any_clock_counts_is_as_good_as_for_ever(
        self, value: float
    ) -> None:
        breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=value)
        fail(breaker, 1)
        assert not breaker.is_allowed()
        assert breaker.get_stats()["recovery_remaining"] > 10**9

    @pytest.mark.parametrize("name", ["on_state_change", "failure_predicate"])
    def test_what_cannot_be_called_is_refused(self, name: str) -> None:
        options: dict[str, Any] = {name: 5}
        with pytest.raises(ConfigurationError, match=f"^{name}=5: should be callable"):
            CircuitBreaker(**options)

    def test_an_infinite_threshold_never_opens(self) -> None:
        breaker = CircuitBreaker(failure_threshold=math.inf)
        fail(breaker, 1000)
        assert breaker.state is CLOSED
        assert breaker.is_allowed()


class TestClosed:
    def test_every_call_passes(self, breaker: CircuitBreaker) -> None:
        assert all(breaker.is_allowed() for _ in range(100))
        assert breaker.get_retry_after() == 0.0

    def test_it_opens_at_the_threshold_and_not_before(self, breaker: CircuitBreaker) -> None:
        fail(breaker, 2)
        assert breaker.state is CLOSED
        fail(breaker, 1)
        assert breaker.state is OPEN

    def test_a_success_forgives_the_failures_before_it(self, breaker: CircuitBreaker) -> None:
        fail(breaker, 2)
        breaker.record_success()
        fail(breaker, 2)
        assert breaker.state is CLOSED

    def test_there_is_no_probe_to_release(self, breaker: CircuitBreaker) -> None:
        fail(breaker, 2)
        breaker.release()
        assert breaker.get_stats()["failure_count"] == 2


class TestOpen:
    def test_no_call_passes_before_the_recovery_timeout(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        fail(breaker, 3)
        assert not breaker.is_allowed()
        clock.now += 9.999
        assert not breaker.is_allowed()

    def test_retry_after_counts_down_and_stops_at_zero(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        fail(breaker, 3)
        assert breaker.get_retry_after() == 10.0
        clock.now += 4
        assert breaker.get_retry_after() == 6.0
        clock.now += 40
        assert breaker.get_retry_after() == 0.0

    def test_it_stays_open_after_the_recovery_timeout_until_somebody_asks(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        fail(breaker, 3)
        clock.now += 60
        assert breaker.state is OPEN
        assert breaker.is_allowed()
        assert breaker.state is HALF_OPEN

    def test_a_success_from_before_the_opening_does_not_close_it(
        self, breaker: CircuitBreaker
    ) -> None:
        fail(breaker, 3)
        breaker.record_success()
        assert breaker.state is OPEN
        assert breaker.get_stats()["failure_count"] == 3

    def test_a_failure_from_before_the_opening_does_not_prolong_it(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        fail(breaker, 3)
        clock.now += 5
        fail(breaker, 1)
        assert breaker.get_retry_after() == 5.0
        assert breaker.get_stats()["failure_count"] == 3

    def test_a_release_from_before_the_opening_lets_nobody_pass(
        self, breaker: CircuitBreaker
    ) -> None:
        fail(breaker, 3)
        breaker.release()
        assert not breaker.is_allowed()


class TestHalfOpen:
    def test_one_probe_is_out_at_a_time(self, breaker: CircuitBreaker, clock: Clock) -> None:
        half_open(breaker, clock)
        assert breaker.probe_in_flight
        assert not breaker.is_allowed()
        assert not breaker.is_allowed()

    def test_the_success_of_the_probe_closes_it(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        breaker.record_success()
        assert breaker.state is CLOSED
        assert not breaker.probe_in_flight
        fail(breaker, 2)
        assert breaker.state is CLOSED

    def test_the_failure_of_the_probe_opens_it_for_a_fresh_timeout(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        clock.now += 3
        fail(breaker, 1)
        assert breaker.state is OPEN
        assert not breaker.probe_in_flight
        assert breaker.get_retry_after() == 10.0

    def test_a_released_probe_goes_to_the_next_caller_at_once(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        breaker.release()
        assert breaker.state is HALF_OPEN
        assert not breaker.probe_in_flight
        assert breaker.get_retry_after() == 0.0
        assert breaker.is_allowed()
        assert not breaker.is_allowed()

    def test_a_probe_that_reports_nothing_is_replaced_after_the_recovery_timeout(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        clock.now += 9.999
        assert not breaker.is_allowed()
        clock.now += 0.001
        assert not breaker.probe_in_flight
        assert breaker.is_allowed()
        assert breaker.probe_in_flight
        assert not breaker.is_allowed()

    def test_retry_after_tells_when_the_probe_is_given_up(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        clock.now += 4
        assert breaker.get_retry_after() == 6.0

    def test_reset_closes_it_and_forgets_the_failures(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        breaker.reset()
        assert breaker.state is CLOSED
        assert breaker.get_stats()["failure_count"] == 0
        assert breaker.is_allowed()


class TestFailurePredicate:
    @pytest.fixture
    def breaker(self, clock: Clock) -> CircuitBreaker:
        return CircuitBreaker(
            3, 10.0, failure_predicate=lambda error: isinstance(error, OSError), clock=clock
        )

    def test_an_error_it_accepts_counts(self, breaker: CircuitBreaker) -> None:
        for _ in range(3):
            breaker.record_failure(OSError())
        assert breaker.state is OPEN

    def test_an_error_it_rejects_is_neither_failure_nor_success(
        self, breaker: CircuitBreaker
    ) -> None:
        fail(breaker, 2)
        for _ in range(10):
            breaker.record_failure(KeyError())
        assert breaker.state is CLOSED
        fail(breaker, 1)
        assert breaker.state is OPEN

    def test_a_failure_without_an_error_counts(self, breaker: CircuitBreaker) -> None:
        fail(breaker, 3)
        assert breaker.state is OPEN

    def test_a_probe_with_an_error_it_rejects_leaves_its_place_to_the_next(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        breaker.record_failure(KeyError())
        assert breaker.state is HALF_OPEN
        assert breaker.is_allowed()

    def test_if_it_raises_that_is_logged_and_the_error_counts(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_: BaseException) -> bool:
            raise ZeroDivisionError

        breaker = CircuitBreaker(1, failure_predicate=broken, clock=clock)
        breaker.record_failure(OSError("disk"))
        assert breaker.state is OPEN
        assert "failure_predicate failed for OSError('disk')" in caplog.text
        assert "ZeroDivisionError" in caplog.text


class TestCall:
    def test_it_passes_arguments_and_the_result(self, breaker: CircuitBreaker) -> None:
        assert breaker.call(divmod, 7, 2) == (3, 1)
        assert breaker.call(int, "ff", base=16) == 255

    def test_a_success_is_recorded(self, breaker: CircuitBreaker) -> None:
        fail(breaker, 2)
        breaker.call(int)
        assert breaker.get_stats()["failure_count"] == 0

    def test_an_error_is_recorded_and_raised(self, breaker: CircuitBreaker) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            breaker.call(int, "x")
        assert breaker.get_stats()["failure_count"] == 1

    def test_the_predicate_sees_the_error(self, clock: Clock) -> None:
        seen: list[BaseException] = []

        def predicate(error: BaseException) -> bool:
            seen.append(error)
            return False

        breaker = CircuitBreaker(failure_predicate=predicate, clock=clock)
        with pytest.raises(ValueError, match="invalid literal") as raised:
            breaker.call(int, "x")
        assert seen == [raised.value]

    def test_an_open_circuit_refuses_it_and_says_when_to_come_back(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        calls: list[str] = []
        fail(breaker, 3)
        clock.now += 4
        message = "circuit is open: a call may pass in 6.000 s"
        with pytest.raises(CircuitBreakerOpenError, match=message) as refusal:
            breaker.call(calls.append, "ran")
        assert refusal.value.retry_after == 6.0
        assert calls == []

    def test_it_may_be_the_probe(self, breaker: CircuitBreaker, clock: Clock) -> None:
        fail(breaker, 3)
        clock.now += 10
        breaker.call(int)
        assert breaker.state is CLOSED

    def test_while_the_probe_is_out_it_is_refused(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        with pytest.raises(CircuitBreakerOpenError, match="circuit is half-open"):
            breaker.call(int)

    def test_an_interrupted_probe_is_neither_success_nor_failure_and_is_released(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        fail(breaker, 3)
        clock.now += 10
        with pytest.raises(KeyboardInterrupt):
            breaker.call(interrupted)
        assert breaker.state is HALF_OPEN
        assert not breaker.probe_in_flight


class TestStateChanges:
    @pytest.fixture
    def changes(self) -> list[tuple[CircuitState, CircuitState]]:
        return []

    @pytest.fixture
    def breaker(
        self, clock: Clock, changes: list[tuple[CircuitState, CircuitState]]
    ) -> CircuitBreaker:
        return CircuitBreaker(3, 10.0, lambda old, new: changes.append((old, new)), clock=clock)

    def test_each_is_told_once_with_the_old_and_the_new_state(
        self,
        breaker: CircuitBreaker,
        clock: Clock,
        changes: list[tuple[CircuitState, CircuitState]],
    ) -> None:
        half_open(breaker, clock)
        fail(breaker, 2)
        clock.now += 10
        breaker.is_allowed()
        breaker.record_success()
        assert changes == [
            (CLOSED, OPEN),
            (OPEN, HALF_OPEN),
            (HALF_OPEN, OPEN),
            (OPEN, HALF_OPEN),
            (HALF_OPEN, CLOSED),
        ]

    def test_a_reset_is_told_only_if_it_changes_something(
        self, breaker: CircuitBreaker, changes: list[tuple[CircuitState, CircuitState]]
    ) -> None:
        breaker.reset()
        assert changes == []
        fail(breaker, 3)
        breaker.reset()
        assert changes == [(CLOSED, OPEN), (OPEN, CLOSED)]

    def test_the_callback_may_use_the_breaker(self, clock: Clock) -> None:
        seen: list[str] = []

        def callback(*_: CircuitState) -> None:
            seen.append(told.get_stats()["state"])

        told = CircuitBreaker(3, on_state_change=callback, clock=clock)
        failing = threading.Thread(target=fail, args=(told, 3), daemon=True)
        failing.start()
        failing.join(timeout=5)
        assert seen == ["open"]

    def test_a_change_is_logged_and_an_error_of_the_callback_goes_no_further(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: CircuitState) -> None:
            raise ZeroDivisionError

        breaker = CircuitBreaker(3, on_state_change=broken, clock=clock)
        fail(breaker, 3)
        assert breaker.state is OPEN
        told, record = caplog.records
        assert told.levelno == logging.WARNING
        assert told.getMessage() == "the circuit, closed before, is open now"
        assert record.levelno == logging.ERROR
        assert record.name == "queue_max.limits.circuit_breaker"
        assert record.getMessage() == "on_state_change(closed, open) failed"
        assert record.exc_info is not None


class TestStats:
    def test_they_tell_settings_state_and_totals(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        fail(breaker, 3)
        clock.now += 4
        breaker.is_allowed()
        assert breaker.get_stats() == {
            "state": "open",
            "failure_count": 3,
            "failure_threshold": 3,
            "recovery_timeout": 10.0,
            "recovery_remaining": 6.0,
            "rejected_count": 1,
            "total_time_open_seconds": 4.0,
            "state_change_count": 1,
            "probe_in_flight": False,
        }

    def test_the_state_is_a_plain_string(self, breaker: CircuitBreaker) -> None:
        assert type(breaker.get_stats()["state"]) is str

    def test_only_callers_turned_away_are_counted_as_rejected(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        breaker.is_allowed()
        half_open(breaker, clock)
        breaker.is_allowed()
        breaker.is_allowed()
        assert breaker.get_stats()["rejected_count"] == 2

    def test_the_time_open_adds_up_over_openings_and_leaves_out_the_probes(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        half_open(breaker, clock)
        clock.now += 5
        fail(breaker, 1)
        clock.now += 12
        breaker.is_allowed()
        clock.now += 1
        breaker.record_success()
        clock.now += 100
        assert breaker.get_stats()["total_time_open_seconds"] == 22.0

    def test_totals_survive_a_reset(self, breaker: CircuitBreaker, clock: Clock) -> None:
        fail(breaker, 3)
        breaker.is_allowed()
        clock.now += 7
        breaker.reset()
        clock.now += 2
        stats = breaker.get_stats()
        assert stats["total_time_open_seconds"] == 7.0
        assert stats["state_change_count"] == 2
        assert stats["rejected_count"] == 1
        assert stats["recovery_remaining"] == 0.0

    def test_a_probe_that_is_out_is_told(self, breaker: CircuitBreaker, clock: Clock) -> None:
        half_open(breaker, clock)
        assert breaker.get_stats()["probe_in_flight"] is True


@pytest.fixture
def courteous_threads() -> Iterator[None]:
    """Let new threads make way for one another at each line of the module under test."""

    def make_way(frame: FrameType, *_: object) -> Any:
        if frame.f_code.co_filename != circuit_breaker.__file__:
            return None
        time.sleep(1e-6)
        return make_way

    usual = threading.gettrace()
    threading.settrace(make_way)
    yield
    threading.settrace(usual)


@pytest.mark.usefixtures("courteous_threads")
def test_of_many_threads_that_ask_at_once_one_gets_the_probe(clock: Clock) -> None:
    for _ in range(5):
        breaker = CircuitBreaker(3, 10.0, clock=clock)
        fail(breaker, 3)
        clock.now += 10
        answers: list[bool] = []
        start = threading.Barrier(8)

        def ask(
            breaker: CircuitBreaker = breaker,
            answers: list[bool] = answers,
            start: threading.Barrier = start,
        ) -> None:
            start.wait(timeout=10)
            answers.append(breaker.is_allowed())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert sorted(answers) == [False] * 7 + [True]
