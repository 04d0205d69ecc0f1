"""JSON as text: by orjson where it is installed (the extra `fast`), else by the standard library.

Both take the same values. Payloads are read by the standard library always: orjson turns whole
numbers of more than 64 bits into floats, and looking for them takes longer than it saves.
"""

import json
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def write(value: Any) -> bytes:
    """Write a value that is JSON, as UTF-8; a lone surrogate, which has no form there, escaped."""
    if orjson is not None:
        try:
            return orjson.dumps(value)
        except TypeError:  # large whole numbers, subclasses of str as keys, lone surrogates
            pass
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def read_rows(text: str) -> Any:
    """Read what SQLite has put together: its whole numbers have 64 bits."""
    if orjson is not None:
        try:
            return orjson.loads(text)
        except ValueError:  # half of an escaped pair, say
            pass
    return json.loads(text)
