"""Breakers that processes share: what they count together, and who may probe."""

from collections.abc import Callable
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.events import Events
from queue_max.domain.job import Job, Lease
from queue_max.exceptions import ConfigurationError, ShardBusyError
from queue_max.limits.breaker import Terms
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.repositories.control import Control
from queue_max.services.breaker_rules import BreakerRules
from queue_max.services.breaker_service import BreakerService
from queue_max.services.breakers import UNTIL_WRITTEN, Breakers, generation_of
from queue_max.services.controls import FRESH_FOR, Controls

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

Told = list[tuple[str, dict[str, Any]]]


class HttpError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"the server said {status_code}")
        self.status_code = status_code


class Whole(Breakers):
    """The breakers of a process, with what people do with them."""

    def __init__(self, control: Control, controls: Controls, events: Events, clock: Any) -> None:
        rules = BreakerRules(Terms(3, 60.0))
        super().__init__(control, controls, events, rules, 30.0, clock=clock)
        self._service = BreakerService(control, self, rules)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def fails(self, name: str, run: Lease) -> None:
        """Note a failure that is not written yet, as Admission does."""
        self.unwritten.add(run, name, generation_of(self.known(name)))


@pytest.fixture
def breakers(
    control: Control,
    controls: Controls,
    events: Events,
    ticks: Callable[[], int],
) -> Whole:
    return Whole(control, controls, events, ticks)


@pytest.fixture
def other(control: Control, clock: FakeClock, ticks: Callable[[], int]) -> Whole:
    """Those of another process."""
    controls = Controls(control, clock=lambda: clock.now.timestamp())
    return Whole(control, controls, Events(), ticks)


def a_run(number: int, fence: int = 1) -> Lease:
    return Lease(0, number, fence)


def fail(breakers: Whole, number: int = 1, name: str = "stripe") -> None:
    for _ in range(number):
        breakers.failed(name, a_run(99), "it is down")
    breakers.flush()


