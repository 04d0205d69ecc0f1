"""Arguments of tasks: which are taken, how they are written, and what the function gets."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, SecretStr

from queue_max import Permanent
from queue_max.tasks.arguments import Arguments

if TYPE_CHECKING:
    from fractions import Fraction


class Order(BaseModel):
    id: int
    paid: bool = False


@dataclass
class Point:
    x: int
    y: int


class Colour(Enum):
    RED = "red"


class Unknown:
    """Something that pydantic knows nothing of."""


def passed(
    function: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[list[Any], dict[str, Any]]:
    """Give what a function gets in a worker, when it is enqueued with these arguments."""
    arguments = Arguments("shop.pay", function)
    text = json.dumps(arguments.dump(args, kwargs))
    return arguments.load(*json.loads(text))


def plain(a, b=2, *rest, c=3, **more): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), ((1, "x"), {}), ((1, 2, 3, 4), {"c": None, "d": [1]}), ((), {"a": {"k": 1.5}})],
)
def test_what_json_has_is_passed_on_as_it_is(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert passed(plain, *args, **kwargs) == (list(args), kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(TypeError, match=f"Invalid arguments for shop.pay: {said}"):
        Arguments("shop.pay", plain).dump(args, kwargs)


def rich(
    order: Order,
    point: Point,
    when: datetime,
    day: date,
    pause: timedelta,
    price: Decimal,
    colour: Colour,
    key: UUID,
    where: Path,
    pair: tuple[int, str],
    names: set[str],
    orders: list[Order],
    maybe: Order | None = None,
) -> None: ...


def test_what_annotations_say_is_made_anew() -> None:
    values = [
        Order(id=7, paid=True),
        Point(1, 2),
        datetime(2026, 1, 31, 8, tzinfo=UTC),
        date(2026, 1, 31),
        timedelta(minutes=5),
        Decimal("0.10"),
        Colour.RED,
        UUID(int=7),
        Path("/tmp/a"),
        (1, "one"),
        {"a", "b"},
        [Order(id=1)],
    ]
    assert passed(rich, *values) == (values, {})
    assert passed(rich, *values, maybe=Order(id=3)) == (values, {"maybe": Order(id=3)})


def test_further_arguments_are_made_anew_too() -> None:
    def function(*points: Point, **orders: Order) -> None: ...

    expected = ([Point(1, 2), Point(3, 4)], {"first": Order(id=1)})
    assert passed(function, *expected[0], **expected[1]) == expected


def test_what_a_model_refuses_is_refused_before_it_is_enqueued() -> None:
    def function(order: Order) -> None: ...

    with pytest.raises(TypeError, match=r"Invalid arguments for shop\.pay: order=.*valid integer"):
        Arguments("shop.pay", function).dump([{"id": "seven"}], {})


class Aliased(BaseModel):
    number: int = Field(alias="NUMBER")


class Secret(BaseModel):
    word: SecretStr


class LeavesOut(BaseModel):
    a: int
    b: int = Field(default=5, exclude=True)


class BigOrder(Order):
    size: int = 9


def test_a_model_with_aliases_is_made_anew() -> None:
    def function(one: Aliased, many: list[Aliased]) -> None: ...

    values = [Aliased(NUMBER=1), [Aliased(NUMBER=2)]]
    assert passed(function, *values) == (values, {})


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Secret, Secret(word=SecretStr("hunter2"))),
        (LeavesOut, LeavesOut(a=1, b=9)),
        (Order, BigOrder(id=1)),
        (bytes, b"\xff\x00"),
        (int | str | date, date(2026, 1, 1)),
    ],
    ids=["secret", "left out", "subclass", "bytes", "ambiguous"],
)
def test_what_would_not_arrive_as_it_was_given_is_refused(hint: Any, value: Any) -> None:
    def function(it: Any) -> None: ...

    function.__annotations__["it"] = hint
    with pytest.raises(TypeError, match=r"Invalid arguments for shop\.pay: it="):
        Arguments("shop.pay", function).dump([value], {})


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ([], {}, "missing a required argument"),
        ([{"id": "seven"}], {}, "valid integer"),
        ({"order": 1}, {}, "args, a list"),
        ([], [], "kwargs, a dict"),
    ],
)
def test_what_was_written_and_does_not_fit_any_more_is_the_jobs_end(
    args: Any, kwargs: Any, said: str
) -> None:
    def function(order: Order) -> None: ...

    with pytest.raises(Permanent, match=said):
        Arguments("shop.pay", function).load(args, kwargs)


@pytest.mark.parametrize("value", [5, "5", None, [1], {"a": 1}])
def test_a_plain_annotation_changes_nothing(value: object) -> None:
    def function(a: int, b: dict[str, list[int]] | None, c: Literal["x"], d: Any) -> None: ...

    assert passed(function, value, value, value, value) == ([value] * 4, {})


def test_an_annotation_that_says_nothing_to_pydantic_does_no_harm() -> None:
    def function(thing: Unknown, late: "Fraction", never: "NoSuchName") -> None: ...  # type: ignore[name-defined] # noqa: F821

    assert passed(function, 1, 2, 3) == ([1, 2, 3], {})


def test_the_context_is_none_of_the_arguments() -> None:
    def function(a: int, ctx: Any) -> None: ...

    assert Arguments("shop.pay", function).takes_context
    assert passed(function, 1) == ([1], {})
    with pytest.raises(TypeError, match="Invalid arguments"):
        Arguments("shop.pay", function).dump([1], {"ctx": 2})
