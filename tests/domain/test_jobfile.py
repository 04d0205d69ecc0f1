import csv
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from queue_max.domain.jobfile import Format, read_jobs
from queue_max.domain.payload import MAX_BYTES
from queue_max.exceptions import InvalidJobError

Read = Callable[[str | bytes], list[tuple[int, Any]]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "jobs"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def read_jsonl(write: Callable[[str | bytes], Path]) -> Read:
    return lambda content: list(read_jobs(write(content), Format.JSONL))


@pytest.fixture
def read_csv(write: Callable[[str | bytes], Path]) -> Read:
    return lambda content: list(read_jobs(write(content), Format.CSV))


def bad_lines(items: list[tuple[int, Any]]) -> list[int]:
    return [line for line, item in items if isinstance(item, InvalidJobError)]


def good_items(items: list[tuple[int, Any]]) -> list[Any]:
    return [item for _, item in items if not isinstance(item, InvalidJobError)]


def test_the_formats_have_the_names_of_the_contract() -> None:
    assert [str(each) for each in Format] == ["jsonl", "csv"]


def test_each_line_of_jsonl_gives_the_arguments_of_a_job(read_jsonl: Read) -> None:
    items = read_jsonl('{"payload": {"n": 1}, "priority": 2}\n{"payload": {}}\n')
    assert items == [(1, {"payload": {"n": 1}, "priority": 2}), (2, {"payload": {}})]


def test_the_last_line_needs_no_end(read_jsonl: Read) -> None:
    assert read_jsonl('{"payload": {}}') == [(1, {"payload": {}})]


def test_empty_lines_are_passed_over_but_counted(read_jsonl: Read) -> None:
    assert [line for line, _ in read_jsonl('\n{}\n  \t\n\n{"a": 1}\n\n')] == [2, 5]


def test_lines_may_end_as_on_windows(read_jsonl: Read) -> None:
    assert read_jsonl('{"a": 1}\r\n\r\n{"a": 2}\r\n') == [(1, {"a": 1}), (3, {"a": 2})]


def test_a_line_separator_of_unicode_ends_no_line(read_jsonl: Read) -> None:
    assert read_jsonl('{"a": "x\u2028y\u0085z"}\n') == [(1, {"a": "x\u2028y\u0085z"})]


@pytest.mark.parametrize("content", ["", "\n", "\ufeff"])
def test_an_empty_file_of_jsonl_holds_no_jobs(read_jsonl: Read, content: str) -> None:
    assert read_jsonl(content) == []


def test_a_byte_order_mark_is_no_part_of_the_first_line(read_jsonl: Read, read_csv: Read) -> None:
    assert read_jsonl('\ufeff{"a": 1}\n') == [(1, {"a": 1})]
    assert good_items(read_csv("\ufeffname\nx\n")) == [{"payload": {"name": "x"}, "priority": 0}]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{'a': 1}", id="quotes of Python"),
        pytest.param('{"a": 1', id="cut off"),
        pytest.param('{"a": 1} {"a": 2}', id="two in a line"),
        pytest.param("\ufeff{}", id="a mark in the middle"),
        pytest.param('{"a": ' + "9" * 5000 + "}", id="a number too long"),
        pytest.param("[" * 200_000, id="nested without end"),
    ],
)
def test_a_bad_line_comes_as_an_error_and_reading_goes_on(read_jsonl: Read, line: str) -> None:
    items = read_jsonl(f'{{"a": 1}}\n{line}\n{{"a": 3}}\n')
    assert bad_lines(items) == [2]
    assert str(items[1][1]).startswith("not JSON: ")
    assert [(n, item) for n, item in items if n != 2] == [(1, {"a": 1}), (3, {"a": 3})]


@pytest.mark.parametrize(
    ("file_format", "content"),
    [
        (Format.JSONL, '\n{"name": "Ada"}\n{"name": "Müller"}\n{"name": "Bob"}\n'),
        (Format.CSV, "name,n\nAda,1\nMüller,2\nBob,3\n"),
        (Format.CSV, 'name,n\nAda,1\n"Mül\nler",2\nBob,3\n'),
    ],
)
def test_a_line_that_is_not_utf_8_is_one_bad_line(
    write: Callable[[str | bytes], Path], file_format: Format, content: str
) -> None:
    items = list(read_jobs(write(content.encode("latin-1")), file_format))
    assert [isinstance(item, InvalidJobError) for _, item in items] == [False, True, False]
    assert bad_lines(items) == [content.count("\n") - 1]
    assert str(items[1][1]) == "is not UTF-8: byte 0xfc"


@pytest.mark.parametrize("file_format", Format)
def test_a_file_is_read_line_by_line(
    write: Callable[[str | bytes], Path], file_format: Format
) -> None:
    path = write(b'{"a": 1}\n' * 100_000)
    items = read_jobs(path, file_format)
    next(items)
    path.write_bytes(b"")
    assert len(list(islice(items, 100_000))) < 50_000


def test_a_file_that_is_not_there_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_jobs(tmp_path / "none", Format.JSONL))


