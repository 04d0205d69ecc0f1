import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from queue_max.domain.events import Events
from queue_max.domain.identity import new_uid
from queue_max.domain.job import Job, JobHandle, JobStatus
from queue_max.domain.jobfile import Format
from queue_max.exceptions import (
    InvalidJobError,
    PartialBatchError,
    PayloadError,
    QueueError,
    ShardBusyError,
    ShardDamagedError,
    ShardError,
)
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService

Told = list[tuple[str, dict[str, Any]]]

BONDS = ({}, {"pagina_id": 1})
"""Of a job that may go to any shard, and of one that belongs to shard 1 of two."""

two_shards = pytest.mark.parametrize("shard_count", [2])
three_shards = pytest.mark.parametrize("shard_count", [3])
impatient = pytest.mark.parametrize("busy_timeout_ms", [50])


def stored(inspection: InspectionService) -> list[Job]:
    """All jobs, the oldest of each shard first."""
    return inspection.jobs(tuple(JobStatus), limit=None)[::-1]


def numbered(numbers: range) -> list[dict[str, Any]]:
    return [{"payload": {"n": number}} for number in numbers]


# One job


def test_a_submitted_job_is_stored_with_what_it_was_given(
    intake: IntakeService, inspection: InspectionService
) -> None:
    handle = intake.submit(
        {"payload": {"a": 1}, "pagina_id": 7, "priority": 2, "max_retries": 5, "retry_delay": 9}
    )
    [job] = stored(inspection)
    assert handle == {"id": job.id, "shard_id": 0}
    assert handle.key == job.key
    assert (job.payload, job.pagina_id, job.priority) == ({"a": 1}, 7, 2)
    assert (job.max_attempts, job.retry_delay) == (6, 9)


def test_a_job_can_be_stored_under_a_uid_that_is_told_before(
    intake: IntakeService, inspection: InspectionService
) -> None:
    uid = new_uid()
    assert intake.submit({"payload": {}}, uid=uid).uid == uid
    assert inspection.find(f"0-{uid}").payload == {}


def test_jobs_that_threads_submit_at_once_are_stored_with_one_commit(
    intake: IntakeService, store: Store, inspection: InspectionService, statements: list[str]
) -> None:
    def submit(number: int) -> JobHandle:
        return intake.submit({"payload": {"n": number}})

    with ThreadPoolExecutor(8) as threads:
        with store.writing(0):
            futures = [threads.submit(submit, number) for number in range(8)]
            while len(intake._lines[None]._requests) < 7:  # all but the one that waits to store
                time.sleep(0.001)
        handles = [future.result(30) for future in futures]
    assert statements.count("BEGIN IMMEDIATE") <= 3  # of the lock, of the first, of all others
    found = {job.id: job.payload["n"] for job in stored(inspection)}
    assert [found[handle["id"]] for handle in handles] == list(range(8))


@two_shards
def test_a_job_that_waits_for_a_locked_shard_holds_up_no_other(
    intake: IntakeService, locked: Callable[[int], AbstractContextManager[None]]
) -> None:
    with ThreadPoolExecutor(2) as threads:
        with locked(0):
            bound = threads.submit(intake.submit, {"payload": {}, "pagina_id": 0})
            while (turn := intake._lines[0]._turn).acquire(blocking=False):
                turn.release()  # until it has begun: it would be the first in a line for all
            free = [threads.submit(intake.submit, {"payload": {}} | bond) for bond in BONDS]
            assert [each.result(10)["shard_id"] for each in free] == [1, 1]
            assert not bound.done()
        assert bound.result(30)["shard_id"] == 0


@two_shards
def test_a_job_may_say_how_long_it_waits_for_the_shard_it_is_bound_to(
    intake: IntakeService, locked: Callable[[int], AbstractContextManager[None]]
) -> None:
    job, begun = {"payload": {}, "pagina_id": 1}, time.monotonic()
    with locked(1), pytest.raises(ShardBusyError):
        intake.submit(job, 0.0)
    assert time.monotonic() - begun < 10  # and not for as long as the busy timeout
    assert intake.submit(job, 0.0)["shard_id"] == 1


@three_shards
def test_of_jobs_that_are_submitted_at_once_each_gets_its_own_error(
    intake: IntakeService, damage: Callable[[int], None], store: Store
) -> None:
    damage(1)

    def submit(pagina_id: int | None) -> JobHandle | QueueError:
        try:
            return intake.submit({"payload": {}, "pagina_id": pagina_id})
        except QueueError as error:
            return error

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(submit, [0, 1, 2, None] * 20))
    refused = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, ShardDamagedError)]
    assert refused == list(range(1, 80, 4))
    assert all(isinstance(outcomes[at], JobHandle) for at in range(80) if at not in refused)


