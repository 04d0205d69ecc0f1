"""The types of a queue's events, and the names by which they are chosen."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from bubus import BaseEvent

from queue_max import checks
from queue_max.exceptions import ConfigurationError


class QueueEvent(BaseEvent[None]):
    """Something that happened in a queue."""


class JobEvent(QueueEvent):
    """Something that happened to a job."""

    job_id: int
    shard_id: int


class JobEnqueued(JobEvent):
    """A job was stored."""


class JobStarted(JobEvent):
    """A worker has begun with a job."""

    worker_id: str


class JobCompleted(JobEvent):
    """A job is done."""


class JobRetried(JobEvent):
    """An attempt has failed; another follows."""

    error: str


class JobFailed(JobEvent):
    """A job was given up."""

    error: str


class JobDeadLettered(JobEvent):
    """A job that was given up has a dead letter."""

    error: str
    reason: str


class JobCancelled(JobEvent):
    """A job was called off."""

    reason: str


class JobRecovered(JobEvent):
    """A job was taken from a worker that is silent or dead; its verdict follows."""

    error: str


class Alert(QueueEvent):
    """Something needs a look, such as too many jobs that wait (QUEUE_SIZE)."""

    alert_type: str
    pending: int
    threshold: int


class CircuitOpened(QueueEvent):
    """Jobs are held back, since too many have failed in a row."""

    name: str
    failures: int
    error: str | None = None


class CircuitClosed(QueueEvent):
    """Jobs are let through again."""

    name: str


class ShardUnavailable(QueueEvent):
    """A shard cannot serve."""

    shard_id: int
    error: str


class ShardAvailable(QueueEvent):
    """A shard serves again."""

    shard_id: int


TYPES: Mapping[str, type[QueueEvent]] = {
    "job_enqueued": JobEnqueued,
    "job_started": JobStarted,
    "job_completed": JobCompleted,
    "job_retried": JobRetried,
    "job_failed": JobFailed,
    "job_dead_lettered": JobDeadLettered,
    "job_cancelled": JobCancelled,
    "job_recovered": JobRecovered,
    "alert": Alert,
    "circuit_opened": CircuitOpened,
    "circuit_closed": CircuitClosed,
    "shard_unavailable": ShardUnavailable,
    "shard_available": ShardAvailable,
}
"""Of each event of a queue, its type."""


def kinds_of(event_type: object) -> list[type[QueueEvent]]:
    """Give the types that are meant."""
    found: list[type[QueueEvent]] = []
    if isinstance(event_type, type) and issubclass(event_type, QueueEvent):
        found = [kind for kind in TYPES.values() if issubclass(kind, event_type)]
    elif isinstance(event_type, str):
        found = [
            kind
            for name, kind in TYPES.items()
            if fnmatchcase(name, event_type) or fnmatchcase(kind.__name__, event_type)
        ]
    if not found:
        raise ConfigurationError(
            f"event_type={checks.shown(event_type)}: should be a type of event, or a "
            f'pattern such as "job_*" that fits one of {", ".join(TYPES)}'
        )
    return found
