"""What all processes are told of limits, pauses and breakers: a tenth of a second old at most."""

from pathlib import Path

import pytest
from support.clock import FakeClock

from queue_max.exceptions import ConfigurationError
from queue_max.limits.breaker import Breaker
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import rates_of
from queue_max.limits.scopes import Limit
from queue_max.repositories.control import Control
from queue_max.services.controls import FRESH_FOR, Controls
from queue_max.services.limits import LimitService


@pytest.fixture
def other(control: Control, clock: FakeClock) -> Controls:
    """Those of another process."""
    return Controls(control, clock=lambda: clock.now.timestamp())


def test_what_another_process_changes_is_seen_within_a_tenth_of_a_second(
    other: Controls, limits: LimitService, clock: FakeClock
) -> None:
    assert other.now().lets_all_pass
    limits.pause("queue:mail")
    limits.set("task:t", rate="1/s", concurrency=2)
    assert other.now().lets_all_pass
    clock.advance(FRESH_FOR)
    assert other.now().is_queue_paused("mail")
    assert other.now().limits.concurrency("task:t") == 2
    assert not other.now().lets_all_pass


def test_who_changes_something_sees_it_at_once(controls: Controls, limits: LimitService) -> None:
    controls.now()
    limits.pause("shard:0")
    assert controls.now().is_shard_paused(0)
    limits.resume("shard:0")
    assert controls.now().lets_all_pass


def test_it_is_not_read_more_often_than_ten_times_a_second(
    controls: Controls, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    reads: list[float] = []
    read = controls._read

    def noted() -> object:
        reads.append(clock.now.timestamp())
        return read()

    monkeypatch.setattr(controls, "_read", noted)
    for _ in range(1_000):
        controls.now()
        clock.advance(0.001)
    assert len(reads) <= 10


def test_where_it_cannot_be_read_what_was_read_last_holds(
    controls: Controls,
    limits: LimitService,
    clock: FakeClock,
    tmp_path: Path,
    control: Control,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits.pause("queue:mail", "the provider is down")
    control._database.close()
    for name in tmp_path.glob("control.db*"):
        name.write_bytes(b"This is not a database. " * 1_000)
    for _ in range(3):
        clock.advance(1)
        assert controls.now().paused == {"queue:mail": "the provider is down"}
    assert caplog.text.count("limits and pauses hold as they were read last") == 1


def test_what_is_declared_holds_unless_something_is_stored(
    controls: Controls, limits: LimitService, clock: FakeClock
) -> None:
    controls.declare([Limit("task:t", rates_of("5/s")), Limit("task:u", None, 3)])
    assert controls.now().limits.rates("task:t") == rates_of("5/s")
    limits.set("task:t", rate="1/s")
    assert controls.now().limits.rates("task:t") == rates_of("1/s")
    assert controls.now().limits.concurrency("task:u") == 3


def test_a_breaker_that_this_process_has_changed_is_known_at_once(controls: Controls) -> None:
    controls.now()
    controls.put(Breaker("stripe").opened(0, None))
    assert controls.now().breakers["stripe"].state is CircuitState.OPEN
    assert not controls.now().lets_all_pass


def test_of_a_concurrency_key_one_job_runs_at_a_time_unless_another_number_is_set(
    controls: Controls, limits: LimitService
) -> None:
    assert controls.places_of_key("k") == 1
    limits.set("key:customer-*", concurrency=4)
    assert controls.places_of_key("customer-7") == 4


# Limits, as people set and see them


def test_a_limit_is_declared_once_and_written_only_when_it_is_new(
    limits: LimitService, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = [Limit("task:t", rates_of("5/s"), 2)]
    limits.declare(declared)
    assert limits.get("task:t") == declared[0]
    monkeypatch.delattr(control.__class__, "writing")
    limits.declare(declared)


def test_who_forgets_what_was_set_has_what_was_declared(limits: LimitService) -> None:
    limits.declare([Limit("task:t", rates_of("5/s"))])
    assert limits.set("task:t", rate="1/s") == Limit("task:t", rates_of("1/s"), is_set=True)
    assert limits.forget("task:t") is True
    assert limits.get("task:t") == Limit("task:t", rates_of("5/s"))
    assert limits.forget("task:t") is False


def test_infinity_takes_a_limit_away(limits: LimitService) -> None:
    limits.declare([Limit("task:t", rates_of("5/s"), 2)])
    found = limits.set("task:t", rate=float("inf"), concurrency=float("inf"))
    assert (found.rates, found.concurrency) == ((), None)


@pytest.mark.parametrize("scope", ["", "task:", "shard:0", "jobs", "key: a", None, "queue:a\n"])
def test_a_scope_that_cannot_be_limited_is_refused(limits: LimitService, scope: str) -> None:
    for act in (limits.get, limits.set, limits.forget):
        with pytest.raises(ConfigurationError, match="scope="):
            act(scope)


@pytest.mark.parametrize("scope", ["all", "key:a", "shard:one", "queue:", None])
def test_a_scope_that_cannot_be_paused_is_refused(limits: LimitService, scope: str) -> None:
    for act in (limits.pause, limits.resume):
        with pytest.raises(ConfigurationError, match="scope="):
            act(scope)


@pytest.mark.parametrize("given", [{"rate": "fast"}, {"rate": -1}, {"concurrency": 0}])
def test_a_limit_that_is_none_is_refused_and_nothing_is_set(
    limits: LimitService, given: dict[str, float]
) -> None:
    with pytest.raises(ConfigurationError):
        limits.set("task:t", **given)
    assert limits.list() == []


@pytest.mark.parametrize("rate_limit", [60])
def test_the_limit_of_all_jobs_is_listed_first_as_this_process_goes_by_it(
    limits: LimitService,
) -> None:
    limits.set("key:a", rate="1/s")
    assert [limit.scope for limit in limits.list()] == ["all", "key:a"]
    assert limits.list()[0].rates == rates_of(60)


def test_the_state_of_a_limit_tells_what_is_left(limits: LimitService) -> None:
    state = limits.state(limits.set("task:t", rate="60/m", concurrency=3))
    assert (state.tokens, state.next_token, state.running) == (pytest.approx(60), 0, 0)
    limits.penalise("task:t", 10)
    state = limits.state(limits.get("task:t"))
    assert (state.tokens, state.next_token) == (0, pytest.approx(10))
    assert limits.state(limits.set("key:*", rate="1/s")).tokens is None