def test_each_row_of_csv_is_a_payload_by_the_header(read_csv: Read) -> None:
    assert read_csv("to,n\nann,1\nbob,2\n") == [
        (2, {"payload": {"to": "ann", "n": "1"}, "priority": 0}),
        (3, {"payload": {"to": "bob", "n": "2"}, "priority": 0}),
    ]


@pytest.mark.parametrize(("written", "priority"), [("2", 2), (" 1 ", 1), ("", 0), ("7", 7)])
def test_a_column_priority_is_the_jobs_and_stays_in_the_payload(
    read_csv: Read, written: str, priority: int
) -> None:
    assert read_csv(f"n,priority\n1,{written}\n") == [
        (2, {"payload": {"n": "1", "priority": written}, "priority": priority})
    ]


@pytest.mark.parametrize("priority", ["high", "1.5", "True"])
def test_a_priority_that_is_no_number_is_an_error(read_csv: Read, priority: str) -> None:
    items = read_csv(f"n,priority\n1,{priority}\n2,1\n")
    assert bad_lines(items) == [2]
    assert f"priority='{priority}'" in str(items[0][1])
    assert len(good_items(items)) == 1


@pytest.mark.parametrize("row", ["1", "1,2,3", "1,2,"])
def test_a_row_with_too_few_or_too_many_columns_is_an_error(read_csv: Read, row: str) -> None:
    items = read_csv(f"a,b\n1,2\n{row}\n3,4\n")
    assert bad_lines(items) == [3]
    assert "columns" in str(items[1][1])
    assert [item["payload"]["a"] for item in good_items(items)] == ["1", "3"]


def test_cells_may_hold_commas_quotes_and_line_ends(read_csv: Read) -> None:
    items = read_csv('a,b\n"x, ""y""\nz",1\nlast,2\n')
    assert [item["payload"]["a"] for item in good_items(items)] == ['x, "y"\nz', "last"]
    assert items[-1][0] == 4


def test_line_ends_in_a_cell_are_kept_as_they_are(read_csv: Read) -> None:
    assert good_items(read_csv('a\r\n"x\r\ny\nz"\r\n'))[0]["payload"] == {"a": "x\r\ny\nz"}


def test_empty_rows_of_csv_are_passed_over_but_counted(read_csv: Read) -> None:
    assert [line for line, _ in read_csv("a\n\n1\n\n\n2\n")] == [3, 6]


def test_rows_may_end_as_on_windows(read_csv: Read) -> None:
    assert [item["payload"] for item in good_items(read_csv("a,b\r\n1,2\r\n"))] == [
        {"a": "1", "b": "2"}
    ]


@pytest.mark.parametrize(
    ("rows", "stop"),
    [
        pytest.param('"x"y,2\n3,4\n', 4, id="text after a quote"),
        pytest.param('"x,2\n3,4\n', 5, id="a quote that is never closed"),
        pytest.param('"x"y","3\n4,5\n6","7"\n8,9\n', 4, id="a quote that is not doubled"),
        pytest.param(f"{'x' * (MAX_BYTES + 1)},2\n3,4\n", 4, id="a cell longer than any payload"),
    ],
)
def test_a_file_ends_with_the_row_that_is_not_csv(
    write: Callable[[str | bytes], Path], rows: str, stop: int
) -> None:
    """Where a row ends that is not CSV, and the next one begins, nobody knows."""
    items = read_jobs(write(f"a,b\n1,2\n\n{rows}"), Format.CSV)
    assert next(items) == (2, {"payload": {"a": "1", "b": "2"}, "priority": 0})
    with pytest.raises(
        InvalidJobError, match=rf"^line {stop}: not CSV: .*; from line 3 on nothing was read$"
    ):
        next(items)
    assert list(items) == []


@pytest.mark.parametrize(
    "header",
    [
        pytest.param('"a"x,b', id="no CSV"),
        pytest.param("a,b,a", id="two columns of one name"),
        pytest.param("a,\xff", id="no UTF-8"),
    ],
)
def test_no_row_is_read_by_a_header_that_cannot_be_read(read_csv: Read, header: str) -> None:
    with pytest.raises(InvalidJobError, match=r"^line 1: .*; from line 1 on nothing was read$"):
        read_csv(f"{header}\n1,2\n3,4\n".encode("latin-1"))


@pytest.mark.parametrize("length", [200_000, MAX_BYTES])
def test_a_cell_may_be_as_long_as_a_payload(read_csv: Read, length: int) -> None:
    [(line, item)] = read_csv(f"a\n{'x' * length}\n")
    assert (line, len(item["payload"]["a"])) == (2, length)


def test_while_a_row_is_worked_on_other_readers_of_csv_have_their_own_limit(
    write: Callable[[str | bytes], Path],
) -> None:
    usual = 131_072
    csv.field_size_limit(usual)
    path = write("a\n1\n2\n")
    assert [csv.field_size_limit() for _ in read_jobs(path, Format.CSV)] == [usual] * 2
    path = write('a\n1\n"x"y\n')
    with pytest.raises(InvalidJobError):
        list(read_jobs(path, Format.CSV))
    assert csv.field_size_limit() == usual


@pytest.mark.parametrize("content", ["", "a,b\n", "\n\n"])
def test_a_file_of_csv_without_rows_holds_no_jobs(read_csv: Read, content: str) -> None:
    assert read_csv(content) == []