@pytest.mark.parametrize("given", [{}, {"max_retries": None, "retry_delay": None}])
def test_what_is_left_out_has_a_default(
    intake: IntakeService, inspection: InspectionService, given: dict[str, Any]
) -> None:
    intake.submit({"payload": {}} | given)
    [job] = stored(inspection)
    assert (job.pagina_id, job.priority, job.max_attempts, job.retry_delay) == (None, 0, 4, 60)


def test_no_retries_means_one_attempt(intake: IntakeService, inspection: InspectionService) -> None:
    intake.submit({"payload": {}, "max_retries": 0})
    assert [job.max_attempts for job in stored(inspection)] == [1]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "has no 'payload'"),
        ({"payload": None}, "payload: should be a dict, not NoneType"),
        ({"payload": {"x": {1}}}, r"payload\['x'\]: "),
        ({"payload": {}, "priority": 3}, "priority=3"),
        ({"payload": {}, "priority": True}, "priority=True"),
        ({"payload": {}, "max_retries": -1}, "max_retries=-1"),
        ({"payload": {}, "pagina_id": 2**70}, "pagina_id="),
        ({"payload": {}, "retry_delay": -1}, "retry_delay=-1"),
        ({"payload": {}, "prioridade": 1}, "unknown 'prioridade'"),
    ],
)
def test_a_bad_job_is_refused_by_name(
    intake: IntakeService,
    inspection: InspectionService,
    told: Told,
    item: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InvalidJobError, match=message):
        intake.submit(item)
    assert stored(inspection) == []
    assert told == []


@three_shards
def test_jobs_of_one_pagina_id_share_a_shard(intake: IntakeService) -> None:
    shard_ids = [
        [intake.submit({"payload": {}, "pagina_id": pagina})["shard_id"] for _ in range(3)]
        for pagina in (3, 4, 5, -1)
    ]
    assert shard_ids == [[0] * 3, [1] * 3, [2] * 3, [2] * 3]


@three_shards
def test_other_jobs_are_spread_by_chance(intake: IntakeService) -> None:
    handles = [intake.submit({"payload": {}}) for _ in range(60)]
    assert {handle["shard_id"] for handle in handles} == {0, 1, 2}


def test_the_event_comes_after_the_commit(
    intake: IntakeService, events: Events, inspection: InspectionService
) -> None:
    seen: list[tuple[int, int, int]] = []

    def look(job_id: int, shard_id: int) -> None:
        seen.append((job_id, shard_id, inspection.counts().pending))

    events.on("job_enqueued", look)
    handle = intake.submit({"payload": {}})
    assert seen == [(handle["id"], 0, 1)]


