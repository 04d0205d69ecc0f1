import json
import multiprocessing
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support.clock import FakeClock
from support.programs import eventually

from queue_max import Queue
from queue_max.domain.job import Job, JobStatus
from queue_max.domain.jobfile import Format
from queue_max.exceptions import (
    InvalidJobError,
    PartialBatchError,
    QueueClosedError,
    QueueFullError,
)
from queue_max.repositories.unit_of_work import Store
from queue_max.services.bounds import DROPPED, Bounds
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.headcount import REST
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService
from queue_max.services.retry import RetryService
from queue_max.services.schedules import ScheduleService

JOB: dict[str, Any] = {"payload": {}}

three_shards = pytest.mark.parametrize("shard_count", [3])
block = pytest.mark.parametrize("options", [{"patience": 30.0}])
drop = pytest.mark.parametrize("options", [{"drops_oldest": True}])


@pytest.fixture
def max_pending() -> int | Mapping[str, int] | None:
    return 3


@pytest.fixture
def options() -> dict[str, Any]:
    """The policy; to refuse at once, if a test does not say otherwise."""
    return {}


@pytest.fixture
def meanwhile() -> list[Callable[[], object]]:
    """What is done, one after the other, while somebody waits for room."""
    return []


@pytest.fixture
def bounds(
    store: Store,
    clock: FakeClock,
    max_pending: int | Mapping[str, int] | None,
    options: dict[str, Any],
    meanwhile: list[Callable[[], object]],
) -> Bounds:
    """Who waits moves the clock on."""

    def sleep(seconds: float) -> None:
        clock.advance(max(seconds, 1e-5))  # it goes in microseconds
        if seconds > REST and meanwhile:
            meanwhile.pop(0)()

    return Bounds(store, max_pending, **options, clock=lambda: clock.now.timestamp(), sleep=sleep)


@pytest.fixture
def intake(
    store: Store, events: Any, alarm: Any, room: Any, rng: Any, bounds: Bounds
) -> IntakeService:
    return IntakeService(store, events, alarm, room, lambda _: None, rng, 3, bounds)


@pytest.fixture
def in_state(inspection: InspectionService) -> Callable[..., list[Any]]:
    """The numbers in the payloads of jobs in a state, in order."""

    def in_state(*states: JobStatus) -> list[Any]:
        return sorted(job.payload.get("n") for job in inspection.jobs(states, None))

    return in_state


def number(n: int, **fields: Any) -> dict[str, Any]:
    return {"payload": {"n": n}} | fields


def fill(intake: IntakeService, count: int = 3, **fields: Any) -> None:
    for n in range(count):
        intake.submit(number(n, **fields))


# Refusing


@pytest.mark.parametrize("shard_count", [1, 3])
def test_no_more_jobs_are_taken_than_may_wait(
    intake: IntakeService, inspection: InspectionService
) -> None:
    fill(intake)
    with pytest.raises(QueueFullError, match=r"max_pending is 3, .* another job\. Try again in"):
        intake.submit(JOB)
    assert inspection.counts().pending == 3


def test_jobs_that_wait_for_their_time_take_room(intake: IntakeService) -> None:
    fill(intake, delay=3600.0)
    with pytest.raises(QueueFullError):
        intake.submit(JOB)


def test_there_is_room_again_at_once_when_a_job_is_begun(
    intake: IntakeService, claim: Callable[..., Job | None]
) -> None:
    fill(intake)
    for _ in range(3):
        with pytest.raises(QueueFullError):
            intake.submit(JOB)
        claim()
        intake.submit(JOB)


def test_what_other_processes_enqueue_counts(
    intake: IntakeService, add: Callable[..., list[int]]
) -> None:
    intake.submit(JOB)
    add(2)
    with pytest.raises(QueueFullError):
        intake.submit(JOB)


def test_the_error_tells_from_how_fast_jobs_left_when_there_may_be_room(
    intake: IntakeService, claim: Callable[..., Job | None], clock: FakeClock
) -> None:
    fill(intake)
    for _ in range(5):
        with pytest.raises(QueueFullError) as caught:
            intake.submit(JOB)
        clock.advance(4)
        claim()
        intake.submit(JOB)
    assert caught.value.retry_after == pytest.approx(4, rel=0.1)
    assert caught.value.shard_id is None


