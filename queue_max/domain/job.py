"""Job: what a worker is given, and what callers see of it."""

import asyncio
import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar

from queue_max.domain.clock import from_text, to_text, utc_now
from queue_max.domain.failures import WORKER_DIED
from queue_max.exceptions import JobFailedError, QueueError

DEFAULT_QUEUE = "default"
DEFAULT_RETRY_DELAY = 60
NO_DELAY = 0.0

LOOKS = (0.005, 0.1)
"""Seconds between two looks for a result: at first, and at most."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OLD_NAMES = {
    "tentativas": "attempts",
    "max_tentativas": "max_attempts",
    "partition_key": "pagina_id",
}

_SINCE_1_0 = {
    "uid",
    "fence",
    "queue",
    "retry_policy",
    "keep_result",
    "result",
    "damage",
    "task",
    "held_by",
    "concurrency_key",
    "rate_key",
    "breaker",
}


class JobStatus(StrEnum):
    """Where a job is in its life."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    """Due later, or held back."""
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobPriority(IntEnum):
    """How urgent a job is; the higher number goes first."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2

    @classmethod
    def from_int(cls, value: int) -> "JobPriority":
        """Read a number; one that names no priority counts as MEDIUM."""
        return cls(value) if value in tuple(cls) else cls.MEDIUM


_STATUSES = {str(each): each for each in JobStatus}
_PRIORITIES = {int(each): each for each in JobPriority}


class JobHandle(dict[str, int]):
    """What `enqueue` returns: a dict of exactly `id` and `shard_id` that knows a little more."""

    def __init__(self, job_id: int, shard_id: int, uid: str, *, created: bool = True) -> None:
        super().__init__(id=job_id, shard_id=shard_id)
        self.uid = uid
        self.created = created
        """False when the job existed already."""
        self._ask: Callable[[JobHandle, float | None], Any] | None = None

    @property
    def key(self) -> str:
        """The job's name among all shards, "<shard>-<uid>"."""
        return f"{self['shard_id']}-{self.uid}"

    def asking(self, ask: "Callable[[JobHandle, float | None], Any]") -> Self:
        """Let `result` ask there; gives itself."""
        self._ask = ask
        return self

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the job's end; gives what its function returned, as `Queue.get_result` does."""
        if self._ask is None:
            raise QueueError("this handle was copied: ask the queue, by get_result(handle.key)")
        return self._ask(self, timeout)

    async def aresult(self, timeout: float | None = None) -> Any:
        """As `result`, to be awaited; no thread waits meanwhile."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause, longest = LOOKS
        while True:
            try:
                return await asyncio.to_thread(self.result, 0)
            except JobFailedError:
                raise
            except TimeoutError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"job {self.key} has not ended within {timeout} s") from None
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, longest)

    def __reduce__(self) -> tuple[Any, ...]:
        # As plain facts: another process has another queue to ask.
        return _handle, (self["id"], self["shard_id"], self.uid, self.created)


def _handle(job_id: int, shard_id: int, uid: str, created: bool) -> JobHandle:
    return JobHandle(job_id, shard_id, uid, created=created)


class Lease(NamedTuple):
    """One run of a job: the claim a worker has to it until the job ends or the lease is lost."""

    shard_id: int
    job_id: int
    fence: int


class NewJob(NamedTuple):
    """A job that is checked, and not stored yet; `payload` is its JSON text."""

    payload: str
    uid: str
    max_attempts: int
    pagina_id: int | None = None
    priority: int = 0
    retry_delay: int = DEFAULT_RETRY_DELAY
    queue: str = DEFAULT_QUEUE
    retry_policy: str | None = None
    """Of its own, as it is stored; else that of the queue holds."""
    run_at: datetime | None = None
    """Not to be run before that moment."""
    delay: float = 0.0
    """Seconds from now for which it is not to be run."""
    unique_key: str | None = None
    unique_for: float | None = None
    """Seconds for which the key is taken; None for as long as the job lives."""
    keep_result: float | None = None
    """Seconds for which the job is kept with its result once it is done."""
    task: str | None = None
    """The name of the function that is to run it; None for what workers are given as theirs."""
    timeout: float | None = None
    """Seconds that one attempt may take."""
    concurrency_key: str | None = None
    """Of the jobs with one such key, a limited number runs at a time."""
    rate_key: str | None = None
    """The jobs with one such key start at a limited rate."""
    breaker: str | None = None
    """The circuit breaker it is behind, beside that of its queue."""
    fence: int = 0
    """The last one under which it was run before, in a row that is gone."""

    @property
    def is_bound(self) -> bool:
        """Whether it belongs to one shard; else any will do."""
        return any(
            each is not None for each in (self.concurrency_key, self.pagina_id, self.unique_key)
        )


def _with_old_names(init: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a constructor take the names that fields had in the 0.1 and 0.2 API."""

    @functools.wraps(init)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for old in _OLD_NAMES.keys() & kwargs.keys():
            kwargs[_OLD_NAMES[old]] = kwargs.pop(old)
        return init(*args, **kwargs)

    return wrapper


