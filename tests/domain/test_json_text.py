import json
from typing import Any

import pytest

from queue_max.domain import json_text

either = pytest.mark.parametrize("is_fast", [True, False], ids=["orjson", "standard library"])


@either
@pytest.mark.parametrize(
    "rows",
    [
        [[1, "text", None, 2**63 - 1, -(2**63), 0.1, 1e308]],
        [["\ud800", "\n", "\x00", "é"]],
        [],
    ],
)
def test_rows_are_read_as_they_were_written(
    monkeypatch: pytest.MonkeyPatch, is_fast: bool, rows: Any
) -> None:
    if not is_fast:
        monkeypatch.setattr(json_text, "orjson", None)
    assert json_text.read_rows(json.dumps(rows)) == rows


@either
def test_what_is_no_json_is_a_value_error(monkeypatch: pytest.MonkeyPatch, is_fast: bool) -> None:
    if not is_fast:
        monkeypatch.setattr(json_text, "orjson", None)
    with pytest.raises(ValueError, match="char"):
        json_text.read_rows('[[1, "half')
