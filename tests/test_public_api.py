"""The face of 0.1.1, as data, held against ours; and the size of what stands behind it."""

import ast
import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import queue_max
from queue_max import Job, JobPriority, JobStatus, RateLimitUnit
from queue_max.queue import ShardManager

PACKAGE = Path(queue_max.__file__).parent

NAMES = [
    "Queue",
    "Worker",
    "WorkerPool",
    "WorkerState",
    "Job",
    "JobStatus",
    "JobPriority",
    "JobResult",
    "RateLimiter",
    "RateLimitUnit",
    "CircuitBreaker",
    "CircuitState",
    "QueueError",
    "RateLimitError",
    "CircuitBreakerOpenError",
    "JobFailedError",
    "ShardError",
    "ConfigurationError",
]

ENUMS: dict[str, dict[str, str | int]] = {
    "JobStatus": {
        "PENDING": "pending",
        "PROCESSING": "processing",
        "COMPLETED": "completed",
        "FAILED": "failed",
        "CANCELLED": "cancelled",
        "SCHEDULED": "scheduled",
    },
    "JobPriority": {"LOW": 0, "MEDIUM": 1, "HIGH": 2},
    "WorkerState": {
        "INITIALIZED": "initialized",
        "STARTING": "starting",
        "RUNNING": "running",
        "STOPPING": "stopping",
        "STOPPED": "stopped",
        "ERROR": "error",
    },
    "RateLimitUnit": {
        "PER_MINUTE": "per_minute",
        "PER_SECOND": "per_second",
        "PER_HOUR": "per_hour",
    },
    "CircuitState": {"CLOSED": "closed", "OPEN": "open", "HALF_OPEN": "half_open"},
}

PENDING, MEDIUM, PER_MINUTE = JobStatus.PENDING, JobPriority.MEDIUM, RateLimitUnit.PER_MINUTE

SIGNATURES = {
    "Queue": "shards=None, rate_limit=None, max_retries=None, data_dir=None, "
    "circuit_breaker_threshold=None, circuit_breaker_timeout=None, rate_limiter_timeout=5.0",
    "Queue.enqueue": "self, payload, pagina_id=None, priority=0, max_retries=None",
    "Queue.enqueue_batch": "self, jobs",
    "Queue.enqueue_from_file": "self, filepath, fmt='jsonl'",
    "Queue.pop_job": "self, worker_id",
    "Queue.complete_job": "self, job_id, shard_id",
    "Queue.fail_job": "self, job_id, shard_id, error, permanent=False",
    "Queue.retry_failed_jobs": "self, shard_id=None",
    # 0.1.1 had days=7 here, and never read CLEANUP_DAYS, whose default is 7.
    "Queue.cleanup_old_jobs": "self, days=None",
    "Queue.purge_queue": "self, status=None",
    "Queue.get_failed_jobs": "self, limit=100",
    "Queue.get_processing_jobs": "self",
    "Queue.get_pending_count": "self",
    "Queue.is_empty": "self",
    "Queue.heartbeat": "self, shard_id, worker_id",
    "Queue.recover_orphans": "self",
    "Queue.get_stats": "self",
    "Queue.wait_until_empty": "self, timeout=None",
    "Queue.wait_for_jobs": "self, count=1, timeout=None",
    "Queue.on": "self, event, callback",
    "Queue.batch": "self",
    "Queue.close": "self",
    "Worker": "worker_id, process_function, queue=None, on_job_start=None, on_job_complete=None, "
    "on_job_error=None, poll_interval=1.0, job_timeout=None",
    "Worker.start": "self",
    "Worker.stop": "self, timeout=10.0",
    "Worker.get_current_job": "self",
    "Worker.get_stats": "self",
    "WorkerPool": "workers=None, auto_scale=False, min_workers=1, max_workers=10, "
    "scale_up_threshold=100, scale_down_threshold=10, scale_check_interval=60.0",
    "WorkerPool.add_worker": "self, worker",
    "WorkerPool.remove_worker": "self, worker, timeout=10.0",
    "WorkerPool.start_all": "self",
    "WorkerPool.stop_all": "self, timeout=10.0",
    "WorkerPool.get_stats": "self",
    "WorkerPool.wait_for_idle": "self, timeout=None",
    "Job.mark_processing": "self, worker_id",
    "Job.mark_completed": "self, result=None",
    "Job.mark_failed": "self, error, permanent=False",
    "Job.mark_cancelled": "self",
    "Job.update_progress": "self, progress",
    "Job.to_dict": "self",
    "Job.create": "payload, pagina_id=None, priority=MEDIUM, max_retries=3, retry_delay=60, "
    "tags=None, metadata=None, parent_job_id=None, timeout_seconds=None",
    "JobPriority.from_int": "value",
    "JobResult": "success, result=None, error=None, execution_time=0.0, worker_id=None, "
    "completed_at=None",
    "RateLimiter": "rate_limit=160, unit=PER_MINUTE, burst_capacity=None, enable_jitter=True",
    "RateLimiter.per_second": "rate_limit, **options",
    "RateLimiter.per_minute": "rate_limit, **options",
    "RateLimiter.per_hour": "rate_limit, **options",
    "RateLimiter.acquire": "self, timeout=30.0",
    "RateLimiter.try_acquire": "self",
    "RateLimiter.update_rate_limit": "self, rate_limit",
    "RateLimiter.reset": "self",
    "RateLimiter.get_remaining_tokens": "self",
    "RateLimiter.get_retry_after": "self",
    "RateLimiter.get_stats": "self",
    "CircuitBreaker": "failure_threshold=5, recovery_timeout=60.0, on_state_change=None",
    "CircuitBreaker.is_allowed": "self",
    # By position only, so that the function may have an argument `func` of its own.
    "CircuitBreaker.call": "self, func, /, *args, **kwargs",
    "CircuitBreaker.record_success": "self",
    "CircuitBreaker.record_failure": "self",
    "CircuitBreaker.reset": "self",
    "CircuitBreaker.get_stats": "self",
    "is_retryable_error": "error",
}

