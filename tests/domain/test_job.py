import copy
import inspect
import json
import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain import job as job_module
from queue_max.domain.clock import from_text
from queue_max.domain.job import Job, JobHandle, JobPriority, JobResult, JobStatus, Lease

NOON = "2026-01-01T12:00:00.000Z"

DEFAULTS: dict[str, Any] = {
    "pagina_id": None,
    "status": JobStatus.PENDING,
    "priority": JobPriority.MEDIUM,
    "attempts": 0,
    "max_attempts": 3,
    "retry_delay": 60,
    "last_error": None,
    "error_type": None,
    "error_stack": None,
    "worker_id": None,
    "heartbeat": None,
    "created_at": NOON,
    "started_at": None,
    "completed_at": None,
    "next_retry_at": None,
    "shard_id": 0,
    "tags": [],
    "metadata": {},
    "parent_job_id": None,
    "timeout_seconds": None,
    "progress": 0.0,
}
"""The contract's fields but the first two, in its order."""

OLD_NAMES = {"attempts": "tentativas", "max_attempts": "max_tentativas"}

CHECKS = {
    "is_pending",
    "is_processing",
    "is_completed",
    "is_failed",
    "is_cancelled",
    "is_terminal",
}


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> FakeClock:
    monkeypatch.setattr(job_module, "utc_now", clock)
    return clock


def a_job(**given: Any) -> Job:
    return Job(7, {"n": 1}, **given)


def as_sqlite_row(values: dict[str, Any]) -> sqlite3.Row:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        columns = ", ".join(f":{name} AS {name}" for name in values)
        return connection.execute(f"SELECT {columns}", values).fetchone()  # type: ignore[no-any-return]


def test_the_fields_of_the_contract_come_first_and_in_its_order() -> None:
    names = [field.name for field in fields(Job)]
    assert names[: len(DEFAULTS) + 2] == ["id", "payload", *DEFAULTS]


def test_fields_that_are_not_given_have_the_defaults_of_the_contract() -> None:
    assert {name: getattr(a_job(), name) for name in DEFAULTS} == DEFAULTS


def test_fields_beyond_the_contract_may_be_left_out() -> None:
    job = a_job()
    assert (job.uid, job.fence, job.queue) == (None, 0, "default")


def test_fields_may_be_given_by_position() -> None:
    job = Job(7, {"n": 1}, 5, JobStatus.FAILED, JobPriority.HIGH, 2, 4, 30)
    assert (job.id, job.payload, job.pagina_id, job.status) == (7, {"n": 1}, 5, "failed")
    assert (job.priority, job.attempts, job.max_attempts, job.retry_delay) == (2, 2, 4, 30)


def test_jobs_share_neither_tags_nor_metadata() -> None:
    first, second = a_job(), a_job()
    first.tags.append("red")
    first.metadata["colour"] = "red"
    assert (second.tags, second.metadata) == ([], {})


def test_a_job_without_a_time_of_creation_was_created_now(now: FakeClock) -> None:
    now.advance(1.5)
    assert a_job().created_at == "2026-01-01T12:00:01.500Z"
    assert a_job(created_at=None).created_at == "2026-01-01T12:00:01.500Z"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tentativas", "attempts"),
        ("max_tentativas", "max_attempts"),
        ("partition_key", "pagina_id"),
    ],
)
def test_the_constructor_takes_the_names_of_older_versions(old: str, new: str) -> None:
    assert getattr(a_job(**{old: 9}), new) == 9


@pytest.mark.parametrize(("new", "old"), OLD_NAMES.items())
def test_an_old_name_reads_and_writes_the_same_number(new: str, old: str) -> None:
    job = a_job(**{new: 2})
    assert getattr(job, old) == 2
    setattr(job, old, 5)
    assert (getattr(job, old), getattr(job, new)) == (5, 5)


def test_a_name_that_no_version_had_is_refused() -> None:
    with pytest.raises(TypeError, match="tentativa"):
        a_job(tentativa=1)


