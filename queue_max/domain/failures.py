"""What went wrong in a job, and whether trying again may help."""

import re
import traceback
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from queue_max.domain.clock import utc_now
from queue_max.exceptions import Permanent

WORKER_DIED = "WorkerDied"
"""The error type of an attempt that ended with its worker."""

JOB_DAMAGED = "JobDamaged"
"""The error type of a job whose row is not what was stored."""

MAX_TYPE = 255
MAX_MESSAGE = 2_048
LONGEST_RETRY_AFTER = 86_400.0
MAX_TRACEBACK = 16_384

_STACK = "__queue_max_stack__"

_PHRASES = "|".join(re.escape(status.phrase) for status in HTTPStatus if status >= 400)
_STATUS_IN_TEXT = re.compile(
    # "404", "404: gone", "404 Client Error" and "404 not found", but not "404 rows updated"
    rf"^\s*(?P<leading>[45]\d\d)(?=\s*$|\s*[:,-]|\s+(?:[A-Z]|(?i:{_PHRASES})\b))"
    # "HTTP 500", "HTTP/1.1 503", "HTTP Error 404", "status code: 429", "status_code=429"
    r"|(?i:\b(?:HTTP(?:/\d(?:\.\d)?)?(?:\s+(?:error|status))?|status(?:[\s_]?code)?))"
    r"\s{0,8}[:=]?\s{0,8}(?P<named>[45]\d\d)\b"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, as it is kept: cut to a bounded size."""

    error_type: str
    message: str
    stack: str | None = None

    @classmethod
    def of(cls, error: BaseException | str) -> "Failure":
        """Describe an exception, or a reason in words."""
        if isinstance(error, str):
            return cls("Error", _storable(error)[:MAX_MESSAGE])
        name = _storable(type(error).__name__)[:MAX_TYPE]
        return cls(name, _storable(_message(error))[:MAX_MESSAGE], _stack_of(error))


def in_words(error: BaseException | str) -> str:
    """Tell an error in one text, whatever it does when it is looked at."""
    failure = Failure.of(error)
    return failure.message if isinstance(error, str) else f"{failure.error_type}: {failure.message}"


def with_stack(error: BaseException, stack: str | None) -> BaseException:
    """Give an error from another process, so that `Failure.of` tells where it arose there."""
    vars(error)[_STACK] = stack
    return error


def is_retryable_error(error: BaseException) -> bool:
    """Tell whether another attempt may succeed.

    An HTTP status decides, where the exception carries one (`status_code`, `status`, `code`,
    also of its `response`) or its text reads like one: 4xx is for good, 429 and 5xx are not.
    Errors that match no rule are worth another attempt; `Permanent` never is.
    """
    if isinstance(error, Permanent):
        return False
    status = http_status(error)
    return status is None or status == 429 or status >= 500


def is_callers_fault(error: BaseException) -> bool:
    """Tell whether the job itself was bad: then no circuit should count it."""
    return isinstance(error, Permanent) or not is_retryable_error(error)


def http_status(error: BaseException) -> int | None:
    """Find the HTTP status (400 to 599) an exception stands for, if any."""
    for bearer in (error, _attribute(error, "response")):
        for name in ("status_code", "status", "code"):
            value = _attribute(bearer, name)
            if isinstance(value, int) and 400 <= value <= 599:
                return int(value)
    found = _STATUS_IN_TEXT.search(_message(error)[:MAX_MESSAGE])
    return int(found["leading"] or found["named"]) if found else None


def retry_after(error: BaseException | str) -> float:
    """Tell how many seconds to wait, if the error says so; 0.0 if not, a day at most.

    It says so by `retry_after`, a number of seconds, or as an HTTP error with the header
    Retry-After (RFC 9110, section 10.2.3), seconds or a date.
    """
    for bearer in (error, _attribute(error, "response")):
        headers = _attribute(bearer, "headers")
        for value in (_attribute(bearer, "retry_after"), _header(headers, "Retry-After")):
            seconds = _seconds(value)
            if seconds > 0:
                return min(seconds, LONGEST_RETRY_AFTER)
    return 0.0


def _stack_of(error: BaseException) -> str | None:
    stack = _attribute(error, _STACK)
    if isinstance(stack, str):
        return stack
    if not error.__traceback__ and not error.__cause__:
        return None
    # The end of a traceback names the error; what is cut is the way there.
    return _storable("".join(traceback.format_exception(error)))[-MAX_TRACEBACK:]


def _seconds(value: object) -> float:
    """Read a number of seconds or an HTTP date; 0.0 for anything else."""
    try:
        if isinstance(value, str) and not value.strip().isdecimal():
            return (parsedate_to_datetime(value) - utc_now()).total_seconds()
        return float(value) if isinstance(value, int | float | str) else 0.0
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _header(headers: object, name: str) -> object:
    try:
        return headers.get(name)  # type: ignore[attr-defined]
    except BaseException:  # user code, or no headers at all
        return None


def _attribute(bearer: object, name: str) -> object:
    try:
        return getattr(bearer, name, None)
    except BaseException:  # user code: a property may raise anything
        return None


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # user code: a __str__ that raises must not hide the failure
        return f"<{type(error).__name__} whose text cannot be read>"


def _storable(text: str) -> str:
    """Escape what no database takes as text: lone surrogates, and NUL."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
