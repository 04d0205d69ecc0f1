import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queue_max.domain.job import Job
from queue_max.domain.retry import Bury, Retry, RetryPolicy

HOUR = 3600.0
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MICROSECOND = 1e-6

BASES = st.integers(0, 2**63 - 1) | st.integers(0, 10_000)
ATTEMPTS = st.integers(0, 2000) | st.integers(0, 8)


class Loaded(random.Random):
    """A source of chance that always gives the same."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self._value = value

    def random(self) -> float:
        return self._value


def wait(base: int, attempts: int, chance: float = 0.5) -> float:
    return RetryPolicy(Loaded(chance)).delay(base, attempts).total_seconds()


def judge(*, permanent: bool = False, **fields: Any) -> Retry | Bury:
    return RetryPolicy(Loaded(0.5)).judge(Job(1, {}, **fields), NOW, permanent=permanent)


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 120), (2, 240), (3, 480), (4, 960)])
def test_waits_of_a_base_of_60_seconds_double_from_120(attempts: int, seconds: int) -> None:
    assert wait(60, attempts) == pytest.approx(seconds)
    assert wait(60, attempts, chance=0.0) == pytest.approx(0.8 * seconds)
    assert wait(60, attempts, chance=1 - 2**-53) == pytest.approx(1.2 * seconds)


@settings(derandomize=True, deadline=None)
@given(base=BASES, attempts=ATTEMPTS, seed=st.integers(0, 10_000))
def test_a_wait_is_the_base_doubled_each_attempt_within_a_fifth_and_an_hour(
    base: int, attempts: int, seed: int
) -> None:
    seconds = RetryPolicy(random.Random(seed)).delay(base, attempts).total_seconds()
    doubled = base * 2**attempts
    # In whole numbers: the doubled base may be beyond any float.
    assert min(HOUR, 8 * doubled // 10) - MICROSECOND <= seconds
    assert seconds <= min(HOUR, -(-12 * doubled // 10)) + MICROSECOND


@settings(derandomize=True, deadline=None)
@given(base=BASES, attempts=ATTEMPTS, more=ATTEMPTS, chance=st.sampled_from([0.0, 0.5, 0.999]))
def test_waits_never_become_shorter_but_for_the_jitter(
    base: int, attempts: int, more: int, chance: float
) -> None:
    assert wait(base, attempts, chance) <= wait(base, attempts + more, chance)


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 3200), (0.5, HOUR), (0.999, HOUR)])
def test_the_cap_of_an_hour_holds_after_the_jitter(chance: float, seconds: float) -> None:
    assert wait(2000, 1, chance) == pytest.approx(seconds)
    assert wait(60, 30, chance) == HOUR


def test_no_base_is_no_wait() -> None:
    assert wait(0, 50) == 0.0


def test_jobs_that_failed_together_come_back_spread_over_the_whole_jitter() -> None:
    policy = RetryPolicy(random.Random(1))
    waits = [policy.delay(60, 1).total_seconds() for _ in range(1000)]
    assert 96 <= min(waits) < 97
    assert 143 < max(waits) <= 144
    assert sum(waits) / len(waits) == pytest.approx(120, abs=2)


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 20), (2, 40), (3, 80)])
def test_a_failed_attempt_is_followed_by_another_after_the_jobs_own_delay(
    attempts: int, seconds: int
) -> None:
    verdict = judge(attempts=attempts, max_attempts=4, retry_delay=10)
    assert isinstance(verdict, Retry)
    assert (verdict.at - NOW).total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize(("attempts", "max_attempts"), [(4, 4), (1, 1), (8, 3)])
def test_a_job_whose_attempts_are_used_up_is_buried(attempts: int, max_attempts: int) -> None:
    assert judge(attempts=attempts, max_attempts=max_attempts) == Bury(
        f"{attempts} of {max_attempts} attempts made"
    )


def test_a_permanent_failure_is_buried_with_attempts_left() -> None:
    assert judge(attempts=1, max_attempts=4, permanent=True) == Bury("permanent")
