"""Errors on their way from one process to another."""

import pickle
from email.message import Message
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
from support.isolated import PageError

from queue_max import JobResult, LeaseLostError, Permanent, Retry, RetryPolicy
from queue_max.domain.failures import Failure, http_status, is_retryable_error, retry_after
from queue_max.workers.parcels import Outcome, SentError


class StrictError(Exception):
    def __init_subclass__(cls, *, why: str) -> None: ...

    def __new__(cls, one: int, two: int) -> "StrictError":
        return super().__new__(cls, one, two)


class CodedError(Exception):
    """Tells its status by a property, from what cannot be sent."""

    def __init__(self, response: object) -> None:
        super().__init__("went wrong")
        self.response = response

    @property
    def status(self) -> int:
        return int(self.response.status)  # type: ignore[attr-defined]


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def sent(error: BaseException) -> BaseException:
    parcel: SentError = pickle.loads(pickle.dumps(SentError.of(error)))
    return parcel.error()


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def a_local_error(*bases: type[BaseException]) -> BaseException:
    class LocalError(*bases): ...  # type: ignore[misc]

    class LowerError(LocalError): ...  # type: ignore[misc]

    return LowerError("only here")


def an_http_error(code: int) -> HTTPError:
    headers = Message()
    headers["Retry-After"] = "77"
    return HTTPError("http://x", code, "busy", headers, BytesIO(b"busy"))


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("k"), OSError(2, "gone", "file"), Retry(5), SystemExit(3)],
    ids=repr,
)
def test_an_error_comes_as_it_went(error: BaseException) -> None:
    came = sent(error)
    assert type(came) is type(error)
    assert (str(came), came.args) == (str(error), error.args)


def test_facts_of_an_error_come_with_it() -> None:
    came = sent(LeaseLostError(3, 1, 7))
    assert isinstance(came, LeaseLostError)
    assert (came.job_id, came.shard_id, came.fence) == (3, 1, 7)


def test_its_traceback_is_that_of_the_other_process() -> None:
    error = raised(ValueError("no"))
    stack = Failure.of(error).stack
    assert stack is not None
    assert Failure.of(raised(sent(error))) == Failure("ValueError", "no", stack)


def test_an_error_that_cannot_be_made_again_is_one_of_its_kind() -> None:
    came = sent(PageError(3))
    assert isinstance(came, PageError)
    assert (type(came).__name__, str(came), came.page) == ("PageError", "page 3", 3)


@pytest.mark.parametrize("bases", [(ConnectionError,), (PageError, LookupError)])
def test_an_error_whose_type_is_not_known_is_one_of_the_same_descent(
    bases: tuple[type[BaseException], ...],
) -> None:
    error = a_local_error(*bases)
    came = sent(error)
    assert isinstance(came, bases)
    for kind in type(error).__mro__[:-1]:
        for names in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}"):
            policy = RetryPolicy.exponential(give_up_on=names.removeprefix("builtins."))
            assert policy._objection(came, None), names
    assert str(came) == str(error)


@pytest.mark.parametrize("code", [404, 429, 503])
def test_what_a_retry_policy_asks_of_an_http_error_is_answered(code: int) -> None:
    error = an_http_error(code)
    came = sent(error)
    assert isinstance(came, HTTPError)
    assert str(came) == str(error)
    assert (http_status(came), retry_after(came)) == (code, 77)
    assert is_retryable_error(came) == is_retryable_error(error)


def test_a_status_that_hangs_on_what_cannot_be_sent_is_kept() -> None:
    response = SimpleNamespace(status=404, headers={"Retry-After": "5"}, socket=BytesIO().__iter__)
    response.itself = lambda: response
    came = sent(CodedError(response))
    assert (http_status(came), retry_after(came)) == (404, 5)


def test_an_exception_that_cannot_even_be_looked_at_arrives_as_one_that_says_so() -> None:
    class ShapelessError(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("no attributes")

    error = Outcome.of(JobResult(False, error=ShapelessError())).error
    assert error is not None
    assert str(error.error()) == "its error cannot be told"


@pytest.mark.parametrize("error", [StrictError(1, 2), SpeechlessError()], ids=repr)
def test_an_error_that_refuses_everything_keeps_at_least_its_name(error: Exception) -> None:
    came = sent(error)
    assert isinstance(came, Exception)
    assert Failure.of(came).error_type == type(error).__name__
    assert Failure.of(came).message == Failure.of(error).message


def test_an_error_that_cannot_be_read_here_is_replaced() -> None:
    parcel = SentError.of(ValueError("no"))._replace(pickled=b"no pickle")
    assert (type(parcel.error()).__name__, str(parcel.error())) == ("ValueError", "no")


@pytest.mark.parametrize("result", [None, 5, {"a": [1]}, SimpleNamespace(a=1)])
def test_a_result_comes_as_it_went(result: Any) -> None:
    outcome = Outcome.of(JobResult(success=True, result=result))
    assert outcome.error is None
    assert pickle.loads(outcome.result) == result


def test_a_result_that_cannot_be_sent_is_an_error_for_good() -> None:
    outcome = Outcome.of(JobResult(success=True, result=lambda: 5))
    assert outcome.error is not None
    assert isinstance(outcome.error.error(), Permanent)
    assert "<function" in str(outcome.error.error())