def test_a_callback_that_fails_does_not_fail_the_caller(
    intake: IntakeService, events: Events, inspection: InspectionService
) -> None:
    events.on("job_enqueued", lambda **_: 1 // 0)
    intake.submit({"payload": {}})
    assert len(stored(inspection)) == 1


def test_a_job_costs_one_insert_whatever_waits_already(
    intake: IntakeService, add: Callable[..., list[int]], statements: list[str]
) -> None:
    add(500)
    intake.submit({"payload": {}})  # the first one looks how many wait
    statements.clear()
    for _ in range(20):
        intake.submit({"payload": {}})
    assert len(statements) == 40
    assert set(statements[::2]) == {"BEGIN IMMEDIATE"}
    assert all(sql.startswith("INSERT INTO fila ") for sql in statements[1::2])


@two_shards
@pytest.mark.parametrize("good", [0, 1])
def test_a_damaged_shard_does_not_stop_jobs_for_another(
    intake: IntakeService, damage: Callable[[int], None], told: Told, good: int
) -> None:
    damage(1 - good)
    handle = intake.submit({"payload": {}, "pagina_id": good})
    assert told == [("job_enqueued", {"job_id": handle["id"], "shard_id": good})]


@impatient
def test_a_job_for_a_locked_shard_is_refused_by_our_own_error(
    intake: IntakeService,
    locked: Callable[[int], AbstractContextManager[None]],
    inspection: InspectionService,
    told: Told,
) -> None:
    with locked(0), pytest.raises(ShardBusyError):
        intake.submit({"payload": {}})
    assert stored(inspection) == []
    assert told == []


# Many jobs


@three_shards
def test_handles_come_in_the_order_of_the_jobs(
    intake: IntakeService, inspection: InspectionService
) -> None:
    handles = intake.submit_many(numbered(range(100)))
    numbers = {(job.shard_id, job.id): job.payload["n"] for job in stored(inspection)}
    assert {handle["shard_id"] for handle in handles} == {0, 1, 2}
    in_order = [numbers[handle["shard_id"], handle["id"]] for handle in handles]
    assert in_order == list(range(100))
    assert [handle.key for handle in handles] == [
        f"{handle['shard_id']}-{handle.uid}" for handle in handles
    ]


def test_a_batch_may_be_any_iterable_and_empty(intake: IntakeService, told: Told) -> None:
    assert intake.submit_many(iter([])) == []
    assert told == []
    assert len(intake.submit_many(item for item in numbered(range(3)))) == 3


@three_shards
def test_a_batch_is_one_transaction_a_shard(intake: IntakeService, statements: list[str]) -> None:
    intake.submit_many(numbered(range(100)))
    assert statements.count("BEGIN IMMEDIATE") == 3


@three_shards
@pytest.mark.parametrize("position", [0, 4])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"payload": [1]}, PayloadError),
        ({"payload": {}, "priority": 9}, InvalidJobError),
        ({"payload": {}, "pagina_id": 2**70}, InvalidJobError),
        ({"priority": 1}, InvalidJobError),
        ("payload", InvalidJobError),
        (None, InvalidJobError),
    ],
)
def test_one_bad_job_keeps_all_out_and_its_position_is_named(
    intake: IntakeService,
    inspection: InspectionService,
    told: Told,
    bad: Any,
    error: type[Exception],
    position: int,
) -> None:
    items = numbered(range(4))
    items.insert(position, bad)
    with pytest.raises(error, match=rf"^job {position}: "):
        intake.submit_many(items)
    # Nor does what comes next bring any of them in.
    intake.submit({"payload": {"n": "next"}})
    assert [job.payload["n"] for job in stored(inspection)] == ["next"]
    assert [event for event, _ in told] == ["job_enqueued"]


def test_the_events_of_a_batch_come_after_its_commit(
    intake: IntakeService, events: Events, inspection: InspectionService
) -> None:
    seen: list[tuple[int, int]] = []
    events.on(
        "job_enqueued",
        lambda job_id, shard_id: seen.append((job_id, inspection.counts().pending)),
    )
    handles = intake.submit_many(numbered(range(3)))
    assert seen == [(handle["id"], 3) for handle in handles]


@two_shards
def test_jobs_that_belong_to_no_shard_go_round_one_that_cannot_serve(
    intake: IntakeService, damage: Callable[[int], None]
) -> None:
    damage(0)
    handles = [intake.submit({"payload": {}}) for _ in range(8)]
    handles += intake.submit_many(numbered(range(8)))
    assert {handle["shard_id"] for handle in handles} == {1}


@two_shards
def test_jobs_that_belong_to_no_shard_do_not_wait_for_one_that_is_locked(
    intake: IntakeService, locked: Callable[[int], AbstractContextManager[None]]
) -> None:
    with locked(1):  # for the full busy timeout, if it were waited for
        handles = [intake.submit({"payload": {}}) for _ in range(8)]
    assert {handle["shard_id"] for handle in handles} == {0}


@two_shards
@impatient
def test_where_no_shard_serves_the_error_is_that_of_the_first_that_was_tried(
    intake: IntakeService,
    damage: Callable[[int], None],
    locked: Callable[[int], AbstractContextManager[None]],
) -> None:
    damage(0)
    with locked(1), pytest.raises(ShardError):
        intake.submit({"payload": {}})