def test_a_copy_with_another_field_differs_in_nothing_else() -> None:
    job = a_job(tentativas=1, uid="u")
    assert asdict(replace(job, attempts=2)) == asdict(job) | {"attempts": 2}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda job: pickle.loads(pickle.dumps(job))])
def test_a_job_may_be_copied_and_pickled(again: Callable[[Job], Job]) -> None:
    job = a_job(tentativas=1, status=JobStatus.FAILED, metadata={"k": [1]}, uid="u", fence=3)
    assert again(job) == job


def test_to_dict_gives_the_keys_of_0_1_1_in_their_order() -> None:
    assert list(a_job().to_dict()) == [
        "id",
        "payload",
        *(OLD_NAMES.get(name, name) for name in DEFAULTS),
    ]


def test_to_dict_gives_the_values_of_the_fields() -> None:
    given = {name: f"<{name}>" for name in DEFAULTS} | {"status": "failed", "priority": 2}
    values = Job(7, {"n": 1}, **given).to_dict()  # type: ignore[arg-type]
    assert values == {"id": 7, "payload": {"n": 1}} | {
        OLD_NAMES.get(name, name): value for name, value in given.items()
    }


def test_to_dict_holds_plain_values_that_json_takes() -> None:
    values = a_job(status=JobStatus.FAILED, priority=JobPriority.HIGH).to_dict()
    assert (values["status"], type(values["status"])) == ("failed", str)
    assert (values["priority"], type(values["priority"])) == (2, int)
    assert json.loads(json.dumps(values)) == values


def test_a_job_shows_its_id_status_and_priority() -> None:
    assert repr(a_job()) == "Job(id=7, status=pending, priority=1)"


def test_a_status_and_a_priority_are_also_given_as_plain_values() -> None:
    job = a_job(status=JobStatus.CANCELLED, priority=JobPriority.LOW)
    assert (job.status_str, type(job.status_str)) == ("cancelled", str)
    assert (job.priority_int, type(job.priority_int)) == (0, int)


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_a_created_job_has_one_attempt_more_than_retries(max_retries: int) -> None:
    assert Job.create({}, max_retries=max_retries).max_attempts == max_retries + 1


def test_a_created_job_is_held_by_no_queue_and_has_three_retries() -> None:
    job = Job.create({"n": 1})
    assert job == Job(0, {"n": 1}, max_attempts=4)


def test_create_takes_the_arguments_of_the_contract_in_its_order() -> None:
    parameters = inspect.signature(Job.create).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "payload": inspect.Parameter.empty,
        "pagina_id": None,
        "priority": JobPriority.MEDIUM,
        "max_retries": 3,
        "retry_delay": 60,
        "tags": None,
        "metadata": None,
        "parent_job_id": None,
        "timeout_seconds": None,
    }


def test_create_keeps_what_it_is_given() -> None:
    given = {
        "pagina_id": 5,
        "priority": JobPriority.HIGH,
        "retry_delay": 10,
        "tags": ["a"],
        "metadata": {"k": 1},
        "parent_job_id": 3,
        "timeout_seconds": 1.5,
    }
    assert Job.create({"n": 1}, **given) == Job(0, {"n": 1}, max_attempts=4, **given)  # type: ignore[arg-type]


def test_create_without_tags_and_metadata_gives_empty_ones() -> None:
    job = Job.create({}, tags=None, metadata=None)
    assert (job.tags, job.metadata) == ([], {})


