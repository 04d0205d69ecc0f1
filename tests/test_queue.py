import gc
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from queue_max import (
    ConfigurationError,
    InvalidJobError,
    Job,
    JobPriority,
    JobStatus,
    LeaseLostError,
    PartialBatchError,
    PayloadError,
    Permanent,
    Queue,
    QueueError,
    QueueFullError,
    QueueNotFoundError,
    SchemaError,
    ShardDamagedError,
    ShardError,
    ShardMissingError,
    ShardNotFoundError,
)
from queue_max.domain.events import EVENTS
from queue_max.storage import driver

LONG_AGO = "2000-01-01T00:00:00.000Z"

TOO_LONG = pytest.param(10**5000, id="5001 digits")
"""A number that Python does not write."""

MakeQueue = Callable[..., Queue]


@contextmanager
def connection_to(queue: Queue, shard_id: int = 0) -> Iterator[Any]:
    """Open a shard beside the queue, as another process would."""
    path = Path(queue.data_dir) / f"shard_{shard_id}.db"
    connection = driver.choose().module.connect(path, isolation_level=None, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def sql(queue: Queue, statement: str, shard_id: int = 0) -> list[tuple[Any, ...]]:
    with connection_to(queue, shard_id) as connection:
        return list(connection.execute(statement).fetchall())


@contextmanager
def written_by_another(queue: Queue, shard_id: int = 0) -> Iterator[None]:
    """Hold a shard's write lock for as long as the block takes."""
    with connection_to(queue, shard_id) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


GIVEN_UP = ["job_failed", "job_dead_lettered"]


def recorded(queue: Queue) -> list[tuple[str, dict[str, Any]]]:
    """Give a list that grows by each event of the queue, but for those of `pop_job`."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda **facts: seen.append((name, facts))

    for event in EVENTS.keys() - {"job_started"}:
        queue.on(event, note(event))
    return seen


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def open_files(folder: Path) -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(os.readlink(link).startswith(f"{folder}/") for link in links if link.is_symlink())


def run_next(queue: Queue, error: BaseException | str | None = None, **options: Any) -> None:
    job = queue.pop_job("w")
    assert job is not None
    if error is None:
        queue.complete_job(job.id, job.shard_id)
    else:
        queue.fail_job(job.id, job.shard_id, error, **options)


def lose_all_leases(queue: Queue) -> None:
    """Let it be long ago that the workers of running jobs were heard of."""
    for shard_id in range(queue.num_shards):
        sql(
            queue, f"UPDATE fila SET heartbeat = '{LONG_AGO}' WHERE status = 'processing'", shard_id
        )


# Opening


def test_a_new_queue_has_the_defaults_of_the_contract() -> None:
    with Queue() as queue:
        assert queue.num_shards == 6
        assert queue.max_retries == 3
        assert queue.rate_limiter.rate_limit == 160
        assert queue.rate_limiter_timeout == 5.0
        circuit = queue.circuit_breaker.get_stats()
        assert (circuit["failure_threshold"], circuit["recovery_timeout"]) == (5, 60.0)
        assert sorted(Path("data").glob("shard_*.db")) == [
            Path(f"data/shard_{number}.db") for number in range(6)
        ]


def test_what_no_argument_says_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "NUM_SHARDS": "2",
        "RATE_LIMIT_MAX": "7",
        "QUEUE_MAX_RETRIES": "0",
        "CIRCUIT_FAILURE_THRESHOLD": "9",
        "CIRCUIT_TIMEOUT": "1.5",
        "DATA_DIR": str(tmp_path / "elsewhere"),
    }.items():
        monkeypatch.setenv(name, value)
    with Queue() as queue:
        assert (queue.num_shards, queue.max_retries) == (2, 0)
        assert queue.rate_limiter.rate_limit == 7
        circuit = queue.circuit_breaker.get_stats()
        assert (circuit["failure_threshold"], circuit["recovery_timeout"]) == (9, 1.5)
        assert queue.data_dir == str(tmp_path / "elsewhere")


def test_an_argument_beats_the_environment(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue
) -> None:
    monkeypatch.setenv("NUM_SHARDS", "2")
    monkeypatch.setenv("QUEUE_MAX_RETRIES", "9")
    queue = make_queue(shards=1, max_retries=0)
    assert (queue.num_shards, queue.max_retries) == (1, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("shards", "rate_limit") for value in (0, -1, True, 1.5)),
        *((name, 2**63) for name in ("rate_limit", "circuit_breaker_threshold")),
        *(("max_retries", value) for value in (-1, True, 0.5, math.inf)),
        *(("circuit_breaker_threshold", value) for value in (0, -1, False, 1.5)),
        *(("circuit_breaker_timeout", value) for value in (0, -1, True, math.nan, math.inf)),
        *(("rate_limiter_timeout", value) for value in (-1, True, math.nan, "soon")),
        *(("durability", value) for value in (True, "half")),
        *(("data_dir", value) for value in (0, True, "a\0b", "a\ud800b")),
    ],
)
def test_a_bad_argument_is_an_error_that_names_it_and_leaves_no_trace(
    make_queue: MakeQueue, data_dir: Path, name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}=.*(should|is not)"):
        make_queue(**{name: value})
    assert not data_dir.exists()


def test_a_time_longer_than_any_clock_counts_is_as_good_as_for_ever(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, rate_limiter_timeout=10**400)
    queue.enqueue({})
    assert queue.pop_job("w") is not None
    assert queue.wait_for_jobs(0, timeout=10**400) is True


def test_limits_can_be_switched_off(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, rate_limit=math.inf, circuit_breaker_threshold=math.inf)
    queue.enqueue_batch([{"payload": {}, "max_retries": 0}] * 20)
    for _ in range(20):
        run_next(queue, "it broke")
    assert queue.get_stats()["failed"] == 20
    assert queue.is_healthy


def test_without_create_a_queue_that_is_not_there_is_an_error_and_stays_away(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    with pytest.raises(QueueNotFoundError, match=str(data_dir)):
        make_queue(create=False)
    assert not data_dir.exists()


def test_without_auto_migrate_the_error_tells_the_command(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    with pytest.raises(SchemaError, match="queue-max db upgrade"):
        make_queue(auto_migrate=False)


def test_the_stored_number_of_shards_holds(make_queue: MakeQueue) -> None:
    make_queue(shards=3)
    assert make_queue().num_shards == 3


def test_another_number_of_shards_is_an_error_that_says_what_is_stored(
    make_queue: MakeQueue,
) -> None:
    make_queue(shards=3).enqueue_batch([{"payload": {}}] * 9)
    with pytest.raises(ConfigurationError, match=r"shards=2: .* holds 3 shards"):
        make_queue(shards=2)
    assert make_queue(shards=3).get_pending_count() == 9


def test_a_shard_file_that_is_gone_is_an_error_and_is_not_made_anew(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    make_queue(shards=2).close()
    (data_dir / "shard_1.db").unlink()
    with pytest.raises(ShardMissingError, match="shard 1"):
        make_queue().enqueue({}, pagina_id=1)
    assert not (data_dir / "shard_1.db").exists()


def test_the_queue_goes_on_without_a_damaged_shard_and_says_so(
    make_queue: MakeQueue, data_dir: Path
) -> None:
    make_queue(shards=3).close()
    (data_dir / "shard_1.db").write_bytes(b"no database " * 1000)
    queue = make_queue()
    with pytest.raises(ShardDamagedError, match="shard 1") as raised:
        queue.enqueue({}, pagina_id=1)
    assert raised.value.shard_id == 1
    for _ in range(20):
        queue.enqueue({})
    while job := queue.pop_job("w"):
        assert queue.complete_job(job.id, job.shard_id)
    stats = queue.get_stats()
    assert (stats["completed"], stats["unavailable_shards"]) == (20, [1])
    assert not stats["is_healthy"]
    assert not queue.is_healthy


def test_a_shard_file_that_was_empty_counts_its_jobs(data_dir: Path, make_queue: MakeQueue) -> None:
    data_dir.mkdir()
    (data_dir / "shard_0.db").touch()
    queue = make_queue()
    queue.enqueue({})
    run_next(queue)
    assert queue.get_stats()["completed"] == 1


def test_its_text_tells_shards_and_rate_limit(make_queue: MakeQueue) -> None:
    assert repr(make_queue(shards=2, rate_limit=50)) == "Queue(shards=2, rate_limit=50)"


# Taking jobs in


def test_enqueue_gives_a_dict_of_id_and_shard(queue: Queue) -> None:
    first, second = queue.enqueue({"n": 1}), queue.enqueue({"n": 2})
    assert first == {"id": 1, "shard_id": 0}
    assert second == {"id": 2, "shard_id": 0}
    assert json.loads(json.dumps(first)) == first


def test_enqueue_tells_that_a_job_came(queue: Queue) -> None:
    events = recorded(queue)
    queue.enqueue({})
    assert events == [("job_enqueued", {"job_id": 1, "shard_id": 0})]


def test_what_was_enqueued_is_popped(queue: Queue) -> None:
    queue.enqueue({"a": [1, "ü", None]}, pagina_id=7, priority=2, max_retries=4, retry_delay=5)
    job = queue.pop_job("w")
    assert job is not None
    assert job.payload == {"a": [1, "ü", None]}
    assert (job.pagina_id, job.priority) == (7, JobPriority.HIGH)
    assert (job.max_attempts, job.retry_delay) == (5, 5)


def test_jobs_of_one_pagina_id_share_a_shard(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=4)
    by_page = {
        page: {queue.enqueue({}, pagina_id=page)["shard_id"] for _ in range(5)} for page in range(8)
    }
    assert all(len(shards) == 1 for shards in by_page.values())
    assert set.union(*by_page.values()) == {0, 1, 2, 3}


def test_the_retries_of_a_job_default_to_those_of_its_queue(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, max_retries=6)
    queue.enqueue({})
    queue.enqueue({}, max_retries=0)
    assert [job.max_attempts for job in queue.list_jobs()] == [1, 7]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"payload": None}, "payload"),
        ({"payload": [1]}, "payload"),
        ({"payload": {"a": {"b": math.nan}}}, r"payload\['a'\]\['b'\]"),
        ({"payload": {1: "a"}}, "key 1"),
        ({"payload": {"a": b"bytes"}}, r"payload\['a'\]"),
        ({"payload": {"a": {1, 2}}}, r"payload\['a'\]"),
        ({"payload": {"a": "x" * 10_500_000}}, "payload"),
        ({"payload": {}, "priority": 3}, "priority"),
        ({"payload": {}, "priority": -1}, "priority"),
        ({"payload": {}, "priority": True}, "priority"),
        ({"payload": {}, "priority": 1.0}, "priority"),
        ({"payload": {}, "max_retries": -1}, "max_retries"),
        ({"payload": {}, "max_retries": True}, "max_retries"),
        ({"payload": {}, "pagina_id": "abc"}, "pagina_id"),
        ({"payload": {}, "pagina_id": 0.5}, "pagina_id"),
        ({"payload": {}, "pagina_id": 2**70}, "pagina_id"),
        ({"payload": {}, "retry_delay": -1}, "retry_delay"),
    ],
)
def test_a_bad_job_is_refused_by_name_and_nothing_is_stored(
    queue: Queue, arguments: dict[str, Any], named: str
) -> None:
    events = recorded(queue)
    with pytest.raises(InvalidJobError, match=named) as raised:
        queue.enqueue(**arguments)
    assert isinstance(raised.value, ValueError)
    assert (queue.get_pending_count(), events) == (0, [])


def test_a_payload_nested_too_deep_is_refused(queue: Queue) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(PayloadError, match="20 levels"):
        queue.enqueue(deep)


def test_a_batch_gives_its_handles_in_order(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=3)
    given = queue.enqueue_batch([{"payload": {"n": n}, "pagina_id": n} for n in range(6)])
    assert given == {
        "total": 6,
        "jobs": [{"id": 1 + n // 3, "shard_id": n % 3} for n in range(6)],
    }


@pytest.mark.parametrize("jobs", [None, 5])
def test_a_batch_is_something_to_go_through(queue: Queue, jobs: Any) -> None:
    with pytest.raises(InvalidJobError, match=f"^jobs={jobs}: should be an iterable of dicts"):
        queue.enqueue_batch(jobs)


@pytest.mark.parametrize("jobs", [[], iter(())])
def test_a_batch_may_be_empty(queue: Queue, jobs: Any) -> None:
    assert queue.enqueue_batch(jobs) == {"total": 0, "jobs": []}


def test_a_batch_tells_of_its_jobs_when_all_are_stored(queue: Queue) -> None:
    seen: list[tuple[int, int]] = []
    queue.on(
        "job_enqueued",
        lambda job_id, shard_id: seen.append((job_id, queue.get_pending_count())),
    )
    queue.enqueue_batch({"payload": {"n": n}} for n in range(3))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "bad", [{}, {"payload": 1}, {"payload": {}, "colour": "red"}, {"payload": {}, "priority": 9}, 5]
)
def test_one_bad_job_keeps_a_batch_out_and_its_position_is_named(
    make_queue: MakeQueue, bad: Any
) -> None:
    queue = make_queue(shards=2)
    good = [{"payload": {}, "pagina_id": page} for page in range(4)]
    with pytest.raises(InvalidJobError, match="job 4"):
        queue.enqueue_batch([*good, bad])
    assert queue.get_pending_count() == 0


def test_a_refused_batch_leaves_no_transaction_open(queue: Queue) -> None:
    with pytest.raises(InvalidJobError):
        queue.enqueue_batch([{"payload": {}}, {"payload": {}, "pagina_id": 2**70}])
    sql(queue, "BEGIN IMMEDIATE")
    queue.enqueue({})
    assert queue.get_pending_count() == 1


def test_a_shard_that_refuses_its_part_does_not_hide_what_others_stored(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue
) -> None:
    monkeypatch.setenv("DB_BUSY_TIMEOUT", "20")
    queue = make_queue(shards=2)
    events = recorded(queue)
    with written_by_another(queue, 1), pytest.raises(PartialBatchError, match="shard 1") as raised:
        queue.enqueue_batch([{"payload": {"n": n}, "pagina_id": n} for n in range(4)])
    assert raised.value.stored == [{"id": 1, "shard_id": 0}, {"id": 2, "shard_id": 0}]
    assert [facts["shard_id"] for _, facts in events] == [0, 0]
    assert queue.get_pending_count() == 2


def test_a_file_of_json_lines_holds_arguments_of_enqueue(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"payload": {"n": 1}, "priority": 2}\n\n{"payload": {"n": 2}}\n')
    assert queue.enqueue_from_file(path) == {"total": 2}
    assert [(job.payload, job.priority_int) for job in queue.list_jobs()] == [
        ({"n": 2}, 0),
        ({"n": 1}, 2),
    ]


def test_a_csv_file_holds_payloads(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text("name,priority\nana,2\nbo,\n")
    assert queue.enqueue_from_file(str(path), fmt="csv") == {"total": 2}
    assert [(job.payload["name"], job.priority_int) for job in queue.list_jobs()] == [
        ("bo", 0),
        ("ana", 2),
    ]


def test_nothing_is_taken_of_a_file_with_a_bad_line(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"payload": {}}\n{"payload": \n')
    with pytest.raises(InvalidJobError, match="line 2"):
        queue.enqueue_from_file(path)
    assert queue.is_empty()


def test_the_good_lines_of_a_file_are_taken_when_asked_for(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"payload": {}}\n{"payload": \n{"payload": {}}\n')
    assert queue.enqueue_from_file(path, skip_bad_lines=True) == {"total": 2, "skipped": 1}
    assert queue.get_pending_count() == 2


def test_an_unknown_format_is_a_value_error(queue: Queue) -> None:
    with pytest.raises(ConfigurationError, match="Unsupported format: 'xml'") as raised:
        queue.enqueue_from_file("jobs.xml", fmt="xml")
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("path", [None, 5, b"jobs", "a\0b", "a\ud800b"])
def test_the_path_of_a_file_is_one_that_a_file_may_have(queue: Queue, path: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^filepath=.*: should be a path"):
        queue.enqueue_from_file(path)


# Giving jobs to workers


@pytest.mark.parametrize("worker_id", [b"w", 5, [], object(), "\ud800", "a\0b"])
@pytest.mark.parametrize(
    "call", [lambda queue, name: queue.pop_job(name), lambda queue, name: queue.heartbeat(0, name)]
)
def test_a_worker_is_named_by_a_text_that_can_be_stored(
    queue: Queue, call: Callable[[Queue, Any], object], worker_id: Any
) -> None:
    queue.enqueue({})
    with pytest.raises(ConfigurationError, match=r"^worker_id=.*: should be a str"):
        call(queue, worker_id)
    assert queue.get_processing_jobs() == []


def test_nothing_is_popped_of_an_empty_queue(queue: Queue) -> None:
    assert queue.pop_job("w") is None


def test_the_most_urgent_job_comes_first_then_the_oldest(queue: Queue) -> None:
    for priority in (0, 2, 1, 2):
        queue.enqueue({}, priority=priority)
    ids = [job.id for job in iter(lambda: queue.pop_job("w"), None)]
    assert ids == [2, 4, 3, 1]


def test_a_popped_job_shows_the_attempt_that_begins(queue: Queue) -> None:
    queue.enqueue({}, retry_delay=0)
    run_next(queue, "it broke")
    job = queue.pop_job("worker-9")
    assert job is not None
    assert (job.status, job.worker_id) == (JobStatus.PROCESSING, "worker-9")
    assert (job.attempts, job.last_error) == (2, "it broke")
    assert job.created_at is not None
    assert job.started_at is not None
    assert job.started_at >= job.created_at
    assert job.age_seconds is not None
    assert 0 <= job.age_seconds < 3600


def test_nothing_is_popped_while_the_circuit_is_open(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, circuit_breaker_threshold=2, circuit_breaker_timeout=3600)
    queue.enqueue_batch([{"payload": {}}] * 3)
    run_next(queue, "it broke")
    run_next(queue, "it broke again", permanent=True)
    assert queue.pop_job("w") is None
    assert not queue.is_healthy
    stats = queue.get_stats()
    assert (stats["circuit_state"], stats["circuit_failures"], stats["is_healthy"]) == (
        "open",
        2,
        False,
    )


def test_a_success_forgives_failures(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, circuit_breaker_threshold=2)
    queue.enqueue_batch([{"payload": {}}] * 3)
    run_next(queue, "it broke")
    run_next(queue)
    run_next(queue, "it broke")
    assert queue.get_stats()["circuit_state"] == "closed"


@pytest.mark.parametrize("error", [Permanent("bad job"), RuntimeError("HTTP 404")])
def test_a_job_that_is_bad_itself_opens_no_circuit(make_queue: MakeQueue, error: Exception) -> None:
    queue = make_queue(shards=1, circuit_breaker_threshold=1)
    queue.enqueue({})
    run_next(queue, error, permanent=True)
    assert queue.is_healthy


def test_an_empty_queue_does_not_use_up_the_probe_of_the_circuit(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, circuit_breaker_threshold=1, circuit_breaker_timeout=0.001)
    queue.enqueue({})
    run_next(queue, "it broke")
    eventually(lambda: queue.circuit_breaker.get_retry_after() == 0)
    assert queue.pop_job("w") is None
    queue.enqueue({})
    run_next(queue)
    assert queue.get_stats()["circuit_state"] == "closed"


def test_nothing_is_popped_without_a_token(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1, rate_limit=1, rate_limiter_timeout=0)
    queue.enqueue_batch([{"payload": {}}] * 2)
    assert queue.pop_job("w") is not None
    assert queue.pop_job("w") is None
    assert queue.get_stats()["pending"] == 1


@pytest.mark.parametrize(("patience", "gets_one"), [(0.0, False), (30.0, True)])
def test_a_pop_waits_for_a_token_as_long_as_the_queue_says(
    make_queue: MakeQueue, patience: float, gets_one: bool
) -> None:
    queue = make_queue(shards=1, rate_limit=600, rate_limiter_timeout=patience)
    queue.enqueue({})
    queue.rate_limiter.penalise(0.2)
    assert (queue.pop_job("w") is not None) is gets_one


def test_an_empty_pop_costs_no_token(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=2, rate_limit=1, rate_limiter_timeout=0)
    for _ in range(5):
        assert queue.pop_job("w") is None
    assert queue.get_stats()["tokens_available"] == 1
    queue.enqueue({})
    assert queue.pop_job("w") is not None


def test_an_idle_pop_needs_no_write_lock(queue: Queue) -> None:
    with written_by_another(queue):
        assert queue.pop_job("w") is None


def test_a_locked_shard_does_not_keep_the_jobs_of_others(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue
) -> None:
    monkeypatch.setenv("DB_BUSY_TIMEOUT", "10000")
    queue = make_queue(shards=2)
    queue.enqueue_batch([{"payload": {}, "pagina_id": n} for n in range(8)])
    with written_by_another(queue, 0):
        begun = time.monotonic()
        popped = [queue.pop_job("w") for _ in range(4)]
        assert time.monotonic() - begun < 10  # nobody waited for the lock
    assert [job and job.shard_id for job in popped] == [1, 1, 1, 1]


def test_each_job_is_given_to_one_thread_only(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=2)
    queue.enqueue_batch([{"payload": {}}] * 200)
    start = threading.Barrier(4)

    def pop_all(worker_id: str) -> list[tuple[int, int]]:
        start.wait(30)
        jobs = iter(lambda: queue.pop_job(worker_id), None)
        return [(job.shard_id, job.id) for job in jobs]

    with ThreadPoolExecutor(4) as threads:
        popped = [key for keys in threads.map(pop_all, "abcd") for key in keys]
    assert len(popped) == len(set(popped)) == 200


# Ending jobs


def test_a_completed_job_leaves_the_queue_and_is_counted(queue: Queue) -> None:
    queue.enqueue({})
    events = recorded(queue)
    queue.pop_job("w")
    assert queue.complete_job(1, 0) is True
    assert queue.list_jobs() == []
    assert queue.get_stats()["completed"] == 1
    assert events == [("job_completed", {"job_id": 1, "shard_id": 0})]


def test_only_a_running_job_can_be_completed(queue: Queue) -> None:
    queue.enqueue({})
    events = recorded(queue)
    assert queue.complete_job(1, 0) is False
    run_next(queue)
    assert queue.complete_job(1, 0) is False
    assert queue.complete_job(9999, 0) is False
    assert queue.get_stats()["completed"] == 1
    assert [name for name, _ in events] == ["job_completed"]


def test_a_failed_job_waits_for_its_next_attempt(queue: Queue) -> None:
    queue.enqueue({})
    events = recorded(queue)
    queue.pop_job("w")
    assert queue.fail_job(1, 0, ValueError("it broke")) is True
    (job,) = queue.list_jobs()
    assert (job.status, job.attempts, job.worker_id) == (JobStatus.SCHEDULED, 1, None)
    assert (job.last_error, job.error_type) == ("it broke", "ValueError")
    assert queue.pop_job("w") is None
    assert events == [("job_retried", {"job_id": 1, "shard_id": 0, "error": "it broke"})]


def test_the_traceback_of_an_error_is_kept(queue: Queue) -> None:
    queue.enqueue({})
    try:
        raise ValueError("it broke")
    except ValueError as error:
        run_next(queue, error)
    assert "test_the_traceback_of_an_error_is_kept" in (queue.list_jobs()[0].error_stack or "")


def test_the_first_retry_comes_after_about_twice_the_retry_delay(queue: Queue) -> None:
    queue.enqueue({}, retry_delay=10)
    before = datetime.now(UTC)
    run_next(queue, "it broke")
    after = datetime.now(UTC)
    due = datetime.fromisoformat(queue.list_jobs()[0].next_retry_at or "")
    # Twice ten seconds, ± 20 %; what is stored is cut to milliseconds.
    assert before + timedelta(seconds=15.999) <= due <= after + timedelta(seconds=24)


def test_an_error_may_be_told_in_words(queue: Queue) -> None:
    queue.enqueue({})
    run_next(queue, "no reply")
    assert queue.list_jobs()[0].last_error == "no reply"


def test_an_error_whose_text_has_no_form_in_utf8_is_kept_all_the_same(queue: Queue) -> None:
    queue.enqueue({})
    run_next(queue, FileNotFoundError("no file \udce9.txt"))
    assert "no file" in (queue.list_jobs()[0].last_error or "")


def test_a_permanent_failure_buries_the_job(queue: Queue) -> None:
    queue.enqueue({"n": 1})
    events = recorded(queue)
    run_next(queue, ValueError("bad page"), permanent=True)
    (job,) = queue.get_failed_jobs()
    assert (job.status, job.attempts, job.last_error) == (JobStatus.FAILED, 1, "bad page")
    (letter,) = queue.shard_manager.get_dead_letter_queue(0)
    assert letter["original_job_id"] == 1
    assert (letter["error"], letter["error_type"]) == ("bad page", "ValueError")
    facts = {"job_id": 1, "shard_id": 0, "error": "bad page"}
    why = {"reason": "permanent"}
    assert events == [("job_failed", facts), ("job_dead_lettered", facts | why)]


@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_job_has_one_attempt_more_than_retries_and_is_then_buried_once(
    queue: Queue, max_retries: int
) -> None:
    queue.enqueue({}, max_retries=max_retries, retry_delay=0)
    events = recorded(queue)
    for _ in range(max_retries + 1):
        run_next(queue, "it broke")
    assert [name for name, _ in events] == ["job_retried"] * max_retries + GIVEN_UP
    assert queue.get_failed_jobs()[0].attempts == max_retries + 1
    assert len(queue.shard_manager.get_dead_letter_queue(0)) == 1


def test_only_a_running_job_can_fail(queue: Queue) -> None:
    queue.enqueue({})
    events = recorded(queue)
    assert queue.fail_job(1, 0, "it broke") is False
    assert queue.fail_job(9999, 0, "it broke") is False
    assert events == []
    assert queue.list_jobs()[0].attempts == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda queue, job: queue.complete_job(job.id, 0, job.fence),
        lambda queue, job: queue.fail_job(job.id, 0, "it broke", fence=job.fence),
        lambda queue, job: queue.fail_job(job.id, 0, "it broke", permanent=True, fence=job.fence),
    ],
    ids=["complete", "fail", "bury"],
)
def test_a_worker_that_lost_its_lease_can_change_nothing(
    queue: Queue, end: Callable[[Queue, Job], object]
) -> None:
    queue.enqueue({})
    zombie = queue.pop_job("zombie")
    assert zombie is not None
    lose_all_leases(queue)
    queue.recover_orphans()
    heir = queue.pop_job("heir")
    assert heir is not None
    events = recorded(queue)
    with pytest.raises(LeaseLostError):
        end(queue, zombie)
    assert events == []
    assert queue.complete_job(heir.id, 0, heir.fence) is True


@pytest.mark.parametrize("error", [None, b"", 404, ValueError])
def test_an_error_is_an_exception_or_a_text(queue: Queue, error: Any) -> None:
    queue.enqueue({})
    job = queue.pop_job("w")
    with pytest.raises(ConfigurationError, match=r"^error=.*: should be an exception or a str"):
        queue.fail_job(1, 0, error)
    assert queue.get_processing_jobs() == [job]


@pytest.mark.parametrize("value", ["1", b"1", 1.0, True, [], TOO_LONG])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("job_id", lambda queue, value: queue.complete_job(value, 0)),
        ("job_id", lambda queue, value: queue.fail_job(value, 0, "it broke")),
        ("job_id", lambda queue, value: queue.shard_manager.retry_job(0, value)),
        ("shard_id", lambda queue, value: queue.complete_job(1, value)),
        ("shard_id", lambda queue, value: queue.fail_job(1, value, "it broke")),
        ("shard_id", lambda queue, value: queue.heartbeat(value, "w")),
        ("shard_id", lambda queue, value: queue.retry_failed_jobs(value)),
        ("shard_id", lambda queue, value: queue.list_jobs(shard_id=value)),
        ("shard_id", lambda queue, value: queue.shard_manager.get_stats(value)),
        ("shard_id", lambda queue, value: queue.shard_manager.get_dead_letter_queue(value)),
        ("shard_id", lambda queue, value: queue.shard_manager.retry_job(value, 1)),
        ("fence", lambda queue, value: queue.complete_job(1, 0, fence=value)),
        ("fence", lambda queue, value: queue.fail_job(1, 0, "it broke", fence=value)),
    ],
)
def test_jobs_shards_and_runs_are_named_by_whole_numbers(
    queue: Queue, name: str, call: Callable[[Queue, Any], object], value: Any
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}=.*: should be a whole number"):
        call(queue, value)


@pytest.mark.parametrize("number", [2**70, -(2**70)])
def test_an_id_that_no_job_can_have_is_not_found(queue: Queue, number: int) -> None:
    assert queue.complete_job(number, 0) is False
    assert queue.fail_job(number, 0, "it broke") is False
    assert queue.shard_manager.retry_job(0, number) is False


@pytest.mark.parametrize("shard_id", [1, -1, 2**70])
def test_a_shard_that_does_not_exist_is_an_error(queue: Queue, shard_id: int) -> None:
    calls: list[Callable[[], object]] = [
        lambda: queue.complete_job(1, shard_id),
        lambda: queue.fail_job(1, shard_id, "it broke"),
        lambda: queue.heartbeat(shard_id, "w"),
        lambda: queue.retry_failed_jobs(shard_id),
        lambda: queue.list_jobs(shard_id=shard_id),
        lambda: queue.shard_manager.get_stats(shard_id),
        lambda: queue.shard_manager.get_dead_letter_queue(shard_id),
    ]
    for call in calls:
        with pytest.raises(ShardNotFoundError, match=f"shard {shard_id}: .*0 to 0"):
            call()
    assert len(list(Path(queue.data_dir).glob("shard_*.db"))) == 1


# Leases


def test_a_job_whose_worker_went_silent_is_pending_again(queue: Queue) -> None:
    queue.enqueue({})
    queue.pop_job("w")
    events = recorded(queue)
    lose_all_leases(queue)
    assert queue.recover_orphans() == 1
    (job,) = queue.list_jobs()
    assert (job.status, job.attempts, job.worker_id) == (JobStatus.PENDING, 1, None)
    assert [name for name, _ in events] == ["job_recovered", "job_retried"]


def test_a_job_whose_lease_is_not_over_is_left_alone(queue: Queue) -> None:
    queue.enqueue({})
    queue.pop_job("w")
    assert queue.recover_orphans() == 0
    assert len(queue.get_processing_jobs()) == 1


def test_a_heartbeat_keeps_the_jobs_of_a_worker(queue: Queue) -> None:
    queue.enqueue_batch([{"payload": {}}] * 3)
    for worker_id in ("a", "a", "b"):
        queue.pop_job(worker_id)
    lose_all_leases(queue)
    assert queue.heartbeat(0, "a") == 2
    assert queue.recover_orphans() == 1
    assert {job.worker_id for job in queue.get_processing_jobs()} == {"a"}


def test_the_lease_lasts_as_long_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue
) -> None:
    monkeypatch.setenv("STUCK_TIMEOUT", "1")
    queue = make_queue(shards=1)
    queue.enqueue({})
    queue.pop_job("w")
    eventually(lambda: queue.recover_orphans() == 1)


def test_a_job_that_kills_its_workers_is_buried_in_the_end(queue: Queue) -> None:
    queue.enqueue({}, max_retries=2)
    events = recorded(queue)
    for _ in range(3):
        assert queue.pop_job("w") is not None
        lose_all_leases(queue)
        assert queue.recover_orphans() == 1
    assert queue.pop_job("w") is None
    again = ["job_recovered", "job_retried"]
    assert [name for name, _ in events] == [*again, *again, "job_recovered", *GIVEN_UP]
    assert len(queue.shard_manager.get_dead_letter_queue(0)) == 1


# Another life


def test_a_failed_job_gets_a_fresh_budget(queue: Queue) -> None:
    queue.enqueue({}, max_retries=1, retry_delay=0)
    run_next(queue, "it broke")
    run_next(queue, "it broke")
    assert queue.retry_failed_jobs() == 1
    assert queue.shard_manager.get_dead_letter_queue(0) == []
    run_next(queue, "it broke")
    assert queue.get_stats()["failed"] == 0
    run_next(queue, "it broke")
    assert len(queue.shard_manager.get_dead_letter_queue(0)) == 1


def fail_in_each_shard(queue: Queue) -> None:
    queue.enqueue_batch([{"payload": {}, "pagina_id": n} for n in range(queue.num_shards)])
    for _ in range(queue.num_shards):
        run_next(queue, "it broke", permanent=True)


def test_the_failed_jobs_of_one_shard_can_be_retried_alone(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=3)
    fail_in_each_shard(queue)
    assert queue.retry_failed_jobs(shard_id=1) == 1
    assert [job.shard_id for job in queue.get_failed_jobs()] == [2, 0]
    assert queue.retry_failed_jobs() == 2


def test_one_failed_job_can_be_retried_alone(queue: Queue) -> None:
    queue.enqueue_batch([{"payload": {}}] * 3)
    run_next(queue, "it broke", permanent=True)
    run_next(queue, "it broke", permanent=True)
    assert queue.shard_manager.retry_job(0, 1) is True
    assert queue.shard_manager.retry_job(0, 1) is False
    assert queue.shard_manager.retry_job(0, 3) is False
    assert [job.id for job in queue.get_failed_jobs()] == [2]


# Deleting


@pytest.mark.parametrize(
    ("ended", "removed"),
    [("-8 days", 1), ("-7.01 days", 1), ("-6.99 days", 0), ("-6.13 days", 0), ("-0 days", 0)],
)
def test_a_job_is_cleaned_up_by_the_age_of_its_end(queue: Queue, ended: str, removed: int) -> None:
    queue.enqueue({})
    run_next(queue, "it broke", permanent=True)
    sql(queue, f"UPDATE fila SET created_at = '{LONG_AGO}'")
    sql(queue, f"UPDATE fila SET completed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '{ended}')")
    sql(queue, "DELETE FROM dead_letter_queue")
    assert queue.cleanup_old_jobs(7) == removed
    assert len(queue.get_failed_jobs()) == 1 - removed


def test_a_failed_job_whose_dead_letter_is_kept_stays(queue: Queue) -> None:
    queue.enqueue({})
    run_next(queue, "it broke", permanent=True)
    sql(queue, f"UPDATE fila SET completed_at = '{LONG_AGO}'")
    assert queue.cleanup_old_jobs() == 0
    assert len(queue.get_failed_jobs()) == 1


def test_jobs_that_have_not_ended_are_never_cleaned_up(queue: Queue) -> None:
    queue.enqueue_batch([{"payload": {}}] * 2)
    queue.pop_job("w")
    sql(queue, f"UPDATE fila SET created_at = '{LONG_AGO}', started_at = '{LONG_AGO}'")
    assert queue.cleanup_old_jobs(0) == 0


@pytest.mark.parametrize(("days", "removed"), [("5", 1), ("6", 0), (None, 0)])
def test_the_days_that_ended_jobs_are_kept_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue, days: str | None, removed: int
) -> None:
    if days is not None:
        monkeypatch.setenv("CLEANUP_DAYS", days)
    queue = make_queue(shards=1)
    queue.enqueue({})
    run_next(queue, "it broke", permanent=True)
    ended = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-5.5 days')"
    sql(queue, f"UPDATE fila SET completed_at = {ended}")
    sql(queue, "DELETE FROM dead_letter_queue")
    assert queue.cleanup_old_jobs() == removed


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_the_days_of_each_kind_of_job_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue, status: str
) -> None:
    monkeypatch.setenv(f"CLEANUP_DAYS_{status.upper()}", "5")
    queue = make_queue(shards=1)
    for number, each in enumerate(("completed", "failed", "cancelled"), start=1):
        queue.enqueue({})
        sql(queue, f"UPDATE fila SET status = '{each}' WHERE id = {number}")
    sql(queue, "UPDATE fila SET completed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-6 days')")
    assert queue.cleanup_old_jobs() == 1
    assert queue.list_jobs(status) == []
    assert len(queue.list_jobs()) == 2


def test_the_days_of_dead_letters_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue
) -> None:
    monkeypatch.setenv("CLEANUP_DAYS_DEAD_LETTERS", "30")
    queue = make_queue(shards=1)
    for job_id, days in ((1, 29), (2, 31)):
        queue.enqueue({})
        run_next(queue, "it broke", permanent=True)
        ago = f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{days} days')"
        sql(queue, f"UPDATE dead_letter_queue SET failed_at = {ago} WHERE id = {job_id}")
    assert queue.cleanup_old_jobs() == 1
    assert [job.id for job in queue.get_failed_jobs()] == [1]


@pytest.mark.parametrize("days", [-1, math.nan, math.inf, 1e9, TOO_LONG, "7", True, []])
def test_days_that_are_no_number_or_out_of_range_are_refused(queue: Queue, days: Any) -> None:
    with pytest.raises(ConfigurationError, match="days="):
        queue.cleanup_old_jobs(days)


@pytest.fixture
def mixed_queue(queue: Queue) -> Queue:
    """A queue whose job 1 failed, 2 waits for another attempt, 3 runs, 4 and 5 are pending."""
    queue.enqueue_batch([{"payload": {}}] * 5)
    run_next(queue, "it broke", permanent=True)
    run_next(queue, "it broke")
    queue.pop_job("w")
    return queue


@pytest.mark.parametrize(
    ("status", "purged", "left"),
    [
        ("pending", 3, [3, 1]),
        ("processing", 1, [5, 4, 2, 1]),
        ("failed", 1, [5, 4, 3, 2]),
        (None, 5, []),
    ],
)
def test_jobs_are_purged_by_state(
    mixed_queue: Queue, status: str | None, purged: int, left: list[int]
) -> None:
    assert mixed_queue.purge_queue(status, force=True) == purged
    assert [job.id for job in mixed_queue.list_jobs()] == left


def test_purging_leaves_the_dead_letters(mixed_queue: Queue) -> None:
    mixed_queue.purge_queue(force=True)
    assert len(mixed_queue.shard_manager.get_dead_letter_queue(0)) == 1


def test_a_worker_whose_job_is_purged_finds_its_lease_lost(queue: Queue) -> None:
    queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    queue.purge_queue("processing", force=True)
    with pytest.raises(LeaseLostError):
        queue.complete_job(job.id, job.shard_id, job.fence)


@pytest.mark.parametrize("status", ["completed", "scheduled", "lost", "", "' OR 1=1 --", [], {}])
def test_what_cannot_be_purged_is_refused(queue: Queue, status: Any) -> None:
    queue.enqueue({})
    with pytest.raises(ConfigurationError, match="status="):
        queue.purge_queue(status)
    assert queue.get_pending_count() == 1


# Looking


def test_stats_tell_all_that_the_contract_names_and_more(make_queue: MakeQueue) -> None:
    stats = make_queue(shards=2, rate_limit=50, max_retries=1).get_stats()
    assert stats.pop("uptime_seconds") >= 0
    assert stats == {
        "pending": 0,
        "scheduled": 0,
        "held": 0,
        "processing": 0,
        "failed": 0,
        "completed": 0,
        "num_shards": 2,
        "unavailable_shards": [],
        "rate_limit": 50,
        "max_retries": 1,
        "max_pending": None,
        "dropped": 0,
        "circuit_state": "closed",
        "circuit_failures": 0,
        "tokens_available": 50.0,
        "is_healthy": True,
    }


def test_a_queue_may_be_bounded(make_queue: MakeQueue) -> None:
    queue = make_queue(max_pending=2)
    queue.enqueue_batch([{"payload": {}}] * 2)
    with pytest.raises(QueueFullError):
        queue.enqueue({})
    assert queue.get_stats()["max_pending"] == 2
    named = make_queue(max_pending={"mail": 1, "any": math.inf}, when_full="drop_oldest")
    for _ in range(3):
        named.enqueue({}, queue="mail")
    named.enqueue({}, queue="any")
    stats = named.get_stats()
    assert (stats["max_pending"], stats["dropped"], stats["pending"]) == ({"mail": 1}, 2, 4)
    blocking = make_queue(max_pending=1, when_full="block", full_timeout=0)
    with pytest.raises(QueueFullError):
        blocking.enqueue({})
    assert make_queue(max_pending=math.inf).get_stats()["max_pending"] is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_pending": 0}, "max_pending=0: should be a whole number from 1"),
        ({"max_pending": {"a,b": 1}}, "queue='a,b': should be a str"),
        ({"when_full": "drop"}, "when_full='drop': should be 'raise', 'block' or 'drop_oldest'"),
        ({"full_timeout": -1}, "full_timeout=-1: should be 0 seconds or more"),
    ],
)
def test_what_is_no_bound_is_refused(
    make_queue: MakeQueue, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        make_queue(**options)


def test_stats_count_the_scheduled_among_the_pending(mixed_queue: Queue) -> None:
    stats = mixed_queue.get_stats()
    counts = {name: stats[name] for name in ("pending", "scheduled", "processing", "failed")}
    assert counts == {"pending": 3, "scheduled": 1, "processing": 1, "failed": 1}
    assert mixed_queue.shard_manager.get_stats(0) == counts | {"completed": 0, "held": 0}


def test_a_job_that_waits_for_its_next_attempt_counts_as_pending(queue: Queue) -> None:
    queue.enqueue({})
    run_next(queue, "it broke")
    assert queue.get_pending_count() == 1
    assert not queue.is_empty()


def test_a_running_job_does_not_count_as_pending(queue: Queue) -> None:
    queue.enqueue({})
    queue.pop_job("w")
    assert queue.get_pending_count() == 0
    assert queue.is_empty()


@pytest.mark.parametrize(
    ("status", "ids"),
    [
        (None, [5, 4, 3, 2, 1]),
        ("pending", [5, 4, 2]),
        ("scheduled", [2]),
        ("processing", [3]),
        ("failed", [1]),
        ("completed", []),
        ("cancelled", []),
    ],
)
def test_jobs_are_listed_by_state_the_newest_first(
    mixed_queue: Queue, status: str | None, ids: list[int]
) -> None:
    assert [job.id for job in mixed_queue.list_jobs(status)] == ids


def test_an_unknown_state_cannot_be_listed(queue: Queue) -> None:
    with pytest.raises(ConfigurationError, match="status='lost'"):
        queue.list_jobs("lost")


def test_failed_and_running_jobs_have_lists_of_their_own(mixed_queue: Queue) -> None:
    assert [job.id for job in mixed_queue.get_failed_jobs()] == [1]
    assert [job.id for job in mixed_queue.get_processing_jobs()] == [3]


def test_the_limit_of_a_list_holds_over_all_shards(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=3)
    fail_in_each_shard(queue)
    assert [job.shard_id for job in queue.get_failed_jobs(limit=1)] == [2]
    assert [job.shard_id for job in queue.get_failed_jobs(limit=2)] == [2, 1]
    assert len(queue.get_failed_jobs()) == 3
    assert len(queue.list_jobs(limit=None)) == 3


@pytest.mark.parametrize("limit", [-1, 2**70, "1", 1.0, True])
@pytest.mark.parametrize(
    "read",
    [
        lambda queue, limit: queue.list_jobs(limit=limit),
        lambda queue, limit: queue.get_failed_jobs(limit),
        lambda queue, limit: queue.shard_manager.get_dead_letter_queue(0, limit),
    ],
)
def test_a_limit_that_is_no_count_is_refused(
    queue: Queue, read: Callable[[Queue, Any], object], limit: Any
) -> None:
    queue.enqueue({})
    run_next(queue, "it broke", permanent=True)
    with pytest.raises(ConfigurationError, match=f"^limit={limit!r}: should be"):
        read(queue, limit)


def test_the_jobs_of_one_shard_can_be_listed(make_queue: MakeQueue) -> None:
    queue = make_queue(shards=2)
    queue.enqueue_batch([{"payload": {}, "pagina_id": n} for n in (0, 1, 1)])
    assert [(job.shard_id, job.id) for job in queue.list_jobs(shard_id=1)] == [(1, 2), (1, 1)]


def test_all_queues_on_a_directory_see_the_same_jobs(make_queue: MakeQueue) -> None:
    one, other = make_queue(shards=2), make_queue()
    one.enqueue({"n": 1})
    job = other.pop_job("w")
    assert job is not None
    assert len(one.get_processing_jobs()) == 1
    assert one.complete_job(job.id, job.shard_id) is True
    assert other.get_stats()["completed"] == 1


@pytest.fixture
def broken_queue(make_queue: MakeQueue) -> Queue:
    """A queue with a job in each of two shards, the table of the second one being gone."""
    queue = make_queue(shards=2)
    queue.enqueue_batch([{"payload": {}, "pagina_id": n} for n in range(2)])
    sql(queue, "DROP TABLE fila", shard_id=1)
    return queue


def test_a_broken_shard_does_not_stop_the_others(broken_queue: Queue) -> None:
    run_next(broken_queue)
    assert broken_queue.enqueue({}, pagina_id=0)["shard_id"] == 0


def test_a_broken_shard_is_never_counted_as_empty(broken_queue: Queue) -> None:
    run_next(broken_queue)
    for look in (
        broken_queue.get_stats,
        broken_queue.is_empty,
        broken_queue.list_jobs,
        lambda: broken_queue.wait_until_empty(timeout=0),
    ):
        with pytest.raises(ShardError, match="shard 1"):
            look()


# Waiting


def test_an_empty_queue_is_not_waited_for(queue: Queue) -> None:
    assert queue.wait_until_empty(timeout=0) is True
    assert queue.wait_until_empty() is True


def test_a_running_job_is_waited_for(queue: Queue) -> None:
    queue.enqueue({})
    assert queue.wait_until_empty(timeout=0) is False
    queue.pop_job("w")
    assert queue.wait_until_empty(timeout=0) is False
    queue.complete_job(1, 0)
    assert queue.wait_until_empty(timeout=0) is True


def test_a_job_that_waits_for_its_next_attempt_is_waited_for(queue: Queue) -> None:
    queue.enqueue({})
    run_next(queue, "it broke")
    assert queue.wait_until_empty(timeout=0.01) is False


def test_waiting_ends_when_another_thread_ends_the_last_job(queue: Queue) -> None:
    queue.enqueue({})
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queue.wait_until_empty, 30)
        run_next(queue)
        assert waiting.result(30) is True


def test_jobs_can_be_waited_for(queue: Queue) -> None:
    assert queue.wait_for_jobs(timeout=0) is False
    queue.enqueue({})
    assert queue.wait_for_jobs(timeout=0) is True
    assert queue.wait_for_jobs(2, timeout=0.01) is False
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queue.wait_for_jobs, 2, 30)
        queue.enqueue({})
        assert waiting.result(30) is True


@pytest.mark.parametrize("timeout", ["1", -1, True, math.nan, []])
@pytest.mark.parametrize(
    "wait",
    [
        lambda queue, timeout: queue.wait_until_empty(timeout),
        lambda queue, timeout: queue.wait_for_jobs(1, timeout),
    ],
)
def test_a_time_that_cannot_be_waited_is_refused(
    queue: Queue, wait: Callable[[Queue, Any], object], timeout: Any
) -> None:
    queue.enqueue({})
    with pytest.raises(ConfigurationError, match=r"^timeout=.*: should be 0 seconds or more"):
        wait(queue, timeout)


@pytest.mark.parametrize("count", ["1", None, -1, True, 1.0])
def test_only_a_number_of_jobs_can_be_waited_for(queue: Queue, count: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^count=.*: should be"):
        queue.wait_for_jobs(count, timeout=0)


# Events


def test_subscriptions_can_be_chained(queue: Queue) -> None:
    assert queue.on("job_enqueued", print).on("alert", print) is queue


def test_a_subscription_can_be_undone(queue: Queue) -> None:
    heard: list[int] = []

    def note(job_id: int, shard_id: int) -> None:
        heard.append(job_id)

    queue.on("job_enqueued", note)
    queue.enqueue({})
    assert queue.off("job_enqueued", note).off("alert", note) is queue
    queue.enqueue({})
    assert heard == [1]


def test_a_job_that_is_given_out_by_hand_has_started(queue: Queue) -> None:
    started: list[dict[str, Any]] = []
    queue.on("job_started", lambda **facts: started.append(facts))
    assert queue.pop_job("w") is None
    queue.enqueue({})
    assert queue.pop_job("w") is not None
    assert started == [{"job_id": 1, "shard_id": 0, "worker_id": "w"}]


def test_a_job_that_is_drained_has_started_unless_nobody_can_run_it(queue: Queue) -> None:
    started: list[dict[str, Any]] = []
    queue.on("job_started", lambda **facts: started.append(facts))
    queue.enqueue({"args": []}, task="nobody.knows")
    queue.enqueue({})
    assert queue.drain(print) == 1
    assert started == [{"job_id": 2, "shard_id": 0, "worker_id": "drain"}]


def test_a_cancelled_job_is_told_of_by_its_id_however_it_was_named(queue: Queue) -> None:
    cancelled: list[dict[str, Any]] = []
    queue.on("job_cancelled", lambda **facts: cancelled.append(facts))
    handle = queue.enqueue({})
    assert queue.cancel(handle.key) is True
    assert queue.cancel(handle.key) is False
    assert cancelled == [{"job_id": 1, "shard_id": 0, "reason": "called off"}]


@pytest.mark.parametrize("subscribe", [Queue.on, Queue.off])
def test_an_unknown_event_is_a_value_error(queue: Queue, subscribe: Callable[..., object]) -> None:
    with pytest.raises(ConfigurationError, match="Unknown event: 'job_lost'") as raised:
        subscribe(queue, "job_lost", print)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("callback", [None, "print", 5])
def test_what_cannot_be_called_is_no_callback(queue: Queue, callback: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^callback={callback!r}: should be callable"):
        queue.on("job_enqueued", callback)


def test_a_callback_that_fails_harms_nobody(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    def fail(**_: object) -> None:
        raise ValueError("bad callback")

    queue.on("job_enqueued", fail)
    events = recorded(queue)
    assert queue.enqueue({}) == {"id": 1, "shard_id": 0}
    assert [name for name, _ in events] == ["job_enqueued"]
    assert "bad callback" in caplog.text


def test_a_callback_may_use_the_queue(queue: Queue) -> None:
    queue.on("job_completed", lambda job_id, shard_id: queue.enqueue({"after": job_id}))
    queue.enqueue({})
    run_next(queue)
    assert [job.payload for job in queue.list_jobs()] == [{"after": 1}]


def test_a_batch_block_is_silent_nested_ones_too(queue: Queue) -> None:
    events = recorded(queue)
    with queue.batch():
        with queue.batch():
            queue.enqueue({})
        queue.enqueue({})
    assert events == []
    queue.enqueue({})
    assert events == [("job_enqueued", {"job_id": 3, "shard_id": 0})]


def test_a_batch_block_that_fails_is_silent_no_longer(queue: Queue) -> None:
    events = recorded(queue)
    with pytest.raises(ZeroDivisionError), queue.batch():
        raise ZeroDivisionError
    queue.enqueue({})
    assert len(events) == 1


def test_a_batch_block_silences_its_own_thread_only(queue: Queue) -> None:
    events = recorded(queue)
    with ThreadPoolExecutor(1) as threads, queue.batch():
        queue.enqueue({"by": "this thread"})
        threads.submit(queue.enqueue, {"by": "another"}).result(30)
    assert events == [("job_enqueued", {"job_id": 2, "shard_id": 0})]


def test_an_alert_tells_once_that_too_many_jobs_wait(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue
) -> None:
    monkeypatch.setenv("QUEUE_ALERT_THRESHOLD", "3")
    queue = make_queue(shards=2)
    alerts: list[dict[str, Any]] = []
    queue.on("alert", lambda **facts: alerts.append(facts))
    for page in range(6):
        queue.enqueue({}, pagina_id=page)
    assert alerts == [{"type": "QUEUE_SIZE", "pending": 4, "threshold": 3}]


# Closing


def test_a_block_closes_its_queue(data_dir: Path) -> None:
    with Queue(shards=2, data_dir=data_dir) as queue:
        queue.enqueue({})
        assert open_files(data_dir) > 0
    assert open_files(data_dir) == 0


def test_closing_twice_is_harmless(queue: Queue) -> None:
    queue.close()
    queue.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda queue: queue.enqueue({}),
        lambda queue: queue.enqueue_batch([{"payload": {}}]),
        lambda queue: queue.pop_job("w"),
        lambda queue: queue.complete_job(1, 0),
        lambda queue: queue.fail_job(1, 0, "it broke"),
        lambda queue: queue.recover_orphans(),
        lambda queue: queue.get_stats(),
        lambda queue: queue.list_jobs(),
        lambda queue: queue.wait_until_empty(timeout=0),
    ],
    ids=["enqueue", "batch", "pop", "complete", "fail", "recover", "stats", "list", "wait"],
)
def test_a_closed_queue_says_so(queue: Queue, use: Callable[[Queue], object]) -> None:
    queue.enqueue({})
    queue.pop_job("w")
    queue.close()
    with pytest.raises(QueueError, match="closed"):
        use(queue)
    assert open_files(Path(queue.data_dir)) == 0


def test_a_queue_that_is_dropped_lets_go_of_its_threads_and_files(data_dir: Path) -> None:
    threads = threading.active_count()
    queue = Queue(shards=2, data_dir=data_dir)
    queue.enqueue({})
    queue.get_stats()
    assert open_files(data_dir) > 0
    del queue
    gc.collect()
    assert open_files(data_dir) == 0
    eventually(lambda: threading.active_count() <= threads)


def test_many_threads_share_few_files(make_queue: MakeQueue, data_dir: Path) -> None:
    queue = make_queue(shards=6)
    start, look, end = (threading.Barrier(31) for _ in range(3))

    def use(number: int) -> None:
        start.wait(30)
        for shard_id in range(6):
            queue.enqueue({}, pagina_id=shard_id)
        queue.get_stats()
        queue.pop_job(f"worker-{number}")
        look.wait(30)
        end.wait(30)

    with ThreadPoolExecutor(30) as threads:
        uses = [threads.submit(use, number) for number in range(30)]
        start.wait(30)
        look.wait(30)
        files = open_files(data_dir)
        end.wait(30)
    assert [each.exception() for each in uses] == [None] * 30
    assert files < 100