@two_shards
def test_a_job_whose_commit_is_in_doubt_is_not_stored_in_another_shard(
    intake: IntakeService,
    store: Store,
    inspection: InspectionService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writing = store.writing

    @contextmanager
    def failing_commit(shard_id: int, wait: float | None = None) -> Iterator[UnitOfWork]:
        with writing(shard_id, wait) as unit:
            yield unit
        raise ShardError(shard_id, "disk I/O error")

    monkeypatch.setattr(store, "writing", failing_commit)
    with pytest.raises(ShardError, match="disk I/O error"):
        intake.submit({"payload": {}})
    assert inspection.counts().pending == 1


@two_shards
@impatient
def test_when_one_shard_is_locked_the_error_carries_what_the_other_stored(
    intake: IntakeService,
    inspection: InspectionService,
    locked: Callable[[int], AbstractContextManager[None]],
    told: Told,
) -> None:
    items = [{"payload": {"n": number}, "pagina_id": number} for number in range(6)]
    with locked(1), pytest.raises(PartialBatchError) as caught:
        intake.submit_many(items)
    jobs = stored(inspection)
    assert [job.payload["n"] for job in jobs] == [0, 2, 4]
    assert list(caught.value.stored) == [{"id": job.id, "shard_id": 0} for job in jobs]
    assert caught.value.shard_id == 1
    assert [facts["job_id"] for _, facts in told] == [job.id for job in jobs]


@two_shards
@impatient
def test_the_error_of_a_partial_batch_says_each_thing_once(
    intake: IntakeService, locked: Callable[[int], AbstractContextManager[None]]
) -> None:
    items = [{"payload": {}, "pagina_id": number} for number in range(6)]
    with locked(1), pytest.raises(PartialBatchError, match="3 other jobs are stored") as caught:
        intake.submit_many(items)
    assert str(caught.value).count("shard 1") == 1


@two_shards
def test_when_one_shard_is_damaged_the_error_carries_what_the_other_stored(
    intake: IntakeService, damage: Callable[[int], None], told: Told
) -> None:
    damage(0)
    items = [{"payload": {"n": number}, "pagina_id": number} for number in range(6)]
    with pytest.raises(PartialBatchError) as caught:
        intake.submit_many(items)
    assert caught.value.shard_id == 0
    assert [handle["shard_id"] for handle in caught.value.stored] == [1, 1, 1]
    assert isinstance(caught.value.__cause__, ShardDamagedError)
    assert len(told) == 3


@two_shards
def test_when_the_queue_is_closed_half_way_the_error_carries_what_was_stored(
    intake: IntakeService, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.writing

    @contextmanager
    def write_and_close(*of: Any) -> Iterator[UnitOfWork]:
        with write(*of) as unit:
            yield unit
        store.close()

    monkeypatch.setattr(store, "writing", write_and_close)
    items = [{"payload": {}, "pagina_id": number} for number in range(6)]
    with pytest.raises(PartialBatchError, match=r"closed.*3 other jobs are stored") as caught:
        intake.submit_many(items)
    assert len(caught.value.stored) == 3


@impatient
def test_when_nothing_was_stored_the_error_is_that_of_the_shard(
    intake: IntakeService, locked: Callable[[int], AbstractContextManager[None]]
) -> None:
    with locked(0), pytest.raises(ShardError) as caught:
        intake.submit_many(numbered(range(3)))
    assert type(caught.value) is ShardBusyError


# Files


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "jobs"
        path.write_text(text, encoding="utf-8")
        return path

    return write


Write = Callable[[str], Path]


def test_each_line_of_a_file_is_a_job(
    intake: IntakeService, inspection: InspectionService, write: Write
) -> None:
    path = write(
        '{"payload": {"n": 1}, "priority": 2}\n'
        "\n"
        '{"payload": {"n": 2}, "pagina_id": 5, "max_retries": 0, "retry_delay": 1}'
    )
    assert intake.submit_file(path, Format.JSONL, skip_bad_lines=False) == (2, 0)
    first, second = stored(inspection)
    assert (first.payload, first.priority, first.max_attempts) == ({"n": 1}, 2, 4)
    assert (second.payload, second.pagina_id, second.max_attempts) == ({"n": 2}, 5, 1)
    assert second.retry_delay == 1


def test_each_row_of_a_csv_file_is_a_payload(
    intake: IntakeService, inspection: InspectionService, write: Write
) -> None:
    path = write('url,priority\n"a,b",2\nc,\n')
    assert intake.submit_file(path, Format.CSV, skip_bad_lines=False) == (2, 0)
    first, second = stored(inspection)
    assert (first.payload, first.priority) == ({"url": "a,b", "priority": "2"}, 2)
    assert (second.payload, second.priority) == ({"url": "c", "priority": ""}, 0)


BAD_JSONL = '{"payload": {"n": 1}}\n\n{"payload": {"n": }}\n{"payload": {"n": 4}}\n'
BAD_JOB = '{"payload": {"n": 1}}\n\n{"payload": {"n": 3}, "priority": 7}\n{"payload": {"n": 4}}\n'
BAD_KIND = '{"payload": {"n": 1}}\n\n[3]\n{"payload": {"n": 4}}\n'
BAD_CSV = "n,priority\n1,0\n2,urgent\n4,1\n"
SHORT_CSV = "n,priority\n1,0\n2\n4,1\n"


@pytest.mark.parametrize(
    ("text", "file_format", "message"),
    [
        (BAD_JSONL, Format.JSONL, "line 3: not JSON"),
        (BAD_JOB, Format.JSONL, "line 3: priority=7"),
        (BAD_KIND, Format.JSONL, "line 3: should be a dict, not list"),
        (BAD_CSV, Format.CSV, "line 3: priority='urgent'"),
        (SHORT_CSV, Format.CSV, "line 3: has not as many columns"),
    ],
)
def test_nothing_is_taken_of_a_file_with_a_bad_line_and_its_number_is_named(
    intake: IntakeService,
    inspection: InspectionService,
    told: Told,
    write: Write,
    text: str,
    file_format: Format,
    message: str,
) -> None:
    with pytest.raises(InvalidJobError, match=f"^{message}"):
        intake.submit_file(write(text), file_format, skip_bad_lines=False)
    assert stored(inspection) == []
    assert told == []


@pytest.mark.parametrize(
    ("text", "file_format"),
    [
        (BAD_JSONL, Format.JSONL),
        (BAD_JOB, Format.JSONL),
        (BAD_KIND, Format.JSONL),
        (BAD_CSV, Format.CSV),
        (SHORT_CSV, Format.CSV),
    ],
)
def test_bad_lines_are_skipped_and_counted_when_asked(
    intake: IntakeService,
    inspection: InspectionService,
    write: Write,
    text: str,
    file_format: Format,
) -> None:
    assert intake.submit_file(write(text), file_format, skip_bad_lines=True) == (2, 1)
    assert [int(job.payload["n"]) for job in stored(inspection)] == [1, 4]


def test_a_bad_line_far_down_keeps_out_what_stands_above_it(
    intake: IntakeService, inspection: InspectionService, write: Write
) -> None:
    lines = [json.dumps(item) for item in numbered(range(1, 2_500))]
    path = write("\n".join([*lines, '{"payload": 0}']))
    with pytest.raises(PayloadError, match=r"^line 2500: "):
        intake.submit_file(path, Format.JSONL, skip_bad_lines=False)
    assert stored(inspection) == []


@pytest.mark.parametrize("skip_bad_lines", [False, True])
def test_a_long_file_is_taken_whole_in_its_order_and_not_in_one_transaction(
    intake: IntakeService,
    inspection: InspectionService,
    write: Write,
    statements: list[str],
    told: Told,
    skip_bad_lines: bool,
) -> None:
    path = write("\n".join(json.dumps(item) for item in numbered(range(2_500))))
    taken = intake.submit_file(path, Format.JSONL, skip_bad_lines=skip_bad_lines)
    assert taken == (2_500, 0)
    assert statements.count("BEGIN IMMEDIATE") == 3
    assert [job.payload["n"] for job in stored(inspection)] == list(range(2_500))
    assert len(told) == 2_501
    assert [event for event, _ in told].count("alert") == 1


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_gives_no_jobs(intake: IntakeService, write: Write, text: str) -> None:
    assert intake.submit_file(write(text), Format.JSONL, skip_bad_lines=False) == (0, 0)


def test_nothing_is_taken_of_a_file_that_is_no_text(
    intake: IntakeService, inspection: InspectionService, tmp_path: Path
) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(b'{"payload": {"n": 1}}\n{"payload": {"n": "\xff"}}\n')
    with pytest.raises(InvalidJobError, match="is not UTF-8"):
        intake.submit_file(path, Format.JSONL, skip_bad_lines=False)
    assert stored(inspection) == []


@impatient
def test_when_nothing_was_taken_of_a_file_the_error_is_that_of_the_shard(
    intake: IntakeService, locked: Callable[[int], AbstractContextManager[None]], write: Write
) -> None:
    path = write('{"payload": {}}')
    with locked(0), pytest.raises(ShardError) as caught:
        intake.submit_file(path, Format.JSONL, skip_bad_lines=False)
    assert type(caught.value) is ShardBusyError


@impatient
def test_when_a_shard_refuses_in_the_middle_of_a_file_the_error_tells_what_was_taken(
    intake: IntakeService,
    inspection: InspectionService,
    locked: Callable[[int], AbstractContextManager[None]],
    events: Events,
    write: Write,
) -> None:
    path = write("\n".join(json.dumps(item) for item in numbered(range(1_500))))
    with ExitStack() as lock:

        def lock_after_the_first_thousand(job_id: int, **_: int) -> None:
            if job_id == 1_000:
                lock.enter_context(locked(0))

        events.on("job_enqueued", lock_after_the_first_thousand)
        with pytest.raises(PartialBatchError) as caught:
            intake.submit_file(path, Format.JSONL, skip_bad_lines=False)
    assert len(stored(inspection)) == 1_000
    assert caught.value.total == 1_000
