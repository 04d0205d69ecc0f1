from typing import Any

import pytest

from queue_max.exceptions import ShardBusyError, ShardDamagedError, ShardError
from queue_max.services.shard_watch import ShardWatch

Told = list[tuple[str, dict[str, Any]]]

BAD = ShardDamagedError(1, "it is no database")


def names(told: Told) -> list[str]:
    return [event for event, _ in told]


def test_a_shard_that_refuses_is_told_of_once_and_again_when_it_serves(
    watch: ShardWatch, told: Told
) -> None:
    watch.refused(1, BAD)
    watch.refused(1, ShardError(1, "something else"))
    watch.served(1)
    watch.served(1)
    assert told == [
        ("shard_unavailable", {"shard_id": 1, "error": str(BAD)}),
        ("shard_available", {"shard_id": 1}),
    ]


def test_a_busy_shard_is_not_unavailable(watch: ShardWatch, told: Told) -> None:
    watch.refused(1, ShardBusyError(1, "others write to it"))
    assert told == []


def test_another_shard_that_serves_says_nothing_of_this_one(watch: ShardWatch, told: Told) -> None:
    watch.refused(1, BAD)
    watch.served(0)
    assert names(told) == ["shard_unavailable"]


def test_a_shard_that_cannot_be_written_to_is_not_available_since_it_can_be_read(
    watch: ShardWatch, told: Told
) -> None:
    watch.refused(1, BAD, at_reading=True)
    watch.refused(1, BAD)
    watch.served(1, at_reading=True)
    assert names(told) == ["shard_unavailable"]
    watch.served(1)
    assert names(told) == ["shard_unavailable", "shard_available"]


@pytest.mark.parametrize("at_reading", [True, False])
def test_a_shard_that_could_not_be_read_is_available_when_it_serves_in_any_way(
    watch: ShardWatch, told: Told, at_reading: bool
) -> None:
    watch.refused(1, BAD, at_reading=True)
    watch.served(1, at_reading=at_reading)
    assert names(told) == ["shard_unavailable", "shard_available"]