@pytest.mark.parametrize("kind", [dict, as_sqlite_row])
def test_a_row_of_the_table_reads_as_a_job(kind: Callable[[dict[str, Any]], Any]) -> None:
    row = {
        "id": 7,
        "pagina_id": 5,
        "payload": '{"n": 1}',
        "status": "failed",
        "priority": 2,
        "tentativas": 1,
        "max_tentativas": 4,
        "retry_delay": 30,
        "last_error": "no",
        "error_type": "ValueError",
        "error_stack": None,
        "worker_id": "w",
        "heartbeat": NOON,
        "created_at": NOON,
        "started_at": NOON,
        "completed_at": None,
        "next_retry_at": None,
    }
    job = Job.from_row(kind(row | {"a_column_of_a_later_version": 1}), shard_id=3)
    assert job.to_dict() == a_job(shard_id=3).to_dict() | row | {"payload": {"n": 1}}
    assert job.status is JobStatus.FAILED
    assert job.priority is JobPriority.HIGH
    assert Job.from_row(kind(row)).shard_id == 0


@pytest.mark.parametrize(
    ("status", "true"),
    [
        ("pending", {"is_pending"}),
        ("scheduled", {"is_pending"}),
        ("processing", {"is_processing"}),
        ("completed", {"is_completed", "is_terminal"}),
        ("failed", {"is_failed", "is_terminal"}),
        ("cancelled", {"is_cancelled", "is_terminal"}),
    ],
)
def test_a_status_answers_these_checks_with_yes_and_no_others(status: str, true: set[str]) -> None:
    job = a_job(status=JobStatus(status))
    assert {check for check in CHECKS if getattr(job, check)} == true


@pytest.mark.parametrize(
    ("status", "attempts", "can_retry"),
    [
        (JobStatus.FAILED, 0, True),
        (JobStatus.FAILED, 3, True),
        (JobStatus.FAILED, 4, False),
        (JobStatus.FAILED, 5, False),
        (JobStatus.PENDING, 1, False),
        (JobStatus.PROCESSING, 1, False),
        (JobStatus.CANCELLED, 1, False),
    ],
)
def test_only_a_failed_job_with_attempts_left_can_be_retried(
    status: JobStatus, attempts: int, can_retry: bool
) -> None:
    assert a_job(status=status, attempts=attempts, max_attempts=4).can_retry is can_retry


@pytest.mark.parametrize(("attempts", "remaining"), [(0, 4), (1, 3), (4, 0), (8, 0)])
def test_remaining_retries_are_never_fewer_than_none(attempts: int, remaining: int) -> None:
    assert a_job(attempts=attempts, max_attempts=4).remaining_retries == remaining


@pytest.mark.parametrize("created_at", ["2026-01-01T11:58:20.000Z", "2026-01-01 11:58:20"])
def test_the_age_counts_from_the_creation_in_either_form_of_time(created_at: str) -> None:
    assert a_job(created_at=created_at).age_seconds == 100.0


def test_the_processing_time_counts_from_the_start_to_the_end(now: FakeClock) -> None:
    job = a_job(started_at="2026-01-01T11:59:00.000Z", completed_at="2026-01-01T11:59:02.500Z")
    now.advance(3600)
    assert job.processing_time_seconds == 2.5


def test_the_processing_time_of_a_running_job_counts_until_now() -> None:
    assert a_job(started_at="2026-01-01T11:59:00.000Z").processing_time_seconds == 60.0


def test_a_job_that_never_started_has_no_processing_time() -> None:
    assert a_job().processing_time_seconds is None


def test_marking_as_processing_notes_worker_attempt_and_time() -> None:
    job = a_job(attempts=1)
    job.mark_processing("worker-1")
    assert (job.status, job.worker_id, job.attempts) == ("processing", "worker-1", 2)
    assert (job.started_at, job.heartbeat) == (NOON, NOON)


def test_marking_as_completed_keeps_the_result_in_the_metadata() -> None:
    job = a_job(metadata={"k": 1})
    job.mark_completed(0)
    assert (job.status, job.completed_at, job.progress) == ("completed", NOON, 100.0)
    assert job.metadata == {"k": 1, "result": 0}


def test_marking_as_completed_without_a_result_leaves_the_metadata() -> None:
    job = a_job()
    job.mark_completed()
    assert job.metadata == {}


