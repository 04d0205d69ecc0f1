import subprocess
from email.message import Message
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest

from queue_max.domain.failures import (
    MAX_MESSAGE,
    Failure,
    http_status,
    is_callers_fault,
    is_retryable_error,
)
from queue_max.exceptions import JobTimeoutError, Permanent, QueueError


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class WordlessError(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class UnreadyError(Exception):
    """Like errors of clients that raise when asked for an answer that never came."""

    @property
    def response(self) -> object:
        raise RuntimeError("there is no response")

    @property
    def status(self) -> int:
        raise RuntimeError("there is no status")


class OutOfCredit(Permanent):
    pass


def bearing(text: str = "went wrong", **facts: Any) -> Exception:
    error = Exception(text)
    vars(error).update(facts)
    return error


def answered(text: str = "went wrong", **facts: Any) -> Exception:
    return bearing(text, response=SimpleNamespace(**facts))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def nested_errors(depth: int) -> BaseException:
    error: BaseException = raised(ValueError("the first"))
    for number in range(depth):
        try:
            raise KeyError(f"number {number}") from error
        except KeyError as caught:
            error = caught
    try:
        raise ValueError("the last") from error
    except ValueError as caught:
        return caught


@pytest.mark.parametrize(
    "text",
    [
        "404",
        "404 Not Found",
        "404: not found",
        "400 Bad Request",
        "401 unauthorized",
        "403 Forbidden",
        "422 Unprocessable Entity",
        "404 Client Error: Not Found for url: https://example.org/500",
        "404, message='Not Found', url='https://example.org'",
        "HTTP Error 404: Not Found",
        "HTTP 404",
        "HTTP/1.1 404 Not Found",
        "HTTP/2 410",
        "http status 418",
        "HTTP status code: 403",
        "status 404",
        "status: 404",
        "status_code=404",
        "statusCode: 404",
        "Request failed with status code 404",
        "the server said HTTP 404 for item 500",
    ],
)
def test_a_text_that_reads_like_a_status_of_4xx_is_not_worth_another_attempt(text: str) -> None:
    assert not is_retryable_error(Exception(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "boom",
        "404 rows updated",
        "404 row updated",
        "450 items left",
        "404 files could not be copied",
        "410 seconds without an answer",
        "450 s without an answer",
        "4040 rows",
        "400ms",
        "order 450 failed",
        "item 404 is missing",
        "timeout after 400 ms",
        "took 404 seconds",
        "HTTP 500 for item 404",
        "HTTP 503: retry after 450",
        "500 Server Error: no page 404",
        "status 500 (was 404)",
        "status of order 404 unknown",
        "id=404",
        "port 4040, HTTP 40400",
        "429",
        "429 Too Many Requests",
        "HTTP Error 429: Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "status code 503",
        "Connection timed out",
    ],
)
def test_any_other_text_is_worth_another_attempt(text: str) -> None:
    assert is_retryable_error(Exception(text))


@pytest.mark.parametrize("name", ["status_code", "status", "code"])
@pytest.mark.parametrize("bear", [bearing, answered])
@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (404, False),
        (HTTPStatus.GONE, False),
        (428, False),
        (429, True),
        (430, False),
        (499, False),
        (500, True),
        (503, True),
        (599, True),
    ],
)
def test_a_status_that_the_error_or_its_response_carries_decides(
    name: str, bear: Any, status: int, retryable: bool
) -> None:
    assert is_retryable_error(bear(**{name: status})) is retryable


def test_a_status_that_is_carried_beats_the_text() -> None:
    assert is_retryable_error(bearing("404 Not Found", status_code=503))
    assert not is_retryable_error(answered("503 Service Unavailable", status_code=404))


@pytest.mark.parametrize("value", [200, 399, 600, 4, -404, "404", 404.0, True, None])
def test_what_is_no_status_of_an_error_does_not_decide(value: object) -> None:
    assert is_retryable_error(bearing(status_code=value))
    assert not is_retryable_error(bearing("404 Not Found", status_code=value))


