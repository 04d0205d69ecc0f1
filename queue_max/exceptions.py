"""Every error raised on purpose.

QueueError
├── QueueClosedError            the queue was closed before
├── ConfigurationError          a setting or an argument of a constructor (also a ValueError)
│   └── QueueNotFoundError          no queue lies where one was to be opened
├── InvalidJobError             a job that cannot be accepted (also a ValueError)
│   └── PayloadError                its payload is not a strict JSON object
├── ShardError                  a shard that cannot serve (carries shard_id)
│   ├── ShardBusyError              another writer held it past the busy timeout
│   ├── ShardDamagedError           its file is not a sound database
│   ├── ShardMissingError           its file is gone
│   ├── ShardNotFoundError          no shard has that number (also a LookupError)
│   ├── QueueFullError              the queue, or the disk, has no room (carries retry_after)
│   ├── PartialBatchError           it refused its part of a batch (carries total, stored)
│   └── SchemaError                 its tables are older or newer than this code
├── JobNotFoundError            no such job
├── ScheduleNotFoundError       no schedule has that name
├── LeaseLostError              the job is not, or no longer, run under this fence
├── ResultNotKeptError          the job's result is not, no longer, or will not be kept
├── JobFailedError              the job whose result was asked for has failed
│   ├── JobTimeoutError             it ran longer than it may (also a TimeoutError)
│   └── ProcessDiedError            the child process that ran it ended before it did
├── RateLimitError              no token in time (carries retry_after)
├── CircuitBreakerOpenError     the circuit is open (carries retry_after)
└── JobSignal                   raised or returned by user code, on the job it runs
    ├── Permanent                   bury it: another attempt would fail as well
    ├── Retry                       let it be tried again, after some time
    ├── Snooze                      run it later; this was no attempt
    └── Cancel                      end it as cancelled
"""

from collections.abc import Mapping, Sequence
from typing import Any


class QueueError(Exception):
    """Anything that goes wrong in Queue Max."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew without __init__, which takes facts where args holds the message.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[QueueError], args: tuple[Any, ...], facts: dict[str, Any]) -> QueueError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class QueueClosedError(QueueError):
    """The queue has been closed."""

    def __init__(self) -> None:
        super().__init__("the queue has been closed; open a new one")


class ConfigurationError(QueueError, ValueError):
    """A setting or an argument has a value that is not allowed."""


class QueueNotFoundError(ConfigurationError):
    """There is no queue in the data directory, and none was to be made."""


class InvalidJobError(QueueError, ValueError):
    """A job cannot be accepted as it is; nothing was stored."""


class PayloadError(InvalidJobError):
    """A payload is not a JSON object within the limits; nothing was stored."""


class ShardError(QueueError):
    """A shard cannot serve; `shard_id` is None for the control database."""

    def __init__(self, shard_id: int | None, what: str) -> None:
        super().__init__(f"{self._where(shard_id)}{what}")
        self.shard_id = shard_id
        self.what = what

    def _where(self, shard_id: int | None) -> str:
        return "control database: " if shard_id is None else f"shard {shard_id}: "


class ShardBusyError(ShardError):
    """Another writer held the shard for longer than the busy timeout."""


class ShardDamagedError(ShardError):
    """The shard's file is not a sound database."""


class ShardMissingError(ShardError):
    """The shard's file should exist and does not."""


class QueueFullError(ShardError):
    """There is no room for more on the disk, or within `max_pending`; nothing was stored.

    `retry_after` says in about how many seconds there may be, as fast as jobs left lately; 1.0
    where nothing is known of that. `shard_id` is None when no shard was asked.
    """

    def __init__(self, shard_id: int | None, what: str, retry_after: float = 1.0) -> None:
        super().__init__(shard_id, what)
        self.retry_after = retry_after

    def _where(self, shard_id: int | None) -> str:
        return "" if shard_id is None else super()._where(shard_id)


class ShardNotFoundError(ShardError, LookupError):
    """No shard has that number."""


class PartialBatchError(ShardError):
    """A part of a batch or a file was refused, as by a shard, after `total` other jobs were stored.

    `stored` are their handles; of a file, only `total` is known.
    """

    def __init__(
        self,
        refusal: QueueError,
        total: int,
        stored: Sequence[Mapping[str, int]] = (),
    ) -> None:
        shard_id = getattr(refusal, "shard_id", None)
        what = getattr(refusal, "what", str(refusal))
        super().__init__(shard_id, f"{what}; {total} other jobs are stored")
        self.total = total
        self.stored = stored

    def _where(self, shard_id: int | None) -> str:
        return "" if shard_id is None else super()._where(shard_id)


class SchemaError(ShardError):
    """The shard's tables are not those this code works with."""


class JobNotFoundError(QueueError):
    """There is no such job."""


class ScheduleNotFoundError(QueueError):
    """No schedule has that name."""


class LeaseLostError(QueueError):
    """The job is not, or no longer, run under the fence that was named; nothing was changed."""

    def __init__(self, job_id: int, shard_id: int, fence: int) -> None:
        super().__init__(
            f"job {job_id} in shard {shard_id} is no longer run under fence {fence}: "
            "it was finished, or given to another worker"
        )
        self.job_id = job_id
        self.shard_id = shard_id
        self.fence = fence


class ResultNotKeptError(QueueError):
    """A job's result was not asked to be kept, could not be, or was not for long enough."""


class JobFailedError(QueueError):
    """A job failed."""


class JobTimeoutError(JobFailedError, TimeoutError):
    """A job ran longer than its time limit."""


class ProcessDiedError(JobFailedError):
    """The child process that ran a job ended before the job did."""


class RateLimitError(QueueError):
    """No token became available in time; `retry_after` says in how many seconds one will."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CircuitBreakerOpenError(QueueError):
    """The circuit is open; `retry_after` says in how many seconds a probe may pass."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _checked_wait(after: float) -> float:
    if not isinstance(after, int | float) or not after >= 0:
        raise ConfigurationError(f"after={after!r}: should be 0 seconds or more")
    return float(after)


class JobSignal(QueueError):  # noqa: N818 - these are what user code raises, not faults
    """What a job's function may raise, or return, to say what becomes of the job."""


class Permanent(JobSignal):
    """Bury the job at once: another attempt would fail as well."""


class Retry(JobSignal):
    """The attempt failed; the next one comes `after` seconds, or when the retry policy says."""

    def __init__(self, after: float | None = None, reason: str = "asked to be tried again") -> None:
        super().__init__(reason)
        self.after = None if after is None else _checked_wait(after)


class Snooze(JobSignal):
    """Run the job again `after` seconds; this run counts neither as an attempt nor as a failure."""

    def __init__(self, after: float, reason: str = "snoozed") -> None:
        super().__init__(reason)
        self.after = _checked_wait(after)


class Cancel(JobSignal):
    """End the job as cancelled: there is nothing to do any more."""

    def __init__(self, reason: str = "cancelled by its function") -> None:
        super().__init__(reason)
