import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from queue_max import (
    Cancel,
    Job,
    JobResult,
    JobSignal,
    JobTimeoutError,
    Permanent,
    Retry,
    Snooze,
    is_retryable_error,
)
from queue_max.workers import execution
from queue_max.workers.running import RunningJob, StopReason

# A time limit that no job here reaches.
AMPLE = 30.0

LIMITS = pytest.mark.parametrize("timeout", [None, AMPLE])

SPARES_NOTHING = [
    ValueError("it broke"),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit(),
    BaseException("anything"),
]


@pytest.fixture
def job() -> Job:
    return Job(7, {"n": 2}, worker_id="worker-1", shard_id=3)


def run(
    function: Callable[..., Any], job: Job, timeout: float | None = None, *, late: bool = False
) -> JobResult:
    """Run a function for a job; a late one was told before that its time is over."""
    running = RunningJob(job, None, timeout)  # type: ignore[arg-type]
    if late:
        running.stop(StopReason.TIMEOUT)
    return execution.run(lambda running: function(running.job.payload), running)


def double(payload: dict[str, Any]) -> int:
    return int(payload["n"]) * 2


async def double_later(payload: dict[str, Any]) -> int:
    return double(payload)


class Doubler:
    def __call__(self, payload: dict[str, Any]) -> int:
        return double(payload)

    async def later(self, payload: dict[str, Any]) -> int:
        return double(payload)


def raiser(error: BaseException) -> Callable[[object], None]:
    def fail(payload: object) -> None:
        raise error

    return fail


def async_raiser(error: BaseException) -> Callable[[object], Any]:
    async def fail(payload: object) -> None:
        raise error

    return fail


@LIMITS
@pytest.mark.parametrize(
    "function",
    [double, double_later, Doubler(), Doubler().later, lambda payload: double_later(payload)],
    ids=["function", "coroutine function", "object", "coroutine method", "gives a coroutine"],
)
def test_what_the_function_gives_is_the_result(
    job: Job, function: Callable[..., Any], timeout: float | None
) -> None:
    outcome = run(function, job, timeout)
    assert (outcome.success, outcome.result, outcome.error) == (True, 4, None)


@LIMITS
@pytest.mark.parametrize("error", SPARES_NOTHING, ids=repr)
@pytest.mark.parametrize("make", [raiser, async_raiser], ids=["function", "coroutine"])
def test_an_exception_of_any_kind_is_the_outcome_of_the_job(
    job: Job, make: Callable[..., Any], error: BaseException, timeout: float | None
) -> None:
    outcome = run(make(error), job, timeout)
    assert (outcome.success, outcome.result) == (False, None)
    assert type(outcome.error) is type(error)


@LIMITS
def test_the_error_keeps_its_traceback(job: Job, timeout: float | None) -> None:
    outcome = run(raiser(ValueError("it broke")), job, timeout)
    assert outcome.error is not None
    assert outcome.error.__traceback__ is not None


def test_a_cancelled_coroutine_is_a_failure(job: Job) -> None:
    outcome = run(async_raiser(asyncio.CancelledError()), job)
    assert isinstance(outcome.error, asyncio.CancelledError)


def test_a_coroutine_finds_no_other_loop_and_leaves_none(job: Job) -> None:
    assert run(double_later, job).success
    assert run(double_later, job).success


@pytest.mark.parametrize("function", [double, double_later], ids=["function", "coroutine"])
def test_who_ends_after_the_time_is_over_has_failed(job: Job, function: Any) -> None:
    outcome = run(function, job, 0.5, late=True)
    assert isinstance(outcome.error, JobTimeoutError)
    assert isinstance(outcome.error, TimeoutError)
    assert is_retryable_error(outcome.error)
    assert "0.5 s" in str(outcome.error)


def test_what_it_raised_when_its_time_was_over_is_the_cause(job: Job) -> None:
    error = ValueError("half done")
    outcome = run(raiser(error), job, 0.5, late=True)
    assert isinstance(outcome.error, JobTimeoutError)
    assert outcome.error.__cause__ is error


def test_what_a_late_function_asks_for_is_done(job: Job) -> None:
    asked = Snooze(3)
    assert run(raiser(asked), job, 0.5, late=True).error is asked


def test_a_coroutine_that_is_told_to_stop_is_cancelled(job: Job) -> None:
    running = RunningJob(job, None, AMPLE)  # type: ignore[arg-type]

    async def wait_for_ever(payload: object) -> None:
        threading.Thread(target=running.stop, args=[StopReason.TIMEOUT]).start()
        await asyncio.Event().wait()

    outcome = execution.run(lambda running: wait_for_ever(running.job.payload), running)
    assert isinstance(outcome.error, JobTimeoutError)
    assert isinstance(outcome.error.__cause__, asyncio.CancelledError)


def test_without_a_limit_the_function_runs_in_the_thread_of_its_worker(job: Job) -> None:
    outcome = run(lambda payload: threading.current_thread(), job)
    assert outcome.result is threading.current_thread()


@pytest.mark.parametrize("signal", [Snooze(3), Retry(5), Cancel(), Permanent("bad page")])
@pytest.mark.parametrize("how", ["raised", "returned"])
def test_what_becomes_of_a_job_may_be_raised_or_returned(signal: JobSignal, how: str) -> None:
    def ask(payload: dict[str, Any]) -> Any:
        if how == "raised":
            raise signal
        return signal

    assert run(ask, Job(1, {})).error is signal


def test_a_generator_has_done_nothing_and_that_is_the_jobs_failure() -> None:
    def later(payload: dict[str, Any]) -> Any:
        yield payload

    outcome = run(later, Job(1, {}))

    assert isinstance(outcome.error, Permanent)