def test_a_failure_with_attempts_left_makes_the_job_wait_again() -> None:
    job = a_job(attempts=1, max_attempts=2)
    job.mark_failed(ValueError("no"))
    assert (job.status, job.completed_at) == ("pending", None)
    assert (job.last_error, job.error_type) == ("no", "ValueError")


@pytest.mark.parametrize(("attempts", "permanent"), [(2, False), (3, False), (0, True)])
def test_a_failure_is_final_when_permanent_or_without_attempts_left(
    attempts: int, permanent: bool
) -> None:
    job = a_job(attempts=attempts, max_attempts=2)
    job.mark_failed("no", permanent=permanent)
    assert (job.status, job.completed_at, job.last_error) == ("failed", NOON, "no")


def test_marking_as_cancelled_ends_the_job() -> None:
    job = a_job()
    job.mark_cancelled()
    assert (job.status, job.completed_at) == ("cancelled", NOON)


@pytest.mark.parametrize(("told", "kept"), [(-1, 0.0), (0, 0.0), (12.5, 12.5), (101, 100.0)])
def test_progress_stays_between_0_and_100(told: float, kept: float) -> None:
    job = a_job(progress=50.0)
    job.update_progress(told)
    assert job.progress == kept


def test_a_job_names_itself_among_all_shards_and_its_current_run() -> None:
    job = a_job(shard_id=2, uid="abc", fence=3)
    assert job.key == "2-abc"
    assert job.lease == Lease(shard_id=2, job_id=7, fence=3)


def test_the_time_of_creation_reads_back_as_now(now: FakeClock) -> None:
    created_at = a_job().created_at
    assert created_at is not None
    assert from_text(created_at) == now()


def test_a_handle_is_a_dict_of_exactly_id_and_shard_id() -> None:
    handle = JobHandle(7, 2, "abc")
    assert isinstance(handle, dict)
    assert handle == {"id": 7, "shard_id": 2}
    assert json.dumps(handle) == '{"id": 7, "shard_id": 2}'


def test_a_handle_knows_the_jobs_key_and_whether_it_was_made() -> None:
    handle = JobHandle(7, 2, "abc")
    assert (handle.key, handle.uid, handle.created) == ("2-abc", "abc", True)
    assert JobHandle(7, 2, "abc", created=False).created is False


@pytest.mark.parametrize("again", [copy.copy, lambda handle: pickle.loads(pickle.dumps(handle))])
def test_a_handle_keeps_what_it_knows_when_copied_or_pickled(
    again: Callable[[JobHandle], JobHandle],
) -> None:
    handle = again(JobHandle(7, 2, "abc", created=False))
    assert handle == {"id": 7, "shard_id": 2}
    assert (handle.key, handle.created) == ("2-abc", False)


def test_there_are_six_statuses() -> None:
    assert {status.name: status.value for status in JobStatus} == {
        "PENDING": "pending",
        "PROCESSING": "processing",
        "COMPLETED": "completed",
        "FAILED": "failed",
        "CANCELLED": "cancelled",
        "SCHEDULED": "scheduled",
    }


def test_there_are_three_priorities() -> None:
    assert {each.name: each.value for each in JobPriority} == {"LOW": 0, "MEDIUM": 1, "HIGH": 2}


@pytest.mark.parametrize(
    ("number", "priority"),
    [(0, "LOW"), (1, "MEDIUM"), (2, "HIGH"), (-1, "MEDIUM"), (3, "MEDIUM"), (99, "MEDIUM")],
)
def test_a_number_that_names_no_priority_counts_as_medium(number: int, priority: str) -> None:
    assert JobPriority.from_int(number) is JobPriority[priority]


def test_a_result_says_by_default_only_whether_it_succeeded() -> None:
    assert asdict(JobResult(True)) == {
        "success": True,
        "result": None,
        "error": None,
        "execution_time": 0.0,
        "worker_id": None,
        "completed_at": None,
    }
    assert [field.name for field in fields(JobResult)] == list(asdict(JobResult(True)))
