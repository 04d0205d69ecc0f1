"""What a job's function finds in a child process."""

import multiprocessing
import threading
from collections.abc import Iterator

import pytest

from queue_max import Job, LeaseLostError
from queue_max.workers.child import ChildJob, Line
from queue_max.workers.parcels import Answer, Order, Question


@pytest.fixture
def line() -> Iterator[Line]:
    """A line to a worker that answers each question with what was said in it."""
    theirs, ours = multiprocessing.Pipe()

    def answer() -> None:
        while isinstance(question := theirs.recv(), Question):
            theirs.send(Answer(question.arguments))

    worker = threading.Thread(target=answer)
    worker.start()
    with theirs, ours:
        yield Line(ours, {})
        ours.send("the end")
        worker.join(30)


def a_run(line: Line, timeout: float | None = None, time_left: float = 60) -> ChildJob:
    return ChildJob(Order(Job(7, {}, fence=3), None, timeout, time_left), line)


def test_each_of_many_threads_gets_the_answer_to_its_own_question(line: Line) -> None:
    running, wrong = a_run(line), []

    def ask(me: int) -> None:
        for number in range(50):
            if (answer := line.ask(running, "anything", me, number)) != (me, number):
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=[me], daemon=True) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_job_that_has_ended_asks_nothing_more(line: Line) -> None:
    running = a_run(line)
    running.end()
    with pytest.raises(LeaseLostError):
        running.heartbeat()
    assert running.is_cancelled


def test_the_time_that_passed_on_the_way_counts(line: Line) -> None:
    running = a_run(line, timeout=50, time_left=3)
    assert 0 < running.time_left <= 3
    assert running.timeout == 50
    assert a_run(line, timeout=50, time_left=0).should_stop
