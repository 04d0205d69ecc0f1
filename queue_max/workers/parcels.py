"""What a worker and its child process send each other; results and errors on their way."""

import pickle
import sys
from typing import Any, NamedTuple

from queue_max import checks
from queue_max.domain.failures import Failure, http_status, retry_after, with_stack
from queue_max.domain.job import Job, JobResult
from queue_max.exceptions import JobFailedError, Permanent


class Order(NamedTuple):
    """A job that is to be run."""

    job: Job
    module: str | None
    """What is to be imported first, so that its task is known."""
    timeout: float | None
    time_left: float


class Question(NamedTuple):
    """What a function asks of the job that it runs, or tells of it."""

    name: str
    arguments: tuple[Any, ...]


class Answer(NamedTuple):
    """What came of a question."""

    value: Any = None
    error: BaseException | None = None


class Kind(NamedTuple):
    """A type of exceptions, in words."""

    module: str
    qualname: str
    bases: tuple["Kind", ...]

    @classmethod
    def of(cls, kind: type[BaseException]) -> "Kind":
        """Describe a type."""
        bases = tuple(cls.of(base) for base in kind.__bases__ if issubclass(base, BaseException))
        return cls(kind.__module__, kind.__qualname__, bases)

    def found(self) -> type[BaseException]:
        """Give the type, if this process has it; else one of the same name and descent."""
        found: Any = sys.modules.get(self.module)
        for name in self.qualname.split("."):
            found = getattr(found, name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
        return self.derived(tuple(base.found() for base in self.bases))

    def derived(self, bases: tuple[type[BaseException], ...], **more: Any) -> type[BaseException]:
        """Make a type of that name."""
        name = self.qualname.rpartition(".")[2]
        return type(name, bases, {"__module__": self.module, "__qualname__": self.qualname, **more})


class SentError(NamedTuple):
    """An exception on its way; what a retry policy asks of it arrives in any case."""

    failure: Failure
    pickled: bytes | None
    """None where it would not be the same again."""
    kind: Kind
    facts: dict[str, bytes]
    status: int | None
    retry_after: float

    @classmethod
    def of(cls, error: BaseException) -> "SentError":
        """Wrap an exception up."""
        facts = {name: _pickled(value) for name, value in vars(error).items()}
        return cls(
            Failure.of(error),
            _faithful(error),
            Kind.of(type(error)),
            {name: pickled for name, pickled in facts.items() if pickled is not None},
            http_status(error),
            retry_after(error),
        )

    def error(self) -> BaseException:
        """Give the exception, or one that takes its place, with the traceback it came with."""
        try:
            if self.pickled is not None:
                return with_stack(pickle.loads(self.pickled), self.failure.stack)  # noqa: S301
            error = self._alike(self.kind.found())
            for name, pickled in self.facts.items():
                vars(error)[name] = pickle.loads(pickled)  # noqa: S301 - from a child of ours
        except Exception:  # user code: a type may refuse to be derived from, or made like this
            error = self._alike(Exception)
        return with_stack(error, self.failure.stack)

    def _alike(self, base: type[BaseException]) -> BaseException:
        """Make an exception of the same name, which reads the same."""
        message = self.failure.message
        told: dict[str, float] = {}
        if self.status is not None:
            told["status_code"] = self.status
        if self.retry_after:
            told["retry_after"] = self.retry_after
        kind = self.kind.derived((base,), __str__=lambda _: message, **told)
        return kind.__new__(kind, message)


class Outcome(NamedTuple):
    """How a job's function has ended."""

    result: bytes = b""
    error: SentError | None = None

    @classmethod
    def of(cls, outcome: JobResult) -> "Outcome":
        """Wrap an outcome up; a result that cannot be is a failure."""
        if outcome.error is not None:
            try:
                return cls(error=SentError.of(outcome.error))
            except BaseException:  # user code: an exception may refuse even to be looked at
                return cls(error=SentError.of(JobFailedError("its error cannot be told")))
        try:
            return cls(pickle.dumps(outcome.result))
        except BaseException as error:  # user code may raise anything
            what = f"the result {checks.shown(outcome.result)} cannot leave the child process"
            return cls(error=SentError.of(Permanent(f"{what}: {type(error).__name__}: {error}")))


def _faithful(error: BaseException) -> bytes | None:
    """Pickle an exception, unless what comes out of that is another one."""
    try:
        pickled = pickle.dumps(error)
        again = pickle.loads(pickled)  # noqa: S301 - just written
        is_same = type(again) is type(error) and str(again) == str(error)
    except BaseException:  # user code may raise anything
        return None
    return pickled if is_same else None


def _pickled(value: object) -> bytes | None:
    try:
        return pickle.dumps(value)
    except BaseException:  # user code may raise anything
        return None
