"""Who runs jobs in a process: many together, or one alone."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from queue_max.workers.company import Company


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@contextmanager
def together(company: Company) -> Iterator[None]:
    company.join(before_waiting=lambda: None)
    try:
        yield
    finally:
        company.leave()


def test_many_run_together(threads: ThreadPoolExecutor) -> None:
    company, meeting = Company(), threading.Barrier(8)

    def meet(_: int) -> bool:
        with together(company):
            meeting.wait(20)
            return True

    assert all(threads.map(meet, range(8)))


def test_one_alone_waits_for_all_others_and_they_for_it(threads: ThreadPoolExecutor) -> None:
    company, running, most = Company(), [], []

    def run(number: int) -> None:
        entry = company.alone() if number % 10 == 0 else together(company)
        with entry:
            running.append(number)
            if number % 10 == 0:
                most.append(len(running))
            running.remove(number)

    list(threads.map(run, range(2_000)))
    assert most == [1] * 200


def test_nobody_joins_while_one_waits_to_be_alone(threads: ThreadPoolExecutor) -> None:
    company, leave, order = Company(), threading.Event(), []

    def alone() -> None:
        with company.alone():
            order.append("alone")

    def beside() -> None:
        with together(company):
            order.append("together")

    with together(company):
        single = threads.submit(alone)
        while not company._loners:
            leave.wait(0.001)
        late = threads.submit(beside)
        assert not order
    single.result(20)
    late.result(20)
    assert order == ["alone", "together"]


def test_whoever_has_to_wait_for_one_alone_may_put_things_in_order_before(
    threads: ThreadPoolExecutor,
) -> None:
    company, done, calls = Company(), threading.Event(), []

    def tidy() -> None:
        calls.append("tidied")
        done.set()

    company.join(tidy)
    company.leave()
    assert not calls
    with company.alone():
        late = threads.submit(company.join, tidy)
        assert done.wait(20)
    late.result(20)
    assert calls == ["tidied"]


def test_an_error_leaves_the_place_free(threads: ThreadPoolExecutor) -> None:
    company = Company()
    for enter in (company.alone, lambda: together(company), company.alone):
        with pytest.raises(ZeroDivisionError), enter():
            raise ZeroDivisionError
    with company.alone():
        pass
