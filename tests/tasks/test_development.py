"""What helps while a program is written and tested: drain, immediate, in_memory, assertions."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from queue_max import Queue, Snooze, current_job, default_queue, set_default_queue, task
from queue_max.testing import assert_enqueued, enqueued, immediate_queue, job_queue

MakeQueue = Callable[..., Queue]

__all__ = ["immediate_queue", "job_queue"]  # the fixtures, as pytest_plugins would bring them


def double(n: int) -> int:
    return 2 * n


# drain


def test_drain_runs_what_is_due_in_this_thread(queue: Queue) -> None:
    seen: list[Any] = []

    @task(queue)
    def note(n: int) -> None:
        seen.append((n, threading.current_thread()))

    note.map([1, 2, 3])
    note.schedule_in(600, 4)
    assert queue.drain() == 3
    assert sorted(n for n, _ in seen) == [1, 2, 3]
    assert {thread for _, thread in seen} == {threading.current_thread()}
    assert queue.get_stats()["completed"] == 3


def test_other_jobs_go_to_the_function_that_is_given(queue: Queue) -> None:
    seen: list[object] = []
    queue.enqueue({"n": 1})
    assert queue.drain() == 0
    assert queue.get_stats()["held"] == 1
    assert queue.drain(seen.append) == 1
    assert seen == [{"n": 1}]


def test_drain_runs_what_jobs_enqueue_after_them(queue: Queue) -> None:
    order: list[str] = []

    @task(queue)
    def second() -> None:
        order.append("second")

    @task(queue)
    def first() -> None:
        second.delay()
        assert queue.drain() == 0
        order.append("first")

    first.delay()
    assert queue.drain() == 2
    assert order == ["first", "second"]


def test_failures_are_written_as_by_any_worker(queue: Queue) -> None:
    @task(queue, max_retries=1)
    def fail() -> None:
        raise ValueError(f"attempt {current_job().attempt}")

    handle = fail.delay()
    assert queue.drain() == 1
    assert queue.get_job(handle).status == "scheduled"
    assert queue.drain() == 0
    assert queue.drain(scheduled=True) == 1
    assert [each.error for each in queue.get_attempts(handle)] == ["attempt 1", "attempt 2"]
    assert queue.get_job(handle).is_failed


def test_what_waits_for_its_time_is_due_when_asked_for(queue: Queue) -> None:
    seen: list[str] = []

    @task(queue)
    def later() -> None:
        seen.append("later")
        if current_job().fence == 1:
            raise Snooze(3600)

    later.schedule_in(3600)
    assert queue.drain(scheduled=True) == 2
    assert seen == ["later", "later"]


def test_the_first_error_is_raised_where_that_is_asked_for(queue: Queue) -> None:
    @task(queue, max_retries=0)
    def fail() -> None:
        raise ValueError("it broke")

    handle = fail.delay()
    with pytest.raises(ValueError, match="it broke"):
        queue.drain(raise_errors=True)
    assert queue.get_job(handle).is_failed


def test_a_ctrl_c_fails_the_job_that_runs_and_ends_the_drain(queue: Queue) -> None:
    def interrupt(payload: object) -> None:
        raise KeyboardInterrupt

    jobs = [queue.enqueue({}), queue.enqueue({})]
    with pytest.raises(KeyboardInterrupt):
        queue.drain(interrupt)
    # Which shard comes first is left to chance.
    untouched, interrupted = sorted(map(queue.get_job, jobs), key=lambda job: job.attempts)
    assert (untouched.attempts, interrupted.attempts) == (0, 1)
    assert interrupted.error_type == "KeyboardInterrupt"


def test_coroutines_are_run_although_a_loop_runs_already(queue: Queue) -> None:
    @task(queue, keep_result=60)
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    async def main() -> int:
        handle = double.delay(4)
        queue.drain()
        return int(handle.result(0))

    assert asyncio.run(main()) == 8


# immediate


def test_an_immediate_queue_runs_tasks_before_enqueue_returns(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, immediate=True)
    made = task(queue, keep_result=60, name="tests.double")(double)
    assert made.delay(4).result(0) == 8
    assert [each.result(0) for each in made.map([1, 2])] == [2, 4]


def test_an_error_is_the_jobs_not_the_callers(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, immediate=True)

    @task(queue, max_retries=0)
    def fail() -> None:
        raise ValueError("it broke")

    assert queue.get_job(fail.delay()).last_error == "it broke"


# in_memory


def test_a_queue_in_memory_is_gone_when_it_is_closed() -> None:
    with Queue.in_memory() as queue:
        folder = Path(queue.data_dir)
        assert folder.is_dir()
        assert queue.num_shards == 1
        assert queue.rate_limiter.rate_limit == float("inf")
        queue.enqueue({})
    assert not folder.exists()


def test_a_queue_in_memory_that_is_forgotten_is_gone_too() -> None:
    queue = Queue.in_memory(shards=2)
    folder = Path(queue.data_dir)
    assert queue.num_shards == 2
    del queue
    gc.collect()
    assert not folder.exists()


FORK = """
import os, sys
from queue_max import Queue

