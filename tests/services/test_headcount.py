"""The head count against a model: what it says is never less than what waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_max.exceptions import ShardBusyError
from queue_max.services.headcount import REST, UNKNOWN, Headcount

LIMIT = 6


@dataclass
class Model:
    """Some shards whose jobs come, and go, and come back; all counts are noted."""

    shard_ids: tuple[int, ...] = (0, 1)
    waiting: list[int] = field(default_factory=lambda: [0, 0])
    others: list[int] = field(default_factory=lambda: [0, 0])
    last: list[int] = field(default_factory=lambda: [0, 0])
    counts: int = 0
    now: float = 100.0
    unreadable: set[int] = field(default_factory=set)
    meanwhile: list[Callable[[], object]] = field(default_factory=list)
    """What happens while something is counted, one at a time."""

    def clock(self) -> float:
        return self.now

    @contextmanager
    def reading(self, shard_id: int) -> Iterator[Any]:
        if shard_id in self.unreadable:
            raise ShardBusyError(shard_id, "no")

        def count(at_most: int, queue: str | None) -> int:
            self.counts += 1
            if self.meanwhile:
                self.meanwhile.pop()()
            number = self.waiting[shard_id] + (0 if queue else self.others[shard_id])
            return min(number, at_most)

        waiting = SimpleNamespace(count=count, last_id=lambda: self.last[shard_id])
        yield SimpleNamespace(waiting=waiting)

    def come(self, shard_id: int, number: int = 1) -> None:
        self.waiting[shard_id] += number
        self.last[shard_id] += number

    def last_ids(self) -> dict[int, int]:
        return {each: self.last[each] for each in self.shard_ids if each not in self.unreadable}

    def head(self, queue: str | None = None, limit: int = LIMIT) -> Headcount:
        return Headcount(self, limit, queue, self.clock)  # type: ignore[arg-type]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def find_excess(model: Model) -> Callable[..., int]:
    """Ask a head count, and have it count where that is needed."""

    def find_excess(head: Headcount, more: int = 1) -> int:
        last_ids = model.last_ids()
        if head.excess(more, last_ids):
            head.count(more, last_ids)
        return head.excess(more, last_ids)

    return find_excess


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "other", "go", "count", "ask", "drop"]),
        st.integers(0, 1),
        st.integers(1, 4),
    ),
    max_size=40,
)


def take(step: Step, model: Model, head: Headcount) -> None:
    """Let something happen that is no question for room."""
    what, shard_id, number = step
    gone = min(number, model.waiting[shard_id])
    match what:
        case "come":
            model.come(shard_id, number)
        case "other":
            model.others[shard_id] += number
            model.last[shard_id] += number
        case "go":
            model.waiting[shard_id] -= gone
        case "count":
            head.count(number, model.last_ids())
        case "drop":
            since = head.counts_ended - (number == 4)  # a count began meanwhile
            model.waiting[shard_id] -= gone
            head.dropped(shard_id, gone, since)


@given(steps, st.sampled_from([None, "mail"]))
def test_it_never_finds_room_where_there_is_none(steps: list[Step], queue: str | None) -> None:
    model = Model()
    head = model.head(queue)
    for step in steps:
        model.now += REST
        take(step, model, head)
        waiting = sum(model.waiting) + (0 if queue else sum(model.others))
        for more in range(4):
            assert head.excess(more, model.last_ids()) or waiting + more <= LIMIT


@given(steps)
def test_after_a_count_of_all_it_finds_room_where_there_is_some(steps: list[Step]) -> None:
    model = Model()
    head = model.head()
    for what, shard_id, number in steps:
        model.now += 1
        if what == "come":
            model.come(shard_id, number)
        elif what == "go":
            model.waiting[shard_id] -= min(number, model.waiting[shard_id])
        elif what == "ask":
            before, last_ids = head.counts_begun, model.last_ids()
            while head.excess(number, last_ids) and not head.has_counted_since(before):
                model.now += head.count(number, last_ids)
            assert bool(head.excess(number, last_ids)) == (sum(model.waiting) + number > LIMIT)


def test_what_is_dropped_while_a_count_goes_on_is_not_subtracted_twice(model: Model) -> None:
    head, since = model.head(), []

    def drop() -> None:
        since.append(head.counts_ended)
        model.waiting[0] -= 2

    model.come(0, LIMIT)
    model.meanwhile = [drop]
    head.count(1, model.last_ids())
    head.dropped(0, 2, *since)
    model.come(0, 2)
    assert head.excess(1, model.last_ids())


def test_as_long_as_the_ids_leave_room_nothing_is_counted(
    model: Model, find_excess: Callable[..., int]
) -> None:
    head = model.head(limit=100)
    assert find_excess(head) == 0
    assert model.counts == 2  # at first, of each shard
    for _ in range(99):
        model.come(0)
        assert find_excess(head) == 0
    assert model.counts == 2


def test_a_queue_that_is_emptied_as_fast_as_it_is_filled_is_counted_once_a_bound(
    model: Model, find_excess: Callable[..., int]
) -> None:
    head = model.head(limit=100)
    for _ in range(1_000):
        assert find_excess(head) == 0
        model.come(0)
        model.waiting[0] = 0
        model.now += 0.001
    assert model.counts <= 2 + 1_000 / 100


def test_no_more_is_counted_than_shows_that_there_is_room(
    model: Model, find_excess: Callable[..., int]
) -> None:
    head = model.head()
    find_excess(head)
    model.come(0, 5)
    model.come(1, 1)
    model.waiting = [0, 1]
    counted = model.counts
    assert find_excess(head) == 0
    assert model.counts == counted + 1


def test_a_queue_that_was_found_full_is_not_counted_again_at_once(
    model: Model, find_excess: Callable[..., int]
) -> None:
    head = model.head()
    model.come(0, LIMIT)
    assert find_excess(head) == 1
    counted = model.counts
    assert head.count(1, model.last_ids()) == pytest.approx(REST)
    assert head.is_known_full(model.last_ids())
    assert model.counts == counted
    model.now += REST
    assert not head.is_known_full(model.last_ids())
    assert head.count(1, model.last_ids()) == 0
    assert model.counts == counted + 2


def test_a_shard_that_cannot_be_counted_is_left_out(
    model: Model, find_excess: Callable[..., int]
) -> None:
    head = model.head()
    model.unreadable = {1}
    assert find_excess(head) == 0
    last_ids = {0: 0, 1: 3}  # it could be read a moment ago
    head.count(1, last_ids)
    assert last_ids == {0: 0}


@pytest.mark.parametrize("queue", [None, "mail"])
def test_when_there_will_be_room_is_told_from_how_many_left_lately(
    model: Model, queue: str | None
) -> None:
    head = model.head(queue)
    model.come(0, LIMIT)
    assert head.retry_after(1) == UNKNOWN
    for _ in range(5):
        head.count(1, model.last_ids())
        model.now += 1
        model.waiting[0] -= 2
        model.come(0, 2)
        head.admitted += 2
    head.count(1, model.last_ids())
    assert head.retry_after(1) == pytest.approx(0.5)
    assert head.retry_after(4) == pytest.approx(2)


def test_when_nothing_leaves_it_is_not_known_when_there_will_be_room(model: Model) -> None:
    head = model.head()
    model.come(0, LIMIT)
    for _ in range(5):
        head.count(1, model.last_ids())
        model.now += 1
    assert head.retry_after(1) == UNKNOWN


def test_what_left_long_ago_tells_nothing(model: Model) -> None:
    head = model.head()
    model.come(0, LIMIT)
    head.count(1, model.last_ids())
    model.now += 1
    model.waiting[0] -= 5
    model.come(0, 5)
    for _ in range(100):
        head.count(1, model.last_ids())
        model.now += 1
    assert head.retry_after(1) == UNKNOWN