SHARD_MANAGER = {
    "get_dead_letter_queue": "self, shard_id, limit=100",
    "get_stats": "self, shard_id",
    "retry_job": "self, shard_id, job_id",
}

PROPERTIES = {
    "Queue": "is_healthy",
    "Worker": "state is_running",
    "Job": "status_str priority_int is_pending is_processing is_completed is_failed is_cancelled "
    "is_terminal can_retry remaining_retries age_seconds processing_time_seconds",
    "CircuitBreaker": "state",
    "RateLimiter": "rate_limit unit burst_capacity interval",
}

# The fields of Job, in order; a field whose default is made anew each time has `...` here.
JOB_FIELDS: dict[str, Any] = {
    "id": inspect.Parameter.empty,
    "payload": inspect.Parameter.empty,
    "pagina_id": None,
    "status": PENDING,
    "priority": MEDIUM,
    "tentativas": 0,
    "max_tentativas": 3,
    "retry_delay": 60,
    "last_error": None,
    "error_type": None,
    "error_stack": None,
    "worker_id": None,
    "heartbeat": None,
    "created_at": ...,
    "started_at": None,
    "completed_at": None,
    "next_retry_at": None,
    "shard_id": 0,
    "tags": ...,
    "metadata": ...,
    "parent_job_id": None,
    "timeout_seconds": None,
    "progress": 0.0,
}
RENAMED = {"tentativas": "attempts", "max_tentativas": "max_attempts"}

MANY_METHODS_ALLOWED = {
    *("Queue", "Job", "RateLimiter", "QueueRateLimiter", "CircuitBreaker", "Task"),
}
MOST_METHODS = 12
MOST_STATEMENTS = 5

STATES_MAY_BE_QUOTED_IN = {
    "domain/events.py",
    "domain/job.py",
    "services/retention.py",
    "queue.py",
    "storage/schema.py",
}


def find(path: str) -> Any:
    found: Any = queue_max
    for name in path.split("."):
        found = getattr(found, name)
    return found


def parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def written(signature: str) -> list[inspect.Parameter]:
    return parameters(eval(f"lambda {signature}: None", globals()))


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith("migrations/"):
            yield place, ast.parse(path.read_text(encoding="utf-8"))


def classes() -> Iterator[ast.ClassDef]:
    for _, module in modules():
        yield from (node for node in ast.walk(module) if isinstance(node, ast.ClassDef))


def methods(of: ast.ClassDef) -> list[ast.FunctionDef]:
    return [node for node in of.body if isinstance(node, ast.FunctionDef)]


def public_methods(of: ast.ClassDef) -> set[str]:
    return {method.name for method in methods(of) if not method.name.startswith("_")}


def statements(function: ast.FunctionDef) -> int:
    """Count all statements of a body, nested ones too, but not the docstring."""
    inner = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    return len(inner) - 1 - (ast.get_docstring(function) is not None)


