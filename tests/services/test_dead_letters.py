import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from support.clock import FakeClock

from queue_max.domain.clock import to_text
from queue_max.domain.dead_letters import DeadLetter
from queue_max.domain.failures import Failure
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.domain.retry import Bury
from queue_max.exceptions import (
    ConfigurationError,
    InvalidJobError,
    JobNotFoundError,
    PayloadError,
    ShardBusyError,
    ShardDamagedError,
)
from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store
from queue_max.services.dead_letters import STEP, DeadLetterService
from queue_max.services.inspection import InspectionService
from queue_max.services.retention import RetentionService
from queue_max.services.retry import RetryService

Told = list[tuple[str, dict[str, Any]]]
Start = Callable[..., Job]
Claim = Callable[..., Job | None]
Find = Callable[..., Job | None]

two_shards = pytest.mark.parametrize("shard_count", [2])


@pytest.fixture
def bury(start: Start, retry: RetryService) -> Callable[..., Job]:
    """Store a job that fails for good."""

    def bury(error: BaseException | str = "no such page", **fields: Any) -> Job:
        job = start(**fields)
        retry.settle_job(job, error, permanent=True)
        return job

    return bury


def test_a_job_is_failed_and_its_evidence_kept_in_one_transaction(
    dead_letters: DeadLetterService, store: Store, start: Start, find: Find
) -> None:
    job = start()

    def bury_and_fail() -> None:
        with store.writing(0) as unit:
            dead_letters.bury(unit, job, Failure("ValueError", "no"), Bury("permanent"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bury_and_fail()
    assert find(job.id) == job
    assert dead_letters.newest(0, 10) == []
    with store.reading(0) as unit:
        assert unit.metadata.totals() == Totals()


def test_a_revived_job_lives_again_and_is_no_dead_letter(
    dead_letters: DeadLetterService, bury: Callable[..., Job], find: Find, claim: Claim
) -> None:
    buried = bury(max_attempts=2)
    assert dead_letters.revive_all(0) == 1
    assert dead_letters.newest(0, 10) == []
    revived = find(buried.id)
    assert revived is not None
    assert revived.status is JobStatus.PENDING
    assert (revived.attempts, revived.completed_at, revived.next_retry_at) == (0, None, None)
    # What it died of is still told.
    assert revived.last_error == "no such page"


def test_a_revived_job_has_a_fresh_budget_and_its_fence_keeps_rising(
    dead_letters: DeadLetterService,
    bury: Callable[..., Job],
    claim: Claim,
    retry: RetryService,
    clock: FakeClock,
) -> None:
    buried = bury(max_attempts=2)
    dead_letters.revive_all(0)
    for attempt in (1, 2):
        job = claim()
        assert job is not None
        assert (job.attempts, job.fence) == (attempt, buried.fence + attempt)
        retry.settle(job.id, 0, "again", fence=job.fence)
        clock.advance(3600)
    assert claim() is None
    assert [letter["error"] for letter in dead_letters.newest(0, 10)] == ["again"]


def test_one_job_can_be_revived_alone(
    dead_letters: DeadLetterService, bury: Callable[..., Job], inspection: InspectionService
) -> None:
    first, second = bury(), bury()
    assert dead_letters.revive(0, second.id)
    assert [letter["original_job_id"] for letter in dead_letters.newest(0, 10)] == [first.id]
    assert (inspection.counts().pending, inspection.counts().failed) == (1, 1)


def test_what_is_not_dead_is_not_revived(
    dead_letters: DeadLetterService, start: Start, find: Find
) -> None:
    running = start()
    assert not dead_letters.revive(0, running.id)
    assert not dead_letters.revive(0, 9_999)
    assert dead_letters.revive_all(0) == 0
    assert find(running.id) == running


def test_reviving_twice_revives_once(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    bury()
    assert [dead_letters.revive_all(0) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("shard_count", [2])
def test_each_shard_has_its_own_dead_letters(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    bury(shard_id=0)
    second = bury(shard_id=1)
    [letter] = dead_letters.newest(1, 10)
    assert (letter["original_job_id"], letter["shard_id"]) == (second.id, 1)
    assert dead_letters.revive_all(1) == 1
    assert len(dead_letters.newest(0, 10)) == 1


@pytest.mark.parametrize("shard_count", [3])
def test_a_shard_that_cannot_serve_does_not_keep_the_failed_jobs_of_others(
    dead_letters: DeadLetterService, bury: Callable[..., Job], damage: Callable[[int], None]
) -> None:
    for shard_id in range(3):
        bury(shard_id=shard_id)
    damage(0)
    with pytest.raises(ShardDamagedError):
        dead_letters.revive_all()
    assert [len(dead_letters.newest(each, 10)) for each in (1, 2)] == [0, 0]


def test_the_newest_dead_letters_are_read_first(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    ids = [bury().id for _ in range(4)]
    newest = [letter["original_job_id"] for letter in dead_letters.newest(0, 3)]
    assert newest == ids[:0:-1]


@pytest.mark.parametrize("limit", [-1, 2**70, "1", 1.0])
def test_a_limit_that_is_no_count_is_refused(
    dead_letters: DeadLetterService, bury: Callable[..., Job], limit: Any
) -> None:
    bury()
    with pytest.raises(ConfigurationError, match=f"^limit={limit!r}: should be"):
        dead_letters.newest(0, limit)


def test_any_number_of_jobs_can_be_revived_together(
    dead_letters: DeadLetterService,
    store: Store,
    add: Callable[..., list[int]],
    claim: Claim,
    inspection: InspectionService,
    statements: list[str],
) -> None:
    add(1_500)
    with store.writing(0) as unit:
        while job := unit.claims.claim_next(DEFAULT_QUEUE, "worker-1"):
            dead_letters.bury(unit, job, Failure("ValueError", "no"), Bury("permanent"))
    statements.clear()
    assert dead_letters.revive_all(0) == 1_500
    assert inspection.counts().pending == 1_500
    assert dead_letters.newest(0, 1) == []
    # SQLite takes some 32,000 values in a statement, older ones 999.
    assert max(sql.count("?") for sql in statements) < 999


# Requeueing, discarding, exporting


def keys(letters: Sequence[DeadLetter]) -> list[str]:
    return [letter.key for letter in letters]


@two_shards
def test_the_newest_of_all_shards_comes_first(
    dead_letters: DeadLetterService, bury: Callable[..., Job], clock: FakeClock
) -> None:
    buried = []
    for number in range(5):
        buried.append(bury(shard_id=number % 2).key)
        clock.advance(1)
    assert keys(dead_letters.list()) == buried[::-1]
    assert keys(dead_letters.list(2)) == buried[:2:-1]
    assert keys(dead_letters.list(None, shard_id=1)) == buried[3::-2]


def test_letters_are_chosen_by_error_and_time(
    dead_letters: DeadLetterService, bury: Callable[..., Job], clock: FakeClock
) -> None:
    first = bury(ValueError("no")).key
    clock.advance(60)
    bury(KeyError("no"))
    assert keys(dead_letters.list(error_type="ValueError")) == [first]
    assert keys(dead_letters.list(before=to_text(clock.now))) == [first]
    assert dead_letters.list(error_type="ValueError", before=to_text(clock.now)[:10]) == []


@pytest.mark.parametrize("before", ["yesterday", "", 7])
def test_a_time_that_is_none_is_refused(dead_letters: DeadLetterService, before: Any) -> None:
    with pytest.raises(ConfigurationError, match="before="):
        dead_letters.requeue_all(before=before)


def test_a_letter_has_all_attempts(
    dead_letters: DeadLetterService,
    retry: RetryService,
    start: Callable[..., Job],
    claim: Callable[..., Job | None],
    clock: FakeClock,
) -> None:
    job = start("worker-1", max_attempts=2, payload='{"page": 7}')
    retry.settle_job(job, ValueError("first"))
    clock.advance(3600)
    again = claim("worker-2")
    assert again is not None
    retry.settle_job(again, KeyError("second"))
    letter = dead_letters.get(job.key)
    assert [(each.number, each.worker_id, each.error) for each in letter.attempts] == [
        (1, "worker-1", "first"),
        (2, "worker-2", "'second'"),
    ]
    assert (letter.payload, letter.reason) == ('{"page": 7}', "2 of 2 attempts made")


@pytest.mark.parametrize("how", ["key", "short key", "handle", "job", "letter"])
def test_a_requeued_job_begins_anew_and_keeps_its_history(
    dead_letters: DeadLetterService,
    inspection: InspectionService,
    store: Store,
    bury: Callable[..., Job],
    claim: Callable[..., Job | None],
    how: str,
) -> None:
    job = bury(max_attempts=3)
    handle = dead_letters.requeue(
        {
            "key": job.key,
            "short key": f"0-{job.id}",
            "handle": {"id": job.id, "shard_id": 0},
            "job": job,
            "letter": dead_letters.get(job.key),
        }[how]
    )
    assert (handle, handle.key) == ({"id": job.id, "shard_id": 0}, job.key)
    assert dead_letters.list() == []
    again = claim()
    assert again is not None
    assert (again.attempts, again.max_attempts, again.fence) == (1, 3, job.fence + 1)
    with store.reading(0) as unit:
        assert len(unit.attempts.of(str(job.uid))) == 1


def test_a_job_may_be_requeued_with_another_payload(
    dead_letters: DeadLetterService, bury: Callable[..., Job], claim: Callable[..., Job | None]
) -> None:
    dead_letters.requeue(bury(), {"page": 8})
    again = claim()
    assert again is not None
    assert again.payload == {"page": 8}


def test_a_payload_that_is_none_changes_nothing(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    job = bury()
    with pytest.raises(PayloadError):
        dead_letters.requeue(job, {"page": math.nan})
    assert keys(dead_letters.list()) == [job.key]


def test_a_job_whose_row_was_deleted_is_made_anew_from_its_letter(
    dead_letters: DeadLetterService,
    retention: RetentionService,
    bury: Callable[..., Job],
    claim: Callable[..., Job | None],
) -> None:
    job = bury(payload='{"page": 7}')
    retention.purge("failed")
    dead_letters.requeue(job)
    again = claim()
    assert again is not None
    assert (again.uid, again.payload, again.max_attempts) == (job.uid, {"page": 7}, 4)


@pytest.mark.parametrize("act", ["get", "requeue", "discard"])
def test_what_has_no_letter_is_not_found(
    dead_letters: DeadLetterService, start: Callable[..., Job], act: str
) -> None:
    with pytest.raises(JobNotFoundError, match="no dead letter"):
        getattr(dead_letters, act)(start())


@two_shards
def test_many_are_requeued_in_steps_over_all_shards(
    dead_letters: DeadLetterService,
    inspection: InspectionService,
    bury: Callable[..., Job],
    statements: list[str],
) -> None:
    for number in range(2 * STEP + 50):
        bury(ValueError("no") if number % 5 else KeyError("no"), shard_id=number % 2)
    statements.clear()
    assert dead_letters.requeue_all(error_type="ValueError") == 360
    assert statements.count("BEGIN IMMEDIATE") == 2
    assert (inspection.counts().pending, inspection.counts().failed) == (360, 90)
    assert len(dead_letters.list(None)) == 90


def test_a_damaged_payload_is_only_requeued_with_another_one(
    dead_letters: DeadLetterService, bury: Callable[..., Job], store: Store
) -> None:
    sound, damaged = bury(), bury()
    with store.writing(0) as unit:
        unit.dead_letters._connection.exec_driver_sql(
            f"UPDATE dead_letter_queue SET payload = '{{' WHERE original_job_id = {damaged.id}"
        )
    assert dead_letters.requeue_all() == 1
    assert keys(dead_letters.list()) == [damaged.key]
    with pytest.raises(InvalidJobError, match="damaged"):
        dead_letters.requeue(damaged)
    assert dead_letters.requeue(damaged, {"page": 7})["id"] == damaged.id
    assert sound.id != damaged.id


def test_a_discarded_letter_takes_its_job_with_it(
    dead_letters: DeadLetterService,
    inspection: InspectionService,
    store: Store,
    bury: Callable[..., Job],
) -> None:
    gone, kept = bury(), bury()
    dead_letters.discard(gone)
    assert keys(dead_letters.list()) == [kept.key]
    assert [job.id for job in inspection.jobs([JobStatus.FAILED], None)] == [kept.id]
    with store.reading(0) as unit:
        assert unit.attempts.of(str(gone.uid)) == []
    assert dead_letters.discard_all() == 1
    assert inspection.counts().failed == 0


@two_shards
@pytest.mark.parametrize("busy_timeout_ms", [50])
@pytest.mark.parametrize("act", ["requeue_all", "discard_all"])
def test_a_locked_shard_does_not_keep_the_others_and_is_told_at_the_end(
    dead_letters: DeadLetterService,
    bury: Callable[..., Job],
    locked: Callable[[int], AbstractContextManager[None]],
    act: str,
) -> None:
    jobs = [bury(shard_id=number) for number in range(2)]
    with locked(0), pytest.raises(ShardBusyError):
        getattr(dead_letters, act)()
    assert keys(dead_letters.list()) == [jobs[0].key]


def test_all_is_exported_as_plain_values(
    dead_letters: DeadLetterService, bury: Callable[..., Job]
) -> None:
    jobs = [bury(ValueError(f"page {number}")) for number in range(STEP + 3)]
    lines = [json.loads(json.dumps(each)) for each in dead_letters.export()]
    assert [line["key"] for line in lines] == [job.key for job in reversed(jobs)]
    assert lines[-1]["attempts"][0]["error"] == "page 0"
