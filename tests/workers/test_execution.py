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
from queue_max.workers.execution import run

# A time limit that no job here reaches, and one that all reach that block.
AMPLE, SHORT = 30.0, 0.02

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
    import asyncio

    outcome = run(async_raiser(asyncio.CancelledError()), job)
    assert isinstance(outcome.error, asyncio.CancelledError)


def test_a_coroutine_finds_no_other_loop_and_leaves_none(job: Job) -> None:
    assert run(double_later, job).success
    assert run(double_later, job).success


@LIMITS
def test_an_outcome_tells_who_ran_the_job_and_how_long(job: Job, timeout: float | None) -> None:
    outcome = run(double, job, timeout)
    assert isinstance(outcome, JobResult)
    assert outcome.worker_id == "worker-1"
    assert outcome.execution_time >= 0


def test_a_job_that_takes_too_long_fails_while_its_function_goes_on(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    release, ended = threading.Event(), threading.Event()

    def block(payload: object) -> None:
        release.wait(30)
        ended.set()

    outcome = run(block, job, SHORT)
    assert not ended.is_set()
    assert isinstance(outcome.error, JobTimeoutError)
    assert isinstance(outcome.error, TimeoutError)
    assert is_retryable_error(outcome.error)
    assert str(SHORT) in str(outcome.error)
    assert outcome.execution_time >= SHORT
    assert f"job {job.key} goes on" in caplog.text
    release.set()
    assert ended.wait(30)


def test_a_function_that_outlived_its_time_does_not_hurt_the_next_job(job: Job) -> None:
    release = threading.Event()
    try:
        assert not run(lambda payload: release.wait(30), job, SHORT).success
        for _ in range(3):
            assert run(double, job, AMPLE).result == 4
    finally:
        release.set()


def test_a_function_that_outlived_its_time_does_not_keep_the_process_alive(job: Job) -> None:
    release = threading.Event()
    before = set(threading.enumerate())
    try:
        run(lambda payload: release.wait(30), job, SHORT)
        left = set(threading.enumerate()) - before
        assert len(left) == 1
        assert all(thread.daemon for thread in left)
    finally:
        release.set()


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
