"""The states of a breaker that many share, as a state machine, and by chance."""

import math
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from queue_max.limits.breaker import Breaker, Terms
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import NANOSECONDS

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
SECOND = NANOSECONDS
TERMS = Terms(3, 60.0)
LEASE = 30 * SECOND


def tripped(now: int = 0, terms: Terms = TERMS) -> Breaker:
    """One that was opened by failures."""
    breaker = Breaker("stripe")
    for _ in range(int(terms.threshold)):
        breaker = breaker.failed(terms, now, "it is down")
    return breaker


def probed(now: int = 60 * SECOND, run: str = "0-1-1") -> Breaker:
    """One that has let a probe pass."""
    found = tripped().probed(run, now, now + LEASE)
    assert found is not None
    return found


def test_so_many_failures_in_a_row_open_it_and_no_fewer() -> None:
    breaker = Breaker("stripe")
    for number in range(1, 3):
        breaker = breaker.failed(TERMS, 0)
        assert (breaker.state, breaker.failures) == (CLOSED, number)
    breaker = breaker.failed(TERMS, 0, "it is down")
    assert (breaker.state, breaker.failures, breaker.last_error) == (OPEN, 3, "it is down")


def test_a_success_between_them_forgives_all_failures() -> None:
    breaker = Breaker("stripe").failed(TERMS, 0).failed(TERMS, 0).succeeded().failed(TERMS, 0)
    assert (breaker.state, breaker.failures) == (CLOSED, 1)


def test_one_with_an_infinite_threshold_never_opens() -> None:
    breaker = Breaker("stripe")
    for _ in range(100):
        breaker = breaker.failed(Terms(math.inf), 0)
    assert breaker.state is CLOSED


def test_successes_and_failures_of_others_change_nothing_while_it_is_not_closed() -> None:
    for breaker in (tripped(), probed()):
        assert breaker.succeeded() == breaker
        assert breaker.failed(TERMS, 61 * SECOND) == breaker


def test_no_probe_passes_before_its_time() -> None:
    assert tripped().opens_in(0) == 60
    assert tripped().probed("0-1-1", 60 * SECOND - 1, 90 * SECOND) is None
    assert tripped().opens_in(60 * SECOND) == 0


def test_there_is_one_probe_at_a_time() -> None:
    breaker = probed()
    assert breaker.is_probed_by("0-1-1")
    assert breaker.probed("0-2-1", 61 * SECOND, 91 * SECOND) is None
    assert breaker.opens_in(61 * SECOND) == 29


def test_a_probe_that_nobody_hears_of_is_followed_by_another() -> None:
    breaker = probed().probed("0-2-1", 90 * SECOND, 120 * SECOND)
    assert breaker is not None
    assert breaker.is_probed_by("0-2-1")
    assert not breaker.is_probed_by("0-1-1")


def test_none_is_let_pass_as_a_probe_by_a_closed_one() -> None:
    assert Breaker("stripe").probed("0-1-1", 0, LEASE) is None


def test_a_probe_that_fails_opens_it_for_the_whole_time_again() -> None:
    breaker = probed().probe_failed(TERMS, 70 * SECOND, "still down")
    assert (breaker.state, breaker.failures, breaker.last_error) == (OPEN, 4, "still down")
    assert breaker.opens_in(70 * SECOND) == 60
    assert not breaker.is_probed_by("0-1-1")


def test_a_probe_that_says_nothing_leaves_its_place_at_once() -> None:
    breaker = probed().released(61 * SECOND)
    assert breaker.state is HALF_OPEN
    assert breaker.opens_in(61 * SECOND) == 0
    assert breaker.probed("0-2-1", 61 * SECOND, 91 * SECOND) is not None


def test_one_that_is_closed_knows_of_no_failure_and_no_probe() -> None:
    breaker = probed().closed()
    assert (breaker.state, breaker.failures, breaker.probe, breaker.last_error) == (
        *(CLOSED, 0, None, None),
    )
    assert breaker.is_content
    assert breaker.closed() is breaker


def test_to_close_a_closed_one_forgets_its_failures() -> None:
    assert Breaker("stripe").failed(TERMS, 0).closed().is_content