@three_shards
@pytest.mark.parametrize("max_pending", [10])
def test_all_of_a_batch_is_taken_or_nothing(
    intake: IntakeService, inspection: InspectionService
) -> None:
    intake.submit_many([JOB] * 6)
    with pytest.raises(QueueFullError, match="no room for 5 more jobs"):
        intake.submit_many([JOB] * 5)
    assert inspection.counts().pending == 6
    intake.submit_many([JOB] * 4)
    assert intake.submit_many([]) == []


@pytest.mark.parametrize("options", [{}, {"patience": 30.0}, {"drops_oldest": True}])
def test_a_batch_that_never_has_room_is_a_mistake(
    intake: IntakeService, inspection: InspectionService
) -> None:
    with pytest.raises(InvalidJobError, match="4 jobs at once can never have room: max_pending is"):
        intake.submit_many([JOB] * 4)
    assert inspection.counts().pending == 0


def test_what_is_in_the_queue_comes_back_even_if_that_is_full(
    intake: IntakeService,
    start: Callable[..., Job],
    claim: Callable[..., Job | None],
    retry: RetryService,
    dead_letters: DeadLetterService,
    inspection: InspectionService,
) -> None:
    failed, buried = start(), start()
    fill(intake)
    retry.settle(failed.id, 0, "not yet")
    retry.settle(buried.id, 0, "never", permanent=True)
    dead_letters.requeue(buried.key)
    counts = inspection.counts()
    assert counts.pending + counts.scheduled == 5
    with pytest.raises(QueueFullError):
        intake.submit(JOB)
    assert claim() is not None
    with pytest.raises(QueueFullError):  # there are still four
        intake.submit(JOB)


def test_a_schedule_whose_job_has_no_room_fires_it_later(
    schedules: ScheduleService,
    intake: IntakeService,
    claim: Callable[..., Job | None],
    inspection: InspectionService,
    clock: FakeClock,
) -> None:
    schedules.put("pulse", "ping", interval=3600)
    fill(intake)
    clock.advance(3600)
    schedules.fire_due()
    assert not [job for job in inspection.jobs(tuple(JobStatus), None) if job.task == "ping"]
    claim()
    clock.advance(10)
    schedules.fire_due()
    assert [job for job in inspection.jobs(tuple(JobStatus), None) if job.task == "ping"]


@three_shards
def test_a_job_whose_key_another_has_needs_no_room(
    intake: IntakeService, add: Callable[..., list[int]]
) -> None:
    keyed = [number(n, unique_key=f"k{n}") for n in range(3)]
    first = intake.submit_many(keyed)
    add(5)
    assert intake.submit(keyed[1]).key == first[1].key
    assert [each.created for each in intake.submit_many(keyed * 2)] == [False] * 6
    with pytest.raises(QueueFullError):
        intake.submit(number(9, unique_key="another"))


def test_of_jobs_with_one_key_in_a_batch_only_the_first_needs_room(intake: IntakeService) -> None:
    fill(intake, 2)
    assert len({each.key for each in intake.submit_many([JOB | {"unique_key": "k"}] * 4)}) == 1


@three_shards
def test_a_shard_that_cannot_serve_does_not_keep_jobs_from_the_others(
    intake: IntakeService, damage: Callable[[int], None]
) -> None:
    damage(1)
    fill(intake, pagina_id=0)
    with pytest.raises(QueueFullError):
        intake.submit(JOB)


def test_a_queue_that_is_closed_says_so(intake: IntakeService, store: Store) -> None:
    store.close()
    with pytest.raises(QueueClosedError):
        intake.submit(JOB)


# Named queues

named = pytest.mark.parametrize("max_pending", [{"mail": 2, "slow": 1}])


@named
def test_each_named_queue_has_a_bound_of_its_own_and_all_others_have_none(
    intake: IntakeService,
) -> None:
    fill(intake, 9)
    fill(intake, 2, queue="mail")
    intake.submit(JOB | {"queue": "slow"})
    for name in ("mail", "slow"):
        with pytest.raises(QueueFullError, match=f"max_pending of queue {name} is "):
            intake.submit(JOB | {"queue": name})
    intake.submit(JOB)


