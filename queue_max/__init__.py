"""Queue Max: a task queue that needs no broker."""

from queue_max.domain.events import StoredEvent
from queue_max.domain.failures import is_retryable_error
from queue_max.domain.job import Job, JobHandle, JobPriority, JobResult, JobStatus
from queue_max.domain.retry import RetryPolicy
from queue_max.exceptions import (
    Cancel,
    CircuitBreakerOpenError,
    ConfigurationError,
    InvalidJobError,
    JobFailedError,
    JobNotFoundError,
    JobSignal,
    JobTimeoutError,
    LeaseLostError,
    PartialBatchError,
    PayloadError,
    Permanent,
    ProcessDiedError,
    QueueClosedError,
    QueueError,
    QueueFullError,
    QueueNotFoundError,
    RateLimitError,
    ResultNotKeptError,
    Retry,
    ScheduleNotFoundError,
    SchemaError,
    ShardBusyError,
    ShardDamagedError,
    ShardError,
    ShardMissingError,
    ShardNotFoundError,
    Snooze,
)
from queue_max.limits.circuit_breaker import CircuitBreaker, CircuitState
from queue_max.limits.rate_limiter import RateLimiter, RateLimitUnit
from queue_max.queue import Queue
from queue_max.tasks.binding import default_queue, set_default_queue
from queue_max.tasks.periodic import PeriodicTask, periodic_task
from queue_max.tasks.retryable import retryable_task
from queue_max.tasks.task import Task, task
from queue_max.workers.async_worker import AsyncWorker
from queue_max.workers.draining import drain as _drain  # noqa: F401 - Queue.drain needs it
from queue_max.workers.pool import WorkerPool
from queue_max.workers.running import RunningJob, current_job
from queue_max.workers.worker import Worker, WorkerState

__version__ = "1.0.0.dev0"

__all__ = [
    "AsyncWorker",
    "Cancel",
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
    "JobSignal",
    "JobStatus",
    "JobTimeoutError",
    "LeaseLostError",
    "PartialBatchError",
    "PayloadError",
    "PeriodicTask",
    "Permanent",
    "ProcessDiedError",
    "Queue",
    "QueueClosedError",
    "QueueError",
    "QueueFullError",
    "QueueNotFoundError",
    "RateLimitError",
    "RateLimitUnit",
    "RateLimiter",
    "ResultNotKeptError",
    "Retry",
    "RetryPolicy",
    "RunningJob",
    "ScheduleNotFoundError",
    "SchemaError",
    "ShardBusyError",
    "ShardDamagedError",
    "ShardError",
    "ShardMissingError",
    "ShardNotFoundError",
    "Snooze",
    "StoredEvent",
    "Task",
    "Worker",
    "WorkerPool",
    "WorkerState",
    "current_job",
    "default_queue",
    "is_retryable_error",
    "periodic_task",
    "retryable_task",
    "set_default_queue",
    "task",
]
