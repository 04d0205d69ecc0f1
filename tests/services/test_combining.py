"""What threads ask for at the same time is done together."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from queue_max.services.combining import Combining


class Kitchen:
    """Answers n by -n, as soon as it may; notes what was asked together."""

    def __init__(self) -> None:
        self.orders: list[list[int]] = []
        self.may_begin = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)

    def __call__(self, asked: Sequence[int]) -> list[int]:
        self.orders.append(list(asked))
        self.has_begun.release()
        assert self.may_begin.acquire(timeout=30)
        if 13 in asked:
            raise ZeroDivisionError
        return [-each for each in asked]


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture
def combining(kitchen: Kitchen) -> Combining[int, int]:
    return Combining(kitchen, lambda: 99)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def await_requests(combining: Combining[int, int], number: int) -> None:
    while len(combining._requests) < number:
        pass


def test_one_thing_is_done_by_who_asks(combining: Combining[int, int], kitchen: Kitchen) -> None:
    kitchen.may_begin.release()
    assert combining(5) == -5


def test_what_is_asked_meanwhile_is_done_together(
    combining: Combining[int, int], kitchen: Kitchen, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(combining, 1)
    assert kitchen.has_begun.acquire(timeout=30)
    others = [threads.submit(combining, each) for each in (2, 3, 4)]
    await_requests(combining, 3)
    kitchen.may_begin.release(2)
    assert first.result(30) == -1
    assert [each.result(30) for each in others] == [-2, -3, -4]
    assert [sorted(order) for order in kitchen.orders] == [[1], [2, 3, 4]]


def test_an_error_goes_to_who_called_and_the_others_are_left_in_doubt(
    combining: Combining[int, int], kitchen: Kitchen, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(combining, 1)
    assert kitchen.has_begun.acquire(timeout=30)
    others = [threads.submit(combining, 13) for _ in range(3)]
    await_requests(combining, 3)
    kitchen.may_begin.release(2)
    assert first.result(30) == -1
    errors = [each.exception(30) for each in others]
    assert [type(each) for each in errors if each is not None] == [ZeroDivisionError]
    assert sorted(each.result() for each in others if each.exception() is None) == [99, 99]
    kitchen.may_begin.release()
    assert combining(7) == -7


def test_each_is_done_once_and_gets_its_own_answer(
    combining: Combining[int, int], kitchen: Kitchen, threads: ThreadPoolExecutor
) -> None:
    kitchen.may_begin.release(2_000)
    assert list(threads.map(combining, range(100, 1_100))) == [-each for each in range(100, 1_100)]
    done = sorted(each for order in kitchen.orders for each in order)
    assert done == list(range(100, 1_100))
