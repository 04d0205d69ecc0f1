"""Events of a queue as types, on a bus (bubus) whose handlers hold up no worker."""

try:
    import bubus  # noqa: F401 - what all of this stands on
except ImportError as error:
    raise ImportError(
        "queue_max.contrib.events needs bubus: pip install 'queue-max[events]'"
    ) from error

from queue_max.contrib.events.bus import QueueEventBus
from queue_max.contrib.events.types import (
    TYPES,
    Alert,
    CircuitClosed,
    CircuitOpened,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobEnqueued,
    JobEvent,
    JobFailed,
    JobRecovered,
    JobRetried,
    JobStarted,
    QueueEvent,
    ShardAvailable,
    ShardUnavailable,
)

__all__ = [
    "TYPES",
    "Alert",
    "CircuitClosed",
    "CircuitOpened",
    "JobCancelled",
    "JobCompleted",
    "JobDeadLettered",
    "JobEnqueued",
    "JobEvent",
    "JobFailed",
    "JobRecovered",
    "JobRetried",
    "JobStarted",
    "QueueEvent",
    "QueueEventBus",
    "ShardAvailable",
    "ShardUnavailable",
]