def test_one_that_is_opened_by_hand_for_good_lets_no_probe_pass_ever() -> None:
    breaker = probed().opened(70 * SECOND, None)
    assert breaker.opens_in(10**30) == math.inf
    assert breaker.probed("0-2-1", 10**30, 10**31) is None
    assert breaker.closed().opens_in(70 * SECOND) == 0


def test_one_that_is_opened_by_hand_for_a_time_lets_a_probe_pass_then() -> None:
    breaker = Breaker("stripe").opened(0, 5.0)
    assert breaker.opens_in(0) == 5
    assert breaker.probed("0-1-1", 5 * SECOND, 35 * SECOND) is not None


def test_each_change_of_state_and_each_probe_is_another_generation() -> None:
    states = [tripped(), probed(), probed().closed(), probed().probe_failed(TERMS, 0)]
    assert [breaker.generation for breaker in states] == [1, 2, 3, 3]
    assert replace(Breaker("stripe"), failures=2).generation == 0


class SharedBreaker(RuleBasedStateMachine):
    """Runs of jobs behind one breaker, of which some are probes, and end, die, or are too late."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.breaker = Breaker("stripe")
        self.runs = 0
        self.passed: list[str] = []
        """Runs that were let pass as probes, and have not ended."""
        self.until = 0

    @property
    def current(self) -> list[str]:
        return [run for run in self.passed if self.breaker.is_probed_by(run)]

    @rule(seconds=st.sampled_from([0.1, 10, 29.9, 30, 60]))
    def time_passes(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    @rule()
    def another_fails(self) -> None:
        before = self.breaker
        self.breaker = before.failed(TERMS, self.now)
        if before.state is not CLOSED:
            assert self.breaker == before

    @rule()
    def another_is_done(self) -> None:
        before = self.breaker
        self.breaker = before.succeeded()
        if before.state is not CLOSED:
            assert self.breaker == before

    @rule()
    def a_job_asks_to_probe(self) -> None:
        self.runs += 1
        before, run = self.breaker, f"0-{self.runs}-1"
        found = before.probed(run, self.now, self.now + LEASE)
        may = before.state is not CLOSED and before.opens_in(self.now) == 0
        assert (found is not None) == may
        if found is not None:
            # The one before it, if there is one, has been given up.
            assert not self.current or self.now >= self.until
            self.breaker, self.until = found, self.now + LEASE
            self.passed.append(run)

    @precondition(lambda self: self.passed)
    @rule(data=st.data(), how=st.sampled_from(["done", "failed", "released"]))
    def a_probe_ends(self, data: st.DataObject, how: str) -> None:
        """End one, which may have been given up long ago: then it is not asked."""
        run = data.draw(st.sampled_from(self.passed))
        self.passed.remove(run)
        if not self.breaker.is_probed_by(run):
            return
        match how:
            case "done":
                self.breaker = self.breaker.closed()
                assert self.breaker.is_content
            case "failed":
                self.breaker = self.breaker.probe_failed(TERMS, self.now)
                assert self.breaker.opens_in(self.now) == TERMS.timeout
            case "released":
                self.breaker = self.breaker.released(self.now)
                assert self.breaker.opens_in(self.now) == 0

    @rule(seconds=st.sampled_from([5.0, 100.0]))
    def somebody_opens_it(self, seconds: float) -> None:
        self.breaker = self.breaker.opened(self.now, seconds)

    @rule()
    def somebody_closes_it(self) -> None:
        self.breaker = self.breaker.closed()

    @invariant()
    def there_is_one_probe_at_most(self) -> None:
        assert len(self.current) <= 1
        assert self.breaker.state is HALF_OPEN or not self.current

    @invariant()
    def it_is_never_stuck(self) -> None:
        longest = max(LEASE / SECOND, TERMS.timeout, 100.0)
        assert 0 <= self.breaker.opens_in(self.now) <= longest
        then = self.now + round(longest * SECOND)
        is_closed = self.breaker.state is CLOSED
        assert is_closed or self.breaker.probed("another", then, then + LEASE) is not None

    @invariant()
    def a_closed_one_has_fewer_failures_than_would_open_it(self) -> None:
        assert self.breaker.state is not CLOSED or self.breaker.failures < TERMS.threshold


TestSharedBreaker = SharedBreaker.TestCase
