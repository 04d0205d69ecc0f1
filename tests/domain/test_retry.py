import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queue_max.domain.job import Job
from queue_max.domain.retry import Bury, CallOff, RetryPolicy, TryAgain, Verdict
from queue_max.exceptions import Cancel, ConfigurationError, Permanent, Retry, Snooze

HOUR = 3600.0
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


def wait(
    base: int,
    attempts: int,
    chance: float = 0.5,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
) -> float:
    job = Job(1, {}, attempts=attempts, retry_delay=base)
    seconds = policy.delay(job, "no", Loaded(chance))
    assert seconds is not None
    return seconds


def judge(
    error: BaseException | str = "no",
    *,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
    permanent: bool | None = None,
    **fields: Any,
) -> Verdict:
    job = Job(1, {}, **{"attempts": 1, "max_attempts": 4} | fields)
    return policy.judge(job, error, Loaded(0.5), permanent=permanent)


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
    seconds = wait(base, attempts, random.Random(seed).random())
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
    chance = random.Random(1)
    waits = [wait(60, 1, chance.random()) for _ in range(1000)]
    assert 96 <= min(waits) < 97
    assert 143 < max(waits) <= 144
    assert sum(waits) / len(waits) == pytest.approx(120, abs=2)


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 20), (2, 40), (3, 80)])
def test_a_failed_attempt_is_followed_by_another_after_the_jobs_own_delay(
    attempts: int, seconds: int
) -> None:
    verdict = judge(attempts=attempts, max_attempts=4, retry_delay=10)
    assert verdict == TryAgain(pytest.approx(seconds))


@pytest.mark.parametrize(("attempts", "max_attempts"), [(4, 4), (1, 1), (8, 3)])
def test_a_job_whose_attempts_are_used_up_is_buried(attempts: int, max_attempts: int) -> None:
    assert judge(attempts=attempts, max_attempts=max_attempts) == Bury(
        f"{attempts} of {max_attempts} attempts made"
    )


def test_a_permanent_failure_is_buried_with_attempts_left() -> None:
    assert judge(attempts=1, max_attempts=4, permanent=True) == Bury("permanent")


# What the function of a job may ask for


@pytest.mark.parametrize("attempts", [1, 4])
def test_a_function_may_snooze_even_in_its_last_attempt(attempts: int) -> None:
    assert judge(Snooze(90), attempts=attempts) == TryAgain(90.0, is_counted=False)


def test_a_function_may_say_when_to_try_again_but_not_more_often() -> None:
    assert judge(Retry(after=5)) == TryAgain(5.0)
    assert judge(Retry(), retry_delay=10) == TryAgain(20.0)
    assert judge(Retry(after=5), attempts=4) == Bury("4 of 4 attempts made")


def test_a_function_may_cancel_or_bury_its_job() -> None:
    assert judge(Cancel("too late")) == CallOff("too late")
    assert judge(Permanent("no such page")) == Bury("permanent")


@pytest.mark.parametrize("after", [-1, float("nan"), "5", None])
@pytest.mark.parametrize("signal", [Retry, Snooze])
def test_a_time_that_is_none_is_refused(signal: Any, after: Any) -> None:
    if signal is Retry and after is None:
        return
    with pytest.raises(ConfigurationError, match="after="):
        signal(after)


# Other policies


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (RetryPolicy.exponential(3, jitter=0), [6, 12, 24, 48]),
        (RetryPolicy.exponential(jitter=0, cap=30), [20, 30, 30, 30]),
        (RetryPolicy.linear(7, jitter=0), [7, 14, 21, 28]),
        (RetryPolicy.linear(jitter=0), [10, 20, 30, 40]),
        (RetryPolicy.delays([1, 60, 600]), [1, 60, 600, 600]),
        (RetryPolicy.function(lambda attempts, error: attempts * 0.5), [0.5, 1, 1.5, 2]),
    ],
)
def test_waits_of_other_policies(policy: RetryPolicy, waits: list[float]) -> None:
    assert [wait(10, attempts, policy=policy) for attempts in (1, 2, 3, 4)] == waits