def quoted_words(module: ast.Module) -> Iterator[str]:
    """Give all string literals but for the keys of dicts, which name numbers and no states."""
    keys = {
        id(key)
        for node in ast.walk(module)
        for key in (
            node.keys
            if isinstance(node, ast.Dict)
            else [node.slice]
            if isinstance(node, ast.Subscript)
            else []
        )
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in keys:
            yield node.value


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_0_1_1_is_there(name: str) -> None:
    assert name in queue_max.__all__
    assert hasattr(queue_max, name)


def test_all_is_sorted_and_lists_every_public_name() -> None:
    public = {
        name
        for name, value in vars(queue_max).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert queue_max.__all__ == sorted(public)


def test_every_error_is_public_and_a_queue_error() -> None:
    from queue_max import exceptions

    errors = {
        name: value
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert errors.keys() <= set(queue_max.__all__)
    assert all(issubclass(error, queue_max.QueueError) for error in errors.values())


def test_the_version_is_that_of_the_distribution() -> None:
    assert queue_max.__version__ == version("queue-max")


@pytest.mark.parametrize("enum", ENUMS)
def test_an_enum_has_the_members_of_0_1_1(enum: str) -> None:
    assert {member.name: member.value for member in find(enum)} == ENUMS[enum]


@pytest.mark.parametrize("path", SIGNATURES)
def test_arguments_keep_their_names_order_and_defaults(path: str) -> None:
    assert_keeps(parameters(find(path)), written(SIGNATURES[path]))


@pytest.mark.parametrize("method", SHARD_MANAGER)
def test_the_shard_manager_keeps_its_arguments(method: str) -> None:
    assert_keeps(parameters(getattr(ShardManager, method)), written(SHARD_MANAGER[method]))


def assert_keeps(ours: list[inspect.Parameter], theirs: list[inspect.Parameter]) -> None:
    kept, further = ours[: len(theirs)], ours[len(theirs) :]
    pairs = zip(kept, theirs, strict=True)  # what was required may have got a default
    kept = [
        each.replace(default=old.default) if old.default is old.empty else each
        for each, old in pairs
    ]
    assert [as_called(each) for each in kept] == [as_called(each) for each in theirs]
    assert all(each.default is not each.empty for each in further)


def as_called(parameter: inspect.Parameter) -> tuple[object, ...]:
    return parameter.name, parameter.default, parameter.kind


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in PROPERTIES.items() for name in names.split()],
)
def test_what_was_a_property_is_one(owner: str, name: str) -> None:
    assert isinstance(inspect.getattr_static(find(owner), name), property)


@pytest.mark.parametrize("name", ["Queue", "WorkerPool"])
def test_it_is_a_context_manager(name: str) -> None:
    assert hasattr(find(name), "__enter__")
    assert hasattr(find(name), "__exit__")


def test_a_job_has_the_fields_of_0_1_1_in_their_order() -> None:
    ours = [each.name for each in dataclasses.fields(Job)]
    assert ours[: len(JOB_FIELDS)] == [RENAMED.get(name, name) for name in JOB_FIELDS]


def test_the_fields_of_a_job_have_the_defaults_of_0_1_1() -> None:
    ours = {each.name: each for each in dataclasses.fields(Job)}
    for name, default in JOB_FIELDS.items():
        field = ours[RENAMED.get(name, name)]
        if default is ...:
            assert field.default_factory is not dataclasses.MISSING
        elif default is inspect.Parameter.empty:
            assert field.default is dataclasses.MISSING
        else:
            assert field.default == default


def test_a_job_is_made_and_read_by_the_old_names_too() -> None:
    job = Job(1, {}, tentativas=2, max_tentativas=5)
    assert (job.attempts, job.max_attempts) == (job.tentativas, job.max_tentativas) == (2, 5)


def test_a_job_becomes_a_dict_with_the_keys_of_0_1_1() -> None:
    assert list(Job(1, {}).to_dict()) == list(JOB_FIELDS)


def test_importing_reads_no_environment_touches_no_disk_and_loads_no_alembic(
    tmp_path: Path,
) -> None:
    (tmp_path / ".env").write_text("NUM_SHARDS=no number")
    script = "import sys, queue_max; print('alembic' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"RATE_LIMIT_MAX": "no number", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("False\n", "")
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_the_queue_is_a_table_of_contents() -> None:
    (queue,) = (each for each in classes() if each.name == "Queue")
    sizes = {each.name: statements(each) for each in methods(queue) if each.name != "__init__"}
    assert {name: size for name, size in sizes.items() if size > MOST_STATEMENTS} == {}


def test_no_other_class_grows_too_many_methods() -> None:
    sizes = {each.name: len(public_methods(each)) for each in classes()}
    large = {name for name, size in sizes.items() if size > MOST_METHODS}
    assert large <= MANY_METHODS_ALLOWED


def test_states_are_quoted_only_where_they_are_defined_or_translated() -> None:
    states = {str(state) for state in JobStatus}
    quoting = {place for place, module in modules() if states & set(quoted_words(module))}
    assert quoting <= STATES_MAY_BE_QUOTED_IN
