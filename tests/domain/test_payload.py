import json
import math
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queue_max.domain import json_text
from queue_max.domain.job import JobPriority
from queue_max.domain.payload import check_job, to_json
from queue_max.exceptions import InvalidJobError, PayloadError

TEN_MIB = 10 * 1024 * 1024
FRAME = len('{"a":""}')

Point = namedtuple("Point", "x y")


@pytest.fixture(
    autouse=True,
    scope="module",
    params=[
        pytest.param(
            True,
            id="orjson",
            marks=pytest.mark.skipif(json_text.orjson is None, reason="not installed"),
        ),
        pytest.param(False, id="standard library"),
    ],
)
def _writer(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever writes the JSON: all that is said here holds."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr(json_text, "orjson", None)
        yield


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 9


class Plain(Enum):
    ONE = 1


class Text(str):
    __slots__ = ()


class Number(float):
    pass


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def nested(levels: int, leaf: object = 1) -> dict[str, Any]:
    payload: Any = leaf
    for _ in range(levels):
        payload = {"n": payload}
    return payload  # type: ignore[no-any-return]


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def check(**arguments: Any) -> Any:
    return check_job(**{"payload": {}, "max_retries": 3} | arguments)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({}, "{}"),
        ({"a": 1, "b": [True, None, 0.5]}, '{"a":1,"b":[true,null,0.5]}'),
        ({"a": (1, (2,))}, '{"a":[1,[2]]}'),
        ({"é": "ü €"}, '{"é":"ü €"}'),
        ({"a": "\0"}, r'{"a":"\u0000"}'),
        ({"a": Size.BIG}, '{"a":9}'),
        ({"a": Colour.RED}, '{"a":"red"}'),
        ({Colour.RED: 1}, '{"red":1}'),
        ({"a": Text("x")}, '{"a":"x"}'),
        ({"a": Number(0.5)}, '{"a":0.5}'),
        ({"a": Point(1, 2)}, '{"a":[1,2]}'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        ({"a": defaultdict(list, b=[1])}, '{"a":{"b":[1]}}'),
    ],
)
def test_a_payload_is_written_as_compact_json(payload: dict[str, Any], text: str) -> None:
    assert to_json(payload) == text


@settings(derandomize=True, deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_what_is_written_reads_back_the_same_and_is_strict_json(payload: dict[str, Any]) -> None:
    text = to_json(payload)
    assert json.loads(text, parse_constant=refuse_constant) == payload
    assert "\0" not in text
    assert "\n" not in text


@pytest.mark.parametrize("payload", [{"a": "\ud800"}, {"\udfff": 1}, {"é": ["\udc80", "ü"]}])
def test_a_lone_surrogate_is_carried_escaped(payload: dict[str, Any]) -> None:
    text = to_json(payload)
    assert text.isascii()
    assert json.loads(text) == payload


@pytest.mark.parametrize(
    "payload", [None, [], [("a", 1)], "{}", b"{}", 1, MappingProxyType({"a": 1})]
)
def test_a_payload_that_is_not_a_dict_is_refused_by_its_type(payload: object) -> None:
    with pytest.raises(PayloadError, match=rf"^payload: .*dict, not {type(payload).__name__}$"):
        to_json(payload)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        Number("nan"),
        b"x",
        bytearray(b"x"),
        {1},
        frozenset(),
        1j,
        object(),
        datetime(2026, 1, 1, tzinfo=UTC),
        Decimal(1),
        Path("x"),
        uuid.UUID(int=1),
        Plain.ONE,
        MappingProxyType({}),
        range(3),
        len,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    ("at", "path"),
    [
        (lambda value: {"a": value}, "payload['a']: "),
        (lambda value: {"a": [0, value]}, "payload['a'][1]: "),
        (lambda value: {"ok": 1, "a": {"b c": (value,)}}, "payload['a']['b c'][0]: "),
    ],
    ids=["value", "item", "deep"],
)
def test_a_value_that_is_not_json_is_refused_with_its_path(
    value: object, at: Any, path: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        to_json(at(value))
    assert str(caught.value).startswith(path)
    assert type(value).__name__ in str(caught.value)


@pytest.mark.parametrize("key", [1, 1.5, None, True, b"k", ("a", 1), Size.BIG], ids=repr)
@pytest.mark.parametrize(
    ("at", "path"),
    [
        (lambda key: {key: 1}, "payload: "),
        (lambda key: {"a": [{key: 1}]}, "payload['a'][0]: "),
    ],
    ids=["top", "deep"],
)
def test_a_key_that_is_not_a_str_is_refused_with_its_path(key: object, at: Any, path: str) -> None:
    with pytest.raises(PayloadError) as caught:
        to_json(at(key))
    assert str(caught.value).startswith(f"{path}key {key!r} ")


@pytest.mark.parametrize("leaf", [1, "x", None])
def test_twenty_levels_are_taken(leaf: object) -> None:
    assert json.loads(to_json(nested(20, leaf))) == nested(20, leaf)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(nested(21), id="21 dicts"),
        pytest.param(nested(20, []), id="20 dicts and an empty list"),
        pytest.param(nested(20, {}), id="20 dicts and an empty dict"),
        pytest.param({"a": 1, "b": nested(18, (1,)), "c": nested(20)}, id="one branch of three"),
        pytest.param(nested(200_000), id="200000 dicts"),
    ],
)
def test_a_level_more_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(PayloadError, match=r"^payload\['[nc]'\].*: nested deeper than 20 levels$"):
        to_json(payload)


