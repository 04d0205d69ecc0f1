"""Queue Max: a task queue that needs no broker."""

from queue_max.domain.failures import is_retryable_error
from queue_max.domain.job import Job, JobHandle, JobPriority, JobResult, JobStatus
from queue_max.exceptions import (
    CircuitBreakerOpenError,
    ConfigurationError,
    InvalidJobError,
    JobFailedError,
    JobNotFoundError,
    JobTimeoutError,
    LeaseLostError,
    PartialBatchError,
    PayloadError,
    Permanent,
    QueueClosedError,
    QueueError,
    QueueNotFoundError,
    RateLimitError,
    SchemaError,
    ShardBusyError,
    ShardDamagedError,
    ShardError,
    ShardMissingError,
    ShardNotFoundError,
)
from queue_max.limits.circuit_breaker import CircuitBreaker, CircuitState
from queue_max.limits.rate_limiter import RateLimiter, RateLimitUnit
from queue_max.queue import Queue
from queue_max.workers.pool import WorkerPool
from queue_max.workers.worker import Worker, WorkerState

__version__ = "1.0.0.dev0"

__all__ = [
    "CircuitBreaker",
    "CircuitBreakerOpenError",
    "CircuitState",
    "ConfigurationError",
    "InvalidJobError",
    "Job",
    "JobFailedError",
    "JobHandle",
    "JobNotFoundError",
    "JobPriority",
    "JobResult",
    "JobStatus",
    "JobTimeoutError",
    "LeaseLostError",
    "PartialBatchError",
    "PayloadError",
    "Permanent",
    "Queue",
    "QueueClosedError",
    "QueueError",
    "QueueNotFoundError",
    "RateLimitError",
    "RateLimitUnit",
    "RateLimiter",
    "SchemaError",
    "ShardBusyError",
    "ShardDamagedError",
    "ShardError",
    "ShardMissingError",
    "ShardNotFoundError",
    "Worker",
    "WorkerPool",
    "WorkerState",
    "is_retryable_error",
]