@pytest.mark.parametrize(
    ("status", "retryable"), [(404, False), (429, True), (500, True), (410, False)]
)
def test_errors_of_urllib_are_known(status: int, retryable: bool) -> None:
    phrase = HTTPStatus(status).phrase
    error = HTTPError("https://example.org", status, phrase, Message(), None)
    assert is_retryable_error(error) is retryable
    assert is_retryable_error(Exception(str(error))) is retryable


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        TimeoutError("timed out"),
        JobTimeoutError("ran longer than 404 s"),
        ConnectionError(),
        ConnectionResetError(104, "Connection reset by peer"),
        OSError(5, "Input/output error"),
        KeyError("name"),
        KeyError("404"),
        TypeError("unsupported operand"),
        ValueError("no"),
        QueueError("no"),
        KeyboardInterrupt(),
        SystemExit(1),
        subprocess.CalledProcessError(1, "cmd"),
        SpeechlessError(),
        WordlessError(),
        UnreadyError("went wrong"),
    ],
    ids=repr,
)
def test_an_error_that_matches_no_rule_is_worth_another_attempt(error: BaseException) -> None:
    assert is_retryable_error(error)


@pytest.mark.parametrize(
    "error", [Permanent(), Permanent("no"), Permanent("HTTP 503"), OutOfCredit("429")], ids=repr
)
def test_permanent_is_never_worth_another_attempt(error: Permanent) -> None:
    assert not is_retryable_error(error)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Exception("404 Not Found"), 404),
        (Exception("HTTP 503"), 503),
        (bearing(code=429), 429),
        (answered(status=500), 500),
        (bearing(status_code=404, response=SimpleNamespace(status_code=500)), 404),
        (Exception("boom"), None),
        (SpeechlessError(), None),
        (UnreadyError("HTTP 404"), 404),
    ],
)
def test_the_status_is_found_where_there_is_one(error: Exception, status: int | None) -> None:
    assert http_status(error) == status


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (Permanent("no"), True),
        (Exception("404 Not Found"), True),
        (Exception("429 Too Many Requests"), False),
        (Exception("500 Internal Server Error"), False),
        (TimeoutError(), False),
        (ValueError("no"), False),
    ],
    ids=repr,
)
def test_only_errors_for_good_are_the_callers_fault(error: Exception, fault: bool) -> None:
    assert is_callers_fault(error) is fault


def test_a_failure_keeps_type_text_and_traceback() -> None:
    failure = Failure.of(raised(ValueError("no such account")))
    assert (failure.error_type, failure.message) == ("ValueError", "no such account")
    assert failure.stack is not None
    assert failure.stack.startswith("Traceback (most recent call last)")
    assert "in raised" in failure.stack
    assert failure.stack.rstrip().endswith("ValueError: no such account")


def test_an_error_that_was_never_raised_has_no_traceback() -> None:
    assert Failure.of(ValueError("no")) == Failure("ValueError", "no", None)


def test_a_failure_may_be_told_in_words() -> None:
    assert Failure.of("the disk is full") == Failure("Error", "the disk is full", None)


@pytest.mark.parametrize("error", [SpeechlessError(), WordlessError(), raised(SpeechlessError())])
def test_an_error_whose_text_cannot_be_read_is_kept_by_its_type(error: Exception) -> None:
    failure = Failure.of(error)
    assert failure.error_type == type(error).__name__
    assert type(error).__name__ in failure.message


@pytest.mark.parametrize("told", [ValueError("x" * 1_000_000), "x" * 1_000_000], ids=type)
def test_a_long_text_is_cut_at_its_end(told: Exception | str) -> None:
    assert Failure.of(told).message == "x" * 2048


def test_a_long_traceback_is_cut_at_its_beginning() -> None:
    stack = Failure.of(nested_errors(200)).stack
    assert stack is not None
    assert len(stack) == 16_384
    assert stack.rstrip().endswith("ValueError: the last")


def test_a_failure_is_bounded_in_every_part() -> None:
    kind = type("X" * 1_000_000, (Exception,), {})
    failure = Failure.of(raised(kind("x" * 1_000_000)))
    assert len(failure.error_type) + len(failure.message) + len(failure.stack or "") < 20_000


@pytest.mark.parametrize("text", ["no file a\udcffb", "a\0b"], ids=["surrogate", "NUL"])
def test_a_text_that_no_database_takes_is_kept_in_one_that_all_take(text: str) -> None:
    for failure in (Failure.of(raised(OSError(text))), Failure.of(text)):
        for part in (failure.message, failure.stack or ""):
            assert "\0" not in part
            assert part.encode().decode() == part
        assert "a" in failure.message
        assert "b" in failure.message


def test_a_status_is_looked_for_in_the_part_of_a_text_that_is_kept() -> None:
    assert is_retryable_error(ValueError(" " * MAX_MESSAGE + "HTTP 404"))
    assert not is_retryable_error(ValueError("HTTP 404" + " " * MAX_MESSAGE))