def test_a_payload_that_holds_itself_is_refused() -> None:
    payload: dict[str, Any] = {}
    payload["self"] = [payload]
    with pytest.raises(PayloadError, match="20 levels"):
        to_json(payload)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * (TEN_MIB - FRAME), id="ASCII"),
        pytest.param("é" * ((TEN_MIB - FRAME) // 2), id="two bytes a character"),
        pytest.param("\ud800" + "x" * (TEN_MIB - FRAME - 6), id="a surrogate, six escaped"),
    ],
)
def test_exactly_ten_mib_are_taken_and_a_byte_more_is_refused(text: str) -> None:
    written = to_json({"a": text})
    assert len(written.encode()) == TEN_MIB
    with pytest.raises(PayloadError, match=r"^payload: 10,485,761 bytes .* 10,485,760 "):
        to_json({"a": text + "x"})


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**3900], ids=int.bit_length)
def test_large_whole_numbers_are_taken(number: int) -> None:
    assert json.loads(to_json({"n": number})) == {"n": number}


@pytest.mark.parametrize("number", [2**14_500, -(10**5000), 2**1_000_000], ids=int.bit_length)
def test_a_whole_number_that_python_cannot_write_is_refused_with_its_path(number: int) -> None:
    with pytest.raises(PayloadError, match=r"^payload\['n'\]\[0\]: .*too long"):
        to_json({"n": [number]})


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"a": b"x" * 1_000_000}, id="value"),
        pytest.param({b"x" * 1_000_000: 1}, id="key"),
        pytest.param({"x" * 1_000_000: math.nan}, id="path"),
    ],
)
def test_a_refusal_does_not_repeat_a_megabyte(payload: dict[Any, Any]) -> None:
    with pytest.raises(PayloadError) as caught:
        to_json(payload)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"a": Unshowable()}, id="value"),
        pytest.param({Unshowable(): 1}, id="key"),
        pytest.param({10**5000: 1}, id="number as key"),
        pytest.param({"a": {10**5000}}, id="number in a set"),
    ],
)
def test_a_value_that_cannot_be_shown_is_refused_all_the_same(payload: dict[Any, Any]) -> None:
    with pytest.raises(PayloadError, match=r"^payload"):
        to_json(payload)


def test_a_payload_error_is_a_value_error_and_an_invalid_job() -> None:
    assert issubclass(PayloadError, InvalidJobError)
    assert issubclass(PayloadError, ValueError)


def test_a_checked_job_has_the_defaults_of_the_contract() -> None:
    job = check(payload={"n": 1}, max_retries=3)
    assert (job.payload, job.pagina_id, job.priority) == ('{"n":1}', None, 0)
    assert (job.max_attempts, job.retry_delay, job.queue) == (4, 60, "default")


def test_each_checked_job_has_a_uid_of_its_own() -> None:
    first, second = check(), check()
    assert uuid.UUID(first.uid) != uuid.UUID(second.uid)


def test_a_bad_payload_is_refused_before_anything_else_is_looked_at() -> None:
    with pytest.raises(PayloadError, match=r"payload\['a'\]"):
        check(payload={"a": {1}}, priority=9)


@pytest.mark.parametrize(
    ("name", "field", "value", "kept"),
    [
        ("priority", "priority", 0, 0),
        ("priority", "priority", 2, 2),
        ("priority", "priority", JobPriority.HIGH, 2),
        ("pagina_id", "pagina_id", None, None),
        ("pagina_id", "pagina_id", 0, 0),
        ("pagina_id", "pagina_id", -5, -5),
        ("pagina_id", "pagina_id", 2**63 - 1, 2**63 - 1),
        ("pagina_id", "pagina_id", -(2**63 - 1), -(2**63 - 1)),
        ("pagina_id", "pagina_id", Size.BIG, 9),
        ("max_retries", "max_attempts", 0, 1),
        ("max_retries", "max_attempts", 1000, 1001),
        ("retry_delay", "retry_delay", 0, 0),
        ("retry_delay", "retry_delay", 86_400, 86_400),
    ],
)
def test_a_good_argument_is_kept_as_a_plain_number(
    name: str, field: str, value: object, kept: int | None
) -> None:
    found = getattr(check(**{name: value}), field)
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("priority", value) for value in (True, False, 1.0, "1", 3, -1, None, math.nan)),
        *(("pagina_id", value) for value in (0.5, 1.0, "abc", "1", "%d", True, 2**70, -(2**70))),
        *(("pagina_id", value) for value in (2**63, -(2**63) - 1, [1], b"1")),
        *(("max_retries", value) for value in (-1, True, False, 1.0, "3", None, 1001, math.inf)),
        *(("retry_delay", value) for value in (-1, True, 0.5, "60", None, 2**63)),
    ],
)
def test_a_bad_argument_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(InvalidJobError) as caught:
        check(**{name: value})
    assert str(caught.value).startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize("name", ["priority", "pagina_id", "max_retries", "retry_delay"])
def test_a_number_too_long_to_be_shown_is_refused_all_the_same(name: str) -> None:
    with pytest.raises(InvalidJobError, match=rf"^{name}="):
        check(**{name: 10**5000})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("priority", 3, "from 0 to 2"),
        ("max_retries", -1, "from 0 to 1000"),
        ("priority", "1", "a whole number, not str"),
        ("priority", True, "a whole number, not bool"),
    ],
)
def test_a_refusal_says_what_is_allowed(name: str, value: object, allowed: str) -> None:
    with pytest.raises(InvalidJobError, match=allowed):
        check(**{name: value})
