from typing import Any

import pytest

from queue_max.domain.soundness import checksum, damage_of, without_damage

PAYLOAD = '{"n":1,"naïve":true}'


A_TASKS = {"task": "a.b", "checksum": checksum("u-1", PAYLOAD, "a.b")}


def row(**changes: Any) -> dict[str, Any]:
    sound = {
        "id": 7,
        "status": "pending",
        "uid": "u-1",
        "payload": PAYLOAD,
        "checksum": checksum("u-1", PAYLOAD),
        "attempts": 1,
        "max_attempts": 4,
        "retry_delay": 60,
        "priority": 0,
        "fence": 1,
        "keep_result": None,
        "timeout": None,
        "task": None,
    }
    return sound | changes


def test_a_checksum_is_the_crc_32_of_uid_and_payload() -> None:
    # The value that `python -c "import zlib; print(zlib.crc32(b'u-1\0{}'))"` gives.
    assert checksum("u-1", "{}") == 0x7994E41C


@pytest.mark.parametrize("changes", [{}, {"checksum": None}, {"keep_result": 60.0}, A_TASKS])
def test_a_row_as_it_was_stored_is_sound(changes: dict[str, Any]) -> None:
    assert damage_of(row(**changes)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"payload": PAYLOAD.replace("1", "3")}, "not the one that was stored"),
        ({"uid": "u-3"}, "not the one that was stored"),
        ({"task": "a.b"}, "not the one that was stored"),
        ({"task": 5}, "its task is not a text"),
        ({"checksum": 5}, "not the one that was stored"),
        ({"payload": b"{}"}, "not a text"),
        ({"payload": 5}, "not a text"),
        ({"uid": None}, "not a text"),
        ({"attempts": "1"}, "its attempts is not a whole number"),
        ({"fence": None}, "its fence is not a whole number"),
        ({"status": "peNding"}, "its status is none there is"),
        ({"keep_result": "long"}, "its keep_result is not a number"),
        ({"timeout": "long"}, "its timeout is not a number"),
    ],
)
def test_what_is_damaged_in_a_row_is_named(changes: dict[str, Any], said: str) -> None:
    damaged = row(**changes)
    assert said in str(damage_of(damaged))
    readable = without_damage(damaged)
    assert readable["payload"] == "{}"
    assert all(isinstance(readable[name], int) for name in ("id", "attempts", "fence"))