queue = Queue.in_memory()
if not (child := os.fork()):
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
queue.enqueue({})
assert queue.drain(dict) == 1
"""


def test_a_child_of_fork_does_not_take_it_from_its_parent() -> None:
    assert subprocess.run([sys.executable, "-c", FORK], timeout=60).returncode == 0


def test_nothing_is_left_of_one_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("queue_max.queue._in_memory", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="shards"):
        Queue.in_memory(shards=0)
    assert list(tmp_path.iterdir()) == []


# Assertions


def test_the_fixture_is_the_default_queue(job_queue: Queue) -> None:
    assert default_queue() is job_queue
    made = task(name="tests.double")(double)
    made.delay(1)
    assert len(enqueued(job_queue, made)) == 1
    assert job_queue.drain() == 1
    assert enqueued(job_queue) == []


@pytest.fixture
def _the_default_queue_is_left_as_it_was(queue: Queue) -> Iterator[None]:
    set_default_queue(queue)
    yield
    after = default_queue()
    set_default_queue(None)
    assert after is queue


@pytest.mark.usefixtures("_the_default_queue_is_left_as_it_was")
def test_a_default_queue_of_the_programs_own_comes_back(request: pytest.FixtureRequest) -> None:
    for name in ("job_queue", "immediate_queue"):
        assert request.getfixturevalue(name) is default_queue()


def test_the_immediate_fixture_runs_at_once(immediate_queue: Queue) -> None:
    made = task(name="tests.double", keep_result=60)(double)
    assert made.delay(3).result(0) == 6


def test_what_waits_can_be_asserted(job_queue: Queue) -> None:
    made = task(name="tests.double")(double)
    made.delay(1)
    made.delay(n=2)
    job_queue.enqueue({"page": 1, "colour": "red"})
    assert len(assert_enqueued(job_queue, made)) == 2
    assert len(assert_enqueued(job_queue, "tests.double", 1, count=1)) == 1
    assert_enqueued(job_queue, made, n=2)
    assert_enqueued(job_queue, payload={"page": 1}, count=1)
    assert_enqueued(job_queue, made, 3, count=0)


@pytest.mark.parametrize("payload", [{}, {"args": [1, 2]}, {"args": 5}])
def test_a_job_that_does_not_fit_its_task_is_none_that_was_meant(
    job_queue: Queue, payload: dict[str, Any]
) -> None:
    made = task(name="tests.double")(double)
    job_queue.enqueue(payload, task="tests.double")
    assert_enqueued(job_queue, made, 1, count=0)


def test_it_does_not_matter_how_arguments_were_passed(job_queue: Queue) -> None:
    @task(name="tests.send")
    def send(to: str, when: date, *, subject: str = "") -> None: ...

    day = date(2026, 1, 1)
    send.delay(to="ada", when=day, subject="Hi")
    assert_enqueued(job_queue, send, "ada", day, subject="Hi", count=1)
    assert_enqueued(job_queue, send, "ada", count=1)
    assert_enqueued(job_queue, send, subject="Hi", count=1)
    assert_enqueued(job_queue, send, "bob", count=0)


@pytest.mark.parametrize(
    ("args", "options"),
    [((3,), {}), ((), {"count": 3}), ((), {"payload": {"page": 1}})],
)
def test_what_does_not_wait_is_told_with_what_does(
    job_queue: Queue, args: tuple[int, ...], options: dict[str, Any]
) -> None:
    made = task(name="tests.double")(double)
    made.map([1, 2])
    with pytest.raises(AssertionError, match=r"such jobs wait, not .*'args': \[1\]"):
        assert_enqueued(job_queue, made, *args, **options)