def test_failures_of_all_processes_count_together(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    fail(breakers, 2)
    assert breakers.get("stripe").failures == 2
    fail(other, 1)
    assert other.get("stripe").state is OPEN
    assert not other.is_closed("stripe")
    clock.advance(FRESH_FOR)
    assert not breakers.is_closed("stripe")
    assert breakers.wait("stripe") == pytest.approx(60 - FRESH_FOR)


def test_a_success_in_another_process_forgives_the_failures_of_all(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    fail(breakers, 2)
    clock.advance(FRESH_FOR)
    other.succeeded("stripe", a_run(1))
    other.flush()
    fail(breakers, 2)
    assert breakers.get("stripe").failures == 2
    assert breakers.get("stripe").state is CLOSED


def test_outcomes_count_in_the_order_in_which_they_came(breakers: Whole) -> None:
    for _ in range(2):
        breakers.failed("stripe", a_run(1), "down")
    breakers.succeeded("stripe", a_run(1))
    breakers.failed("stripe", a_run(1), "down")
    breakers.flush()
    assert breakers.get("stripe").failures == 1


def test_who_is_done_behind_a_breaker_that_is_content_writes_nothing(
    breakers: Whole, control: Control
) -> None:
    assert breakers.is_closed("stripe")
    control.close()
    breakers.succeeded("stripe", a_run(1))
    breakers.flush()


def test_the_threshold_of_failures_that_are_not_written_yet_holds_jobs_back_already(
    breakers: Whole,
) -> None:
    for number in range(3):
        assert breakers.is_closed("stripe")
        assert breakers.wait("stripe") == 0
        breakers.fails("stripe", a_run(number))
    assert not breakers.is_closed("stripe")
    assert breakers.wait("stripe") == UNTIL_WRITTEN
    breakers.unwritten.remove(a_run(0))  # one of them was not written after all
    assert breakers.is_closed("stripe")
    for number in (1, 2):
        breakers.failed("stripe", a_run(number), ConnectionError("down"))
    breakers.flush()
    assert breakers.get("stripe").failures == 2
    assert not breakers.unwritten


def test_written_failures_and_those_to_come_are_added_up(breakers: Whole) -> None:
    fail(breakers, 2)
    assert breakers.is_closed("stripe")
    breakers.fails("stripe", a_run(1))
    assert not breakers.is_closed("stripe")


def test_a_failure_from_before_an_opening_does_not_count_after_it(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    for number in range(3):
        breakers.fails("stripe", a_run(number))
    fail(other, 3)
    other.close("stripe")
    clock.advance(FRESH_FOR)
    assert breakers.is_closed("stripe")  # those were failures of another time
    for number in range(3):
        breakers.failed("stripe", a_run(number), "down")
    breakers.flush()
    assert breakers.get("stripe").is_content


def test_failures_of_one_breaker_say_nothing_of_another(breakers: Whole) -> None:
    fail(breakers, 3)
    assert breakers.is_closed("default")
    assert set(breakers.list()) == {"stripe"}


# The probe


def trip(breakers: Whole, clock: FakeClock) -> None:
    """Open a breaker, and let it be time for a probe."""
    fail(breakers, 3)
    clock.advance(60)


def test_one_run_of_all_processes_probes(breakers: Whole, other: Whole, clock: FakeClock) -> None:
    trip(breakers, clock)
    assert [breakers.wait("stripe"), other.wait("stripe")] == [0, 0]
    assert breakers.probe("stripe", a_run(1)) is True
    assert other.probe("stripe", a_run(2)) is False
    assert breakers.probe("stripe", a_run(3)) is False
    assert breakers.get("stripe").probe == "0-1-1"
    breakers.succeeded("stripe", a_run(1))
    assert other.get("stripe").state is CLOSED


def test_no_probe_passes_before_its_time(breakers: Whole, clock: FakeClock) -> None:
    trip(breakers, clock)
    clock.advance(-0.001)
    assert breakers.probe("stripe", a_run(1)) is False


def test_who_would_probe_one_that_was_closed_meanwhile_passes(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    trip(breakers, clock)
    assert breakers.wait("stripe") == 0
    other.close("stripe")
    assert breakers.probe("stripe", a_run(1)) is True
    assert breakers.get("stripe").is_content


def test_an_old_run_of_the_same_job_does_not_close_it(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    trip(breakers, clock)
    assert breakers.probe("stripe", a_run(1, 4))
    clock.advance(30)  # its lease is over
    assert other.probe("stripe", a_run(1, 5))
    breakers.succeeded("stripe", a_run(1, 4))
    assert breakers.get("stripe").is_probed_by("0-1-5")
    breakers.failed("stripe", a_run(1, 4), "down")
    breakers.flush()
    assert breakers.get("stripe").is_probed_by("0-1-5")


@pytest.mark.parametrize("seconds", [20, 29])
def test_a_probe_that_is_renewed_stays_the_only_one(
    breakers: Whole, other: Whole, clock: FakeClock, seconds: int
) -> None:
    trip(breakers, clock)
    assert breakers.probe("stripe", a_run(1))
    for _ in range(5):
        clock.advance(seconds)
        breakers.renew()
    assert other.probe("stripe", a_run(2)) is False
    clock.advance(30)
    assert other.probe("stripe", a_run(2)) is True
    breakers.renew()  # too late: it is not prolonged for another
    assert breakers.get("stripe").is_probed_by("0-2-1")


def test_when_the_worker_of_a_probe_died_another_one_may_go_at_once(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    trip(breakers, clock)
    assert breakers.probe("stripe", a_run(1))
    clock.advance(FRESH_FOR)
    other.died(a_run(7))
    assert other.probe("stripe", a_run(2)) is False
    other.died(a_run(1))
    assert other.probe("stripe", a_run(2)) is True


def test_a_probe_that_has_died_is_given_up_though_nobody_had_seen_it_yet(
    breakers: Whole, controls: Controls, clock: FakeClock
) -> None:
    trip(breakers, clock)
    seen = controls.refresh()
    assert breakers.probe("stripe", a_run(1))
    breakers._forget()
    controls._snapshot = seen  # as another process has it
    breakers.died(a_run(1))
    assert breakers.probe("stripe", a_run(2))


def test_a_run_that_probes_two_breakers_ends_both(breakers: Whole, clock: FakeClock) -> None:
    fail(breakers, 3, "default")
    trip(breakers, clock)
    assert breakers.probe("default", a_run(1))
    assert breakers.probe("stripe", a_run(1))
    breakers.succeeded("stripe", a_run(1))
    assert breakers.get("stripe").is_content
    assert breakers.get("default").is_content


def test_a_probe_of_which_nothing_can_be_written_does_not_pass(
    breakers: Whole,
    clock: FakeClock,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trip(breakers, clock)
    assert breakers.wait("stripe") == 0

    def refuse(*_: object) -> None:
        raise ShardBusyError(None, "others write")

    monkeypatch.setattr(control, "noting", refuse)
    assert breakers.probe("stripe", a_run(1)) is False
    assert "no probe passes breaker stripe now" in caplog.text


def test_its_own_fault_leaves_the_place_of_the_probe_to_the_next(
    breakers: Whole, clock: FakeClock
) -> None:
    trip(breakers, clock)
    assert breakers.probe("stripe", a_run(1))
    breakers.failed("stripe", a_run(1), HttpError(404))
    assert breakers.get("stripe").state is HALF_OPEN
    assert breakers.probe("stripe", a_run(2)) is True


# What they say


def test_a_breaker_says_once_that_it_opens_and_once_that_it_closes(
    breakers: Whole, other: Whole, clock: FakeClock, told: Told
) -> None:
    fail(breakers, 2)
    fail(breakers, 3)
    opened = {"name": "stripe", "failures": 3, "error": "it is down"}
    assert told == [("circuit_opened", opened)]
    clock.advance(60)
    assert breakers.probe("stripe", a_run(1))
    breakers.succeeded("stripe", a_run(1))
    breakers.close("stripe")
    assert told == [("circuit_opened", opened), ("circuit_closed", {"name": "stripe"})]


def test_a_breaker_that_opens_is_a_warning_with_the_last_error(
    breakers: Whole, caplog: pytest.LogCaptureFixture
) -> None:
    fail(breakers, 3)
    assert "breaker stripe, closed before, is open now: 3 failures in a row" in caplog.text
    assert "the last one: it is down" in caplog.text


# By hand


def test_opened_for_a_time_it_lets_a_probe_pass_then(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    assert breakers.open("stripe", 5).state is OPEN
    assert other.wait("stripe") == 5
    clock.advance(5)
    assert other.probe("stripe", a_run(1)) is True


def test_opened_for_good_it_stays_so_until_it_is_closed_by_hand(
    breakers: Whole, other: Whole, clock: FakeClock
) -> None:
    breakers.open("stripe")
    clock.advance(10**6)
    assert other.wait("stripe") == float("inf")
    assert other.probe("stripe", a_run(1)) is False
    other.close("stripe")
    clock.advance(FRESH_FOR)
    assert breakers.is_closed("stripe")


@pytest.mark.parametrize("name", ["", "a" * 256, "a\nb", None])
def test_a_bad_name_is_refused(breakers: Whole, name: Any) -> None:
    for act in (breakers.get, breakers.open, breakers.close, breakers.define):
        with pytest.raises(ConfigurationError, match="breaker="):
            act(name)


@pytest.mark.parametrize("seconds", [0, -1, "soon", float("nan")])
def test_a_bad_time_is_refused(breakers: Whole, seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="seconds"):
        breakers.open("stripe", seconds)


# Terms of its own


def test_a_breaker_may_have_terms_of_its_own(breakers: Whole, clock: FakeClock) -> None:
    breakers.define("stripe", failure_threshold=1, recovery_timeout=5)
    assert breakers.terms("stripe") == (1, 5)
    assert breakers.terms("other") == (3, 60)
    fail(breakers, 1)
    assert breakers.wait("stripe") == 5


@pytest.mark.parametrize(
    ("given", "terms"),
    [({"failure_threshold": 7}, (7, 60)), ({"recovery_timeout": 7}, (3, 7)), ({}, (3, 60))],
)
def test_what_is_not_said_is_as_for_all(
    breakers: Whole, given: dict[str, float], terms: tuple[float, float]
) -> None:
    breakers.define("stripe", **given)
    assert breakers.terms("stripe") == terms


def test_it_says_itself_which_errors_count(breakers: Whole) -> None:
    breakers.define("stripe", counts=lambda error: isinstance(error, HttpError))
    for error in (ValueError(), ConnectionError(), HttpError(404)):
        breakers.failed("stripe", a_run(1), error)
    breakers.flush()
    assert breakers.get("stripe").failures == 1


def test_an_error_counts_where_the_function_that_is_to_tell_fails(
    breakers: Whole, caplog: pytest.LogCaptureFixture
) -> None:
    breakers.define("stripe", counts=lambda error: 1 / 0 > 1)
    breakers.failed("stripe", a_run(1), ValueError("down"))
    breakers.flush()
    assert breakers.get("stripe").failures == 1
    assert "counts of breaker stripe failed" in caplog.text


def test_the_last_error_is_kept_in_short(breakers: Whole) -> None:
    breakers.failed("stripe", a_run(1), ValueError("x" * 10_000))
    breakers.flush()
    assert str(breakers.get("stripe").last_error).startswith("ValueError: xxx")
    assert len(str(breakers.get("stripe").last_error)) == 500


def test_a_child_of_fork_has_no_probe_and_no_failures(breakers: Whole, clock: FakeClock) -> None:
    trip(breakers, clock)
    assert breakers.probe("stripe", a_run(1))
    breakers.fails("stripe", a_run(3))
    breakers.failed("stripe", a_run(2), "down")
    breakers._forget()
    breakers.succeeded("stripe", a_run(1))
    breakers.flush()
    assert not breakers.unwritten
    assert breakers.get("stripe").is_probed_by("0-1-1")


def test_a_failed_probe_counts_as_written(
    breakers: Whole, clock: FakeClock, start: Callable[..., Job]
) -> None:
    trip(breakers, clock)
    job = start()
    assert breakers.probe("stripe", job.lease)
    breakers.fails("stripe", job.lease)
    breakers.failed("stripe", job.lease, ConnectionError("still down"))
    assert not breakers.unwritten
    assert breakers.get("stripe").state is OPEN