@named
def test_a_batch_for_several_queues_needs_room_in_each(
    intake: IntakeService, inspection: InspectionService
) -> None:
    fill(intake, 1, queue="mail")
    with pytest.raises(QueueFullError, match="of queue mail"):
        intake.submit_many([JOB | {"queue": name} for name in ("slow", "mail", "mail", "any")])
    assert inspection.counts().pending == 1
    intake.submit_many([JOB | {"queue": name} for name in ("slow", "mail", "any", "any")])


@named
def test_jobs_of_other_queues_take_no_room(
    intake: IntakeService, add: Callable[..., list[int]]
) -> None:
    intake.submit(JOB | {"queue": "mail"})
    add(50)
    add(1, queue="mail")
    with pytest.raises(QueueFullError):
        intake.submit(JOB | {"queue": "mail"})


@named
@drop
def test_only_jobs_of_the_full_queue_are_dropped(
    intake: IntakeService, in_state: Callable[..., list[Any]]
) -> None:
    intake.submit(number(10))
    fill(intake, 4, queue="mail")
    assert in_state(JobStatus.CANCELLED) == [0, 1]
    assert in_state(JobStatus.PENDING) == [2, 3, 10]


# Waiting for room


@block
def test_who_blocks_goes_on_as_soon_as_there_is_room(
    intake: IntakeService,
    claim: Callable[..., Job | None],
    clock: FakeClock,
    meanwhile: list[Callable[[], object]],
    inspection: InspectionService,
) -> None:
    fill(intake)
    begun = clock.now
    meanwhile += [lambda: None] * 5 + [claim]
    intake.submit(JOB)
    assert 0 < (clock.now - begun).total_seconds() < 1
    assert inspection.counts().pending == 3


@block
@pytest.mark.parametrize(("wait", "least", "most"), [(None, 30, 31), (2.0, 2, 2.5), (0.0, 0, 0.1)])
def test_who_blocks_gives_up_after_that_time(
    intake: IntakeService, clock: FakeClock, wait: float | None, least: float, most: float
) -> None:
    fill(intake)
    begun = clock.now
    with pytest.raises(QueueFullError):
        intake.submit(JOB, wait)
    assert least <= (clock.now - begun).total_seconds() <= most


@block
def test_a_batch_waits_until_it_has_room_as_a_whole(
    intake: IntakeService,
    claim: Callable[..., Job | None],
    meanwhile: list[Callable[[], object]],
    inspection: InspectionService,
) -> None:
    fill(intake)
    meanwhile += [claim, claim]
    intake.submit_many([JOB] * 2)
    assert inspection.counts().pending == 3
    assert meanwhile == []


# Dropping


@drop
@three_shards
@pytest.mark.parametrize("max_pending", [6])
def test_the_least_urgent_jobs_are_dropped_and_of_these_the_oldest(
    intake: IntakeService,
    inspection: InspectionService,
    in_state: Callable[..., list[Any]],
    clock: FakeClock,
    bounds: Bounds,
) -> None:
    for n, priority in enumerate([1, 0, 2, 0, 1, 0]):
        intake.submit(number(n, priority=priority, delay=99.0 * (n % 2)))
        clock.advance(1)
    intake.submit(number(6, priority=1))
    assert in_state(JobStatus.CANCELLED) == [1]
    intake.submit_many([number(n, priority=2) for n in (7, 8, 9)])
    assert in_state(JobStatus.CANCELLED) == [0, 1, 3, 5]
    assert bounds.dropped == 4
    for job in inspection.jobs([JobStatus.CANCELLED], None):
        assert job.last_error == DROPPED
        assert job.completed_at is not None
    assert in_state(JobStatus.PENDING, JobStatus.SCHEDULED) == [2, 4, 6, 7, 8, 9]


@drop
def test_jobs_that_run_are_never_dropped(
    intake: IntakeService,
    claim: Callable[..., Job | None],
    in_state: Callable[..., list[Any]],
) -> None:
    for n in range(3):
        intake.submit(number(n))
        assert claim() is not None
    for n in range(3, 9):
        intake.submit(number(n))
    assert in_state(JobStatus.PROCESSING) == [0, 1, 2]
    assert in_state(JobStatus.PENDING) == [6, 7, 8]


