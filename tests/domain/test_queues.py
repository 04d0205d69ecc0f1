"""Named queues: how a choice of them is said, and in which order they are asked."""

import random
from collections import Counter
from typing import Any

import pytest

from queue_max import ConfigurationError
from queue_max.domain.queues import QueueChoice, queue_name


@pytest.mark.parametrize(
    ("said", "names", "weights"),
    [
        ("mail", ("mail",), None),
        ("mail, default", ("mail", "default"), None),
        (["mail", "default"], ("mail", "default"), None),
        ("mail=3, default=1", ("mail", "default"), (3, 1)),
        ({"mail": 3, "default": 1}, ("mail", "default"), (3, 1)),
        (QueueChoice(("mail",)), ("mail",), None),
    ],
)
def test_queues_are_chosen_in_order_or_by_weight(
    said: Any, names: tuple[str, ...], weights: tuple[int, ...] | None
) -> None:
    choice = QueueChoice.of(said)
    assert (choice.names, choice.weights) == (names, weights)
    assert QueueChoice.of(str(choice)) == choice


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "queue='': should be a str of 1 to 255"),
        ([], "at least one queue"),
        ("mail,mail", "none twice"),
        ("mail=3,mail=1", "as mail,default or mail=3,default=1"),
        ("mail=3,default", "as mail,default or mail=3,default=1"),
        ("mail=much", "as mail,default or mail=3,default=1"),
        ("mail=0", "the weight of queue mail=0: should be from 1"),
        ({"mail": 0.5}, "the weight of queue mail=0.5: should be a whole number"),
        (7, "queues=7: should be names of queues"),
        ([7], "queue=7: should be a str"),
    ],
)
def test_what_is_no_choice_is_refused(bad: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        QueueChoice.of(bad)


@pytest.mark.parametrize("bad", ["a,b", "a=b", "*", " a", "a ", "", "a\n", "a" * 256, None, 1])
def test_what_cannot_be_said_at_the_command_line_is_no_name_of_a_queue(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="without a comma"):
        queue_name(bad)


def test_in_order_the_first_one_is_always_asked_first() -> None:
    choice = QueueChoice.of("mail,default")
    assert {tuple(choice.order(random.Random(seed))) for seed in range(20)} == {("mail", "default")}


def test_by_weight_each_comes_first_as_often_as_its_weight_says() -> None:
    choice, rng = QueueChoice.of("mail=3,default=1"), random.Random(7)
    first = Counter(choice.order(rng)[0] for _ in range(4000))
    assert 2800 < first["mail"] < 3200
    assert first.total() == first["mail"] + first["default"]


def test_none_comes_before_the_others_where_nobody_says_so() -> None:
    choice = QueueChoice.evenly(["default", "mail", "default"])
    assert (choice.names, choice.weights) == (("default", "mail"), (1, 1))
    assert QueueChoice.evenly(["default"]) == QueueChoice()