@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_the_jitter_is_a_share_of_the_wait(chance: float) -> None:
    policy = RetryPolicy.linear(100, jitter=0.5)
    assert wait(10, 1, chance, policy) == pytest.approx(50 + 100 * chance)


def test_a_function_may_give_up_and_sees_attempts_and_error() -> None:
    seen: list[tuple[int, BaseException | str]] = []
    error = ValueError()
    policy = RetryPolicy.function(lambda attempts, error: seen.append((attempts, error)))
    assert judge(error, policy=policy, attempts=2) == Bury("the retry policy gave up")
    assert seen == [(2, error)]


@pytest.mark.parametrize("answer", ["soon", -1, float("nan"), ZeroDivisionError()])
def test_a_function_that_fails_has_no_say(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    def decide(attempts: int, error: BaseException | str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    policy = RetryPolicy.function(decide)
    assert judge("no", policy=policy, retry_delay=10) == TryAgain(20.0)
    assert "the retry function failed" in caplog.text


class NoSuchPageError(LookupError):
    pass


@pytest.mark.parametrize("kind", [LookupError, NoSuchPageError, "LookupError", "NoSuchPageError"])
def test_a_policy_may_give_up_on_types_of_errors_and_what_is_derived_from_them(kind: Any) -> None:
    policy = RetryPolicy.exponential(give_up_on=[kind])
    assert isinstance(judge(NoSuchPageError(), policy=policy), Bury)
    assert isinstance(judge(OSError(), policy=policy), TryAgain)


def test_a_policy_may_retry_on_some_errors_only_whatever_else_is_said_of_them() -> None:
    class GoneError(Exception):
        status_code = 410

    policy = RetryPolicy.exponential(retry_on=[OSError, GoneError])
    assert isinstance(judge(ConnectionError(), policy=policy), TryAgain)
    assert isinstance(judge(GoneError(), policy=policy), TryAgain)
    assert judge(ValueError(), policy=policy) == Bury("not among the errors to retry on")
    assert isinstance(judge(GoneError()), Bury)


class TooManyError(Exception):
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (TooManyError(retry_after=300), 300),
        (TooManyError(retry_after=5), 20),
        (TooManyError(headers={"Retry-After": "400"}), 400),
        (TooManyError(response=TooManyError(headers={"Retry-After": " 500 "})), 500),
        (TooManyError(retry_after=10**9), 86_400),
        (TooManyError(headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), 20),
        (TooManyError(headers={"Retry-After": "soon"}), 20),
        (TooManyError(retry_after="x", headers=7), 20),
    ],
)
def test_an_error_that_says_when_to_come_back_is_obeyed(error: Exception, seconds: float) -> None:
    assert judge(error, retry_delay=10) == TryAgain(pytest.approx(seconds))


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(),
        RetryPolicy.exponential(2.5, cap=90, jitter=0.1, retry_on=[OSError], give_up_on=["A"]),
        RetryPolicy.linear(),
        RetryPolicy.delays([1, 2, 3]),
    ],
)
def test_a_policy_is_the_same_when_it_was_stored(policy: RetryPolicy) -> None:
    assert RetryPolicy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize("text", ["", "7", "{}", '{"kind": "weekly"}', '{"waits": 3}', "[" * 9999])
def test_what_is_stored_and_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no retry policy"):
        RetryPolicy.from_json(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryPolicy.exponential(-1),
        lambda: RetryPolicy.exponential(cap="long"),
        lambda: RetryPolicy.linear(jitter=2),
        lambda: RetryPolicy.delays([]),
        lambda: RetryPolicy.delays([1, -1]),
        lambda: RetryPolicy.function("now"),  # type: ignore[arg-type]
        lambda: RetryPolicy.exponential(retry_on=[7]),
        lambda: RetryPolicy.function(lambda attempts, error: 1.0).to_json(),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()