@drop
def test_a_queue_that_is_much_too_full_is_brought_to_its_bound(
    intake: IntakeService, add: Callable[..., list[int]], inspection: InspectionService
) -> None:
    add(40)
    intake.submit(JOB)
    assert inspection.counts().pending == 3


@drop
def test_who_comes_too_late_to_drop_a_job_drops_another_one(
    intake: IntakeService,
    bounds: Bounds,
    store: Store,
    in_state: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(intake)
    find = bounds._oldest
    forestalled: list[int] = []

    def find_and_be_forestalled(*question: Any) -> list[Any]:
        found = list(find(*question))
        if not forestalled:
            with store.writing(0) as unit:
                forestalled.append(unit.waiting.cancel([found[0][0][2]], DROPPED))
        return found

    monkeypatch.setattr(bounds, "_oldest", find_and_be_forestalled)
    intake.submit(number(3))
    assert in_state(JobStatus.PENDING)[-1] == 3
    assert forestalled == [1]


@drop
def test_where_no_job_waits_any_more_there_is_room(
    intake: IntakeService,
    bounds: Bounds,
    claim: Callable[..., Job | None],
    in_state: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(intake)
    find = bounds._oldest

    def find_too_late(*question: Any) -> list[Any]:
        while claim() is not None:
            pass
        return list(find(*question))

    monkeypatch.setattr(bounds, "_oldest", find_too_late)
    intake.submit(number(3))
    assert in_state(JobStatus.PENDING) == [3]


@drop
@pytest.mark.parametrize("max_pending", [50])
def test_who_drops_waits_for_no_count(intake: IntakeService, clock: FakeClock) -> None:
    begun = clock.now
    fill(intake, 120)
    assert clock.now == begun


# Files


@pytest.fixture
def write(tmp_path: Path) -> Callable[[int], Path]:
    def write(count: int) -> Path:
        path = tmp_path / "jobs"
        path.write_text("\n".join(json.dumps(number(n)) for n in range(count)))
        return path

    return write


@pytest.mark.parametrize("max_pending", [1_500])
def test_nothing_is_taken_of_a_file_that_has_no_room_as_a_whole(
    intake: IntakeService, inspection: InspectionService, write: Callable[[int], Path]
) -> None:
    intake.submit(JOB)
    with pytest.raises(QueueFullError, match="no room for 1500 more jobs"):
        intake.submit_file(write(1_500), Format.JSONL, skip_bad_lines=False)
    assert inspection.counts().pending == 1
    assert intake.submit_file(write(1_499), Format.JSONL, skip_bad_lines=False) == (1_499, 0)


@pytest.mark.parametrize("max_pending", [1_500])
def test_a_file_that_is_not_read_twice_is_taken_in_parts_and_the_error_tells_how_far(
    intake: IntakeService, inspection: InspectionService, write: Callable[[int], Path]
) -> None:
    with pytest.raises(PartialBatchError, match="the queue is full") as caught:
        intake.submit_file(write(1_600), Format.JSONL, skip_bad_lines=True)
    assert caught.value.total == 1_000
    assert isinstance(caught.value.__cause__, QueueFullError)
    assert inspection.counts().pending == 1_000


@block
@pytest.mark.parametrize("max_pending", [50])
def test_a_file_longer_than_the_bound_flows_through(
    intake: IntakeService,
    store: Store,
    inspection: InspectionService,
    write: Callable[[int], Path],
    meanwhile: list[Callable[[], object]],
) -> None:
    def drain() -> None:
        with store.writing(0) as unit:
            unit.job_lists.purge([JobStatus.PENDING])

    meanwhile += [drain] * 2
    assert intake.submit_file(write(150), Format.JSONL, skip_bad_lines=False) == (150, 0)
    assert inspection.counts().pending == 50


# Cost


@pytest.mark.parametrize("max_pending", [None, {"mail": 5}])
def test_a_job_without_a_bound_costs_what_it_did(
    intake: IntakeService, statements: list[str]
) -> None:
    fill(intake, 1)  # the first one looks how many wait
    statements.clear()
    fill(intake, 20)
    assert {sql.partition(" (")[0] for sql in statements} == {"BEGIN IMMEDIATE", "INSERT INTO fila"}
    assert len(statements) == 40


@pytest.mark.parametrize("max_pending", [None])
def test_without_any_bound_not_even_a_lock_is_taken(bounds: Bounds) -> None:
    bounds._lock = None  # type: ignore[assignment]
    with bounds.room_for([], None):
        pass


@pytest.mark.parametrize("max_pending", [2_000])
def test_with_a_bound_a_job_costs_one_look_at_each_shard_whatever_waits(
    intake: IntakeService, add: Callable[..., list[int]], statements: list[str]
) -> None:
    add(1_500)
    fill(intake, 2)
    statements.clear()
    fill(intake, 20)
    looks = [sql for sql in statements if "sqlite_sequence" in sql]
    assert len(looks) == 20
    assert not [sql for sql in statements if "count(" in sql]


# Together


@pytest.mark.parametrize("shard_count", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"patience": 0.05}, {"drops_oldest": True}], ids=["raise", "block", "drop"]
)
def test_threads_of_a_process_never_exceed_the_bound_and_use_all_of_it(
    store: Store,
    events: Any,
    alarm: Any,
    room: Any,
    rng: Any,
    options: dict[str, Any],
    inspection: InspectionService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("queue_max.services.bounds.PATIENCE", 60.0)  # on a slow machine
    intake = IntakeService(
        store, events, alarm, room, lambda _: None, rng, 3, Bounds(store, 40, **options)
    )
    largest: list[int] = []

    def submit(n: int) -> int:
        try:
            return len(intake.submit_many([JOB] * (1 + n % 3)) if n % 2 else [intake.submit(JOB)])
        except QueueFullError:
            return 0

    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for shard_id in store.shard_ids:  # one sees the others later, so only each by itself
                largest.append(inspection.counts([shard_id]).pending)

    with ThreadPoolExecutor(9) as threads:
        watching = threads.submit(watch)
        taken = sum(threads.map(submit, range(96)))
        done.set()
        watching.result(30)
    counts = inspection.counts()
    assert counts.pending == 40
    assert max(largest) <= 40
    if "drops_oldest" not in options:
        assert taken == 40


@pytest.mark.parametrize("shard_count", [1])
def test_who_finds_too_little_room_waits_for_what_is_just_being_stored(
    store: Store,
    events: Any,
    alarm: Any,
    room: Any,
    rng: Any,
    locked: Callable[[int], AbstractContextManager[None]],
) -> None:
    """The last place is taken by the one job that is being stored; nobody is refused for it."""
    bounds = Bounds(store, 3)
    intake = IntakeService(store, events, alarm, room, lambda _: None, rng, 3, bounds)
    fill(intake, 1)
    with ThreadPoolExecutor(2) as threads:
        with locked(0):
            first = threads.submit(intake.submit, JOB)
            eventually(lambda: len(bounds._calls) == 1)
            second = threads.submit(intake.submit, JOB)
            eventually(lambda: len(bounds._calls) == 2)
        assert first.result(30).created
        assert second.result(30).created
    with pytest.raises(QueueFullError):
        intake.submit(JOB)


PROCESSES = 8
BOUND = 1_000


def _enqueue_until_full(
    data_dir: Path, seed: int, begin: Any, refused: Any, options: dict[str, Any]
) -> None:
    with Queue(data_dir=data_dir, durability="normal", **options) as queue:
        begin.wait(60)
        refusals = 0
        while refusals < 20:
            try:
                queue.enqueue({"n": seed})
            except QueueFullError:
                refusals += 1
        refused.put(refusals)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 6])
def test_many_processes_exceed_the_bound_by_no_more_than_is_stated(
    make_queue: Callable[..., Queue], data_dir: Path, shards: int
) -> None:
    queue = make_queue(shards=shards)
    spawn = multiprocessing.get_context("spawn")
    begin, refused = spawn.Barrier(PROCESSES), spawn.Queue()
    processes = [
        spawn.Process(
            target=_enqueue_until_full,
            args=(data_dir, n, begin, refused, {"max_pending": BOUND}),
        )
        for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert BOUND <= queue.get_pending_count() <= BOUND + PROCESSES - 1
