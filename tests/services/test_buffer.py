"""The jobs that a process has claimed ahead."""

import threading
from concurrent.futures import ThreadPoolExecutor

from queue_max.domain.job import Job, JobPriority
from queue_max.services.buffer import Buffer


def a_job(number: int, priority: int = 0, queue: str = "default") -> Job:
    return Job(id=number, payload={}, priority=JobPriority(priority), queue=queue)


def test_the_highest_priority_goes_first_then_who_came_first() -> None:
    buffer = Buffer()
    for number, priority in enumerate((0, 2, 1, 2, 0)):
        buffer.put(a_job(number, priority), now=0.0)
    assert len(buffer) == 5
    taken = [buffer.pop()[0] for _ in range(6)]
    assert [job and job.id for job in taken] == [1, 3, 2, 0, 4, None]
    assert not buffer


def test_a_job_that_is_put_back_goes_first_again() -> None:
    buffer = Buffer()
    buffer.put(a_job(1), 0.0)
    buffer.put(a_job(2), 0.0)
    first, since = buffer.pop()
    assert first is not None
    buffer.put_back(first, since)
    assert buffer.pop() == (first, 0.0)


def test_what_has_been_there_for_long_is_taken_out() -> None:
    buffer = Buffer()
    for number in range(4):
        buffer.put(a_job(number, number % 2), now=float(number))
    assert [job.id for job in buffer.withdraw(since=1.0)] == [1, 0]
    assert len(buffer) == 2


def test_the_queues_of_the_jobs_that_would_come_next_are_named() -> None:
    buffer = Buffer()
    assert buffer.first_queues() == []
    buffer.put(a_job(1, 0, "mail"), 0.0)
    buffer.put(a_job(2, 2, "news"), 0.0)
    assert buffer.first_queues() == ["news", "mail"]


def test_threads_that_take_at_once_get_each_job_once() -> None:
    buffer = Buffer()
    for number in range(4_000):
        buffer.put(a_job(number, number % 3), 0.0)
    barrier = threading.Barrier(4)

    def take_all(_thread: int) -> list[int]:
        barrier.wait()
        return [job.id for job, _ in iter(buffer.pop, (None, 0.0)) if job]

    with ThreadPoolExecutor(4) as threads:
        taken = [number for part in threads.map(take_all, range(4)) for number in part]
    assert sorted(taken) == list(range(4_000))
