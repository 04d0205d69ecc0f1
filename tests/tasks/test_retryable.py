"""`@retryable_task`: repeated here and now, and in workers by the same rules."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from queue_max import ConfigurationError, Permanent, Queue, Retry, Worker, retryable_task
from queue_max.tasks import retryable

Work = Callable[..., Worker]


class Flaky:
    """What a function does that fails some times before it succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, *args: object) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    @property
    def function(self) -> Callable[..., str]:
        return lambda *args: self(*args)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for; none is made, and none is moved by chance."""
    waits: list[float] = []
    monkeypatch.setattr(retryable, "pause", waits.append)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(retryable, "pause_coroutine", sleep)
    monkeypatch.setattr(retryable._rng, "uniform", lambda low, high: 1.0)
    return waits


def test_a_call_is_repeated_until_it_succeeds(waits: list[float]) -> None:
    function = Flaky(TimeoutError("slow"), ConnectionError("gone"))
    assert retryable_task()(function.function)() == "done"
    assert (function.calls, waits) == (3, [2.0, 4.0])


def test_the_last_error_is_raised_when_the_attempts_are_used_up(waits: list[float]) -> None:
    function = Flaky(*(TimeoutError(f"attempt {n}") for n in range(1, 9)))
    with pytest.raises(TimeoutError, match="attempt 3"):
        retryable_task(max_retries=2)(function.function)()
    assert (function.calls, len(waits)) == (3, 2)


@pytest.mark.parametrize("kinds", [[TimeoutError], (TimeoutError,), TimeoutError], ids=str)
def test_only_the_errors_that_were_named_are_tried_again(kinds: Any) -> None:
    function = Flaky(TimeoutError("slow"), ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        retryable_task(retry_on=kinds)(function.function)()
    assert function.calls == 2


@pytest.mark.parametrize("error", [Permanent("never"), KeyboardInterrupt(), SystemExit()])
def test_what_no_attempt_can_mend_ends_it_at_once(error: BaseException) -> None:
    function = Flaky(error)
    with pytest.raises(type(error)):
        retryable_task()(function.function)()
    assert function.calls == 1


def test_it_waits_as_long_as_the_error_says(waits: list[float]) -> None:
    retryable_task(retry_delay=5)(Flaky(Retry(after=9), ValueError("x")).function)()
    assert waits == [9, 20]


def test_a_coroutine_function_is_repeated_too(waits: list[float]) -> None:
    function = Flaky(TimeoutError("slow"))

    @retryable_task()
    async def fetch() -> str:
        return function()

    assert asyncio.run(fetch()) == "done"
    assert (function.calls, waits) == (2, [2.0])


def test_its_jobs_have_the_same_attempts_and_the_same_policy(queue: Queue) -> None:
    made = retryable_task(max_retries=4, retry_on=[TimeoutError], queue=queue)(Flaky().function)
    job = queue.get_job(made.delay())
    assert (job.max_attempts, job.retry_delay) == (5, 1)
    assert '"retry_on":["TimeoutError"]' in str(job.retry_policy)


def test_a_worker_makes_one_attempt_at_a_time(queue: Queue, work: Work, waits: list[float]) -> None:
    function = Flaky(TimeoutError("slow"))
    made = retryable_task(retry_delay=0, queue=queue)(function.function)
    made.delay()
    worker = work()
    assert (function.calls, waits) == (2, [])
    assert worker.get_stats()["retried"] == 1


def test_callbacks_hear_once_of_all_attempts() -> None:
    heard: list[object] = []
    options: dict[str, Any] = {
        "on_success": lambda result, task_name: heard.append(result),
        "on_failure": lambda error, task_name: heard.append(str(error)),
        "max_retries": 1,
    }
    retryable_task(**options)(Flaky(TimeoutError("slow")).function)()
    with pytest.raises(TimeoutError):
        retryable_task(name="another", **options)(
            Flaky(TimeoutError("1"), TimeoutError("2")).function
        )()
    assert heard == ["done", "2"]


def test_other_options_hold_for_the_calls_here_too() -> None:
    function = Flaky(TimeoutError("slow"))
    with pytest.raises(TimeoutError):
        retryable_task()(function.function).using(max_retries=0)()
    assert function.calls == 1


def test_parentheses_are_needed_and_two_policies_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="with parentheses"):
        retryable_task(Flaky().function)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="retry_on and retry"):
        retryable_task(retry_on=[OSError], retry=None)