@dataclass
class Job:
    """One job, as it stood when it was read; changing it changes nothing that is stored."""

    id: int
    """Unique in its shard, never given twice."""
    payload: dict[str, Any]
    pagina_id: int | None = None
    status: JobStatus = JobStatus.PENDING
    priority: JobPriority = JobPriority.MEDIUM
    attempts: int = 0
    """Attempts made, the running one included."""
    max_attempts: int = 3
    retry_delay: int = DEFAULT_RETRY_DELAY
    """Base of the waits between attempts, in seconds."""
    last_error: str | None = None
    error_type: str | None = None
    error_stack: str | None = None
    worker_id: str | None = None
    heartbeat: str | None = None
    created_at: str | None = field(default_factory=lambda: to_text(utc_now()))
    """None means now."""
    started_at: str | None = None
    completed_at: str | None = None
    next_retry_at: str | None = None
    shard_id: int = 0
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    parent_job_id: int | None = None
    timeout_seconds: float | None = None
    progress: float = 0.0
    uid: str | None = None
    fence: int = 0
    """Rises each time the job is given to a worker; names that worker's claim to it."""
    queue: str = DEFAULT_QUEUE
    retry_policy: str | None = None
    """The job's own, as it is stored; None for that of the queue."""
    keep_result: float | None = None
    """Seconds for which the job is kept with its result once it is done."""
    result: str | None = None
    """The result as JSON text, where it is kept."""
    task: str | None = None
    """The name of the task that runs it; None for the function its worker is given."""
    held_by: str | None = None
    """What keeps a scheduled job from running, other than its time."""
    concurrency_key: str | None = None
    """Of the jobs with one such key, a limited number runs at a time."""
    rate_key: str | None = None
    """The jobs with one such key start at a limited rate."""
    breaker: str | None = None
    """The circuit breaker it is behind, beside that of its queue."""
    damage: str | None = None
    """What is wrong with the row, if anything; the payload is empty then, and never run."""

    @classmethod
    def create(  # noqa: PLR0913 - the contract's
        cls,
        payload: dict[str, Any],
        pagina_id: int | None = None,
        priority: JobPriority = JobPriority.MEDIUM,
        max_retries: int = 3,
        retry_delay: int = DEFAULT_RETRY_DELAY,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        parent_job_id: int | None = None,
        timeout_seconds: float | None = None,
    ) -> "Job":
        """Make a job that no queue holds yet (id 0)."""
        return cls(
            id=0,
            payload=payload,
            pagina_id=pagina_id,
            priority=priority,
            max_attempts=max_retries + 1,
            retry_delay=retry_delay,
            tags=tags or [],
            metadata=metadata or {},
            parent_job_id=parent_job_id,
            timeout_seconds=timeout_seconds,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any], shard_id: int = 0) -> "Job":
        """Read a row of the table `fila`, by the names its columns have there.

        Raises ValueError where it holds something else than what is written there.
        """
        known = {each.name for each in fields(cls)} | _OLD_NAMES.keys()
        values = {name: _plain(row[name]) for name in row.keys() if name in known}  # noqa: SIM118 - sqlite3.Row
        return cls(
            **values
            | {
                "payload": json.loads(row["payload"]),
                "status": JobStatus(row["status"]),
                "priority": JobPriority.from_int(row["priority"]),
                "shard_id": shard_id,
                "timeout_seconds": row["timeout"] if "timeout" in row.keys() else None,  # noqa: SIM118
            }
        )

    @classmethod
    def from_sound(cls, row: dict[str, Any], shard_id: int) -> "Job":
        """Make a job of a row that has all stored fields, under their names here.

        As `from_row`, in a fifth of the time: it takes the values for granted, and the dict over.
        """
        if not isinstance(row["created_at"], str):  # moments are objects on PostgreSQL
            row = {name: _plain(value) for name, value in row.items()}
        row["payload"] = json.loads(row["payload"])
        del row["checksum"]
        row["status"] = _STATUSES[row["status"]]
        row["priority"] = _PRIORITIES.get(row["priority"], JobPriority.MEDIUM)
        row["lease"] = Lease(shard_id, row["id"], row["fence"])
        row["shard_id"], row["tags"], row["metadata"] = shard_id, [], {}
        row["timeout_seconds"] = row.pop("timeout")
        row["parent_job_id"] = row["damage"] = None
        job = object.__new__(cls)
        job.__dict__ = row
        return job

    def __post_init__(self) -> None:
        if self.created_at is None:
            self.created_at = to_text(utc_now())

    @property
    def key(self) -> str:
        """The job's name among all shards, "<shard>-<uid>"."""
        return f"{self.shard_id}-{self.uid}"

    @functools.cached_property
    def lease(self) -> Lease:
        """The claim under which the job was given to its worker."""
        return Lease(self.shard_id, self.id, self.fence)

    @property
    def tentativas(self) -> int:
        """`attempts`, under the name the 0.1 API gave it."""
        return self.attempts

    @tentativas.setter
    def tentativas(self, value: int) -> None:
        self.attempts = value

    @property
    def max_tentativas(self) -> int:
        """`max_attempts`, under the name the 0.1 API gave it."""
        return self.max_attempts

    @max_tentativas.setter
    def max_tentativas(self, value: int) -> None:
        self.max_attempts = value

    @property
    def status_str(self) -> str:
        """The status as a plain string."""
        return str(self.status)

    @property
    def priority_int(self) -> int:
        """The priority as a plain number."""
        return int(self.priority)

    @property
    def is_suspect(self) -> bool:
        """Its worker died in the last attempt, and it may have been the reason."""
        return self.error_type == WORKER_DIED

    @property
    def is_pending(self) -> bool:
        """Waits for a worker; due now or later."""
        return self.status in {JobStatus.PENDING, JobStatus.SCHEDULED}

    @property
    def is_processing(self) -> bool:
        """A worker has it."""
        return self.status == JobStatus.PROCESSING

    @property
    def is_completed(self) -> bool:
        """Done."""
        return self.status == JobStatus.COMPLETED

    @property
    def is_failed(self) -> bool:
        """Failed for good."""
        return self.status == JobStatus.FAILED

    @property
    def is_cancelled(self) -> bool:
        """Called off."""
        return self.status == JobStatus.CANCELLED

    @property
    def is_terminal(self) -> bool:
        """Completed, failed or cancelled."""
        return self.is_completed or self.is_failed or self.is_cancelled

    @property
    def can_retry(self) -> bool:
        """Failed with attempts left."""
        return self.is_failed and self.attempts < self.max_attempts

    @property
    def remaining_retries(self) -> int:
        """How many attempts are left."""
        return max(0, self.max_attempts - self.attempts)

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the job was created."""
        return _seconds_between(self.created_at, utc_now())

    @property
    def processing_time_seconds(self) -> float | None:
        """Seconds from the start of the last attempt to its end, or until now."""
        end = from_text(self.completed_at) if self.completed_at else utc_now()
        return _seconds_between(self.started_at, end)

    def mark_processing(self, worker_id: str) -> None:
        """Note on this object that a worker has begun."""
        self.status = JobStatus.PROCESSING
        self.worker_id = worker_id
        self.attempts += 1
        self.started_at = self.heartbeat = to_text(utc_now())

    def mark_completed(self, result: Any = None) -> None:
        """Note on this object that the job is done."""
        self.status = JobStatus.COMPLETED
        self.completed_at = to_text(utc_now())
        self.progress = 100.0
        if result is not None:
            self.metadata["result"] = result

    def mark_failed(self, error: BaseException | str, permanent: bool = False) -> None:
        """Note on this object that an attempt failed; `permanent` leaves no further one."""
        self.last_error = str(error)
        self.error_type = None if isinstance(error, str) else type(error).__name__
        if permanent or self.attempts >= self.max_attempts:
            self.status = JobStatus.FAILED
            self.completed_at = to_text(utc_now())
        else:
            self.status = JobStatus.PENDING

    def mark_cancelled(self) -> None:
        """Note on this object that the job was called off."""
        self.status = JobStatus.CANCELLED
        self.completed_at = to_text(utc_now())

    def update_progress(self, progress: float) -> None:
        """Note on this object how far the job is, in percent; kept between 0 and 100."""
        self.progress = min(100.0, max(0.0, progress))

    def to_dict(self) -> dict[str, Any]:
        """Give the fields of the 0.1 API under their names there, with plain values."""
        new_names = {new: old for old, new in _OLD_NAMES.items() if old != "partition_key"}
        values = {
            new_names.get(each.name, each.name): getattr(self, each.name)
            for each in fields(self)
            if each.name not in _SINCE_1_0
        }
        return values | {"status": self.status_str, "priority": self.priority_int}

    def __repr__(self) -> str:
        return f"Job(id={self.id}, status={self.status_str}, priority={self.priority_int})"


# Wrapped here and not by a decorator, since it is the dataclass that writes __init__.
Job.__init__ = _with_old_names(Job.__init__)  # type: ignore[method-assign]


@dataclass
class JobResult:
    """How one run of a job's function ended."""

    success: bool
    result: Any = None
    error: BaseException | None = None
    execution_time: float = 0.0
    """Seconds."""
    worker_id: str | None = None
    completed_at: str | None = None


def _plain(value: Any) -> Any:
    return to_text(value) if isinstance(value, datetime) else value


def _seconds_between(start: str | None, end: datetime) -> float | None:
    return None if start is None else (end - from_text(start)).total_seconds()
