import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from queue_max import Queue
from queue_max.repeater import Repeater
from queue_max.workers.repertoire import Repertoire
from queue_max.workers.upkeep import Upkeep

MakeQueue = Callable[..., Queue]
Eventually = Callable[[Callable[[], object]], None]

IDLE: Any = SimpleNamespace(
    dispatcher=MagicMock(tend=threading.Event.wait),
    repertoire=Repertoire(print),
    places=1,
    stop_grace=1.0,
    running=list,
    abandon=print,
)
"""A worker that runs nothing."""

BOTH = ["queue-max-heartbeat", "queue-max-recovery"]


@pytest.fixture
def quick_queue(monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue) -> Queue:
    """A queue whose leases are over at once, and that is kept up every five milliseconds."""
    monkeypatch.setenv("HEARTBEAT_INTERVAL", "5")
    monkeypatch.setenv("RECOVERY_INTERVAL", "5")
    monkeypatch.setenv("STUCK_TIMEOUT", "1")
    return make_queue(shards=1)


@pytest.fixture
def upkeep(quick_queue: Queue) -> Iterator[Upkeep]:
    upkeep = Upkeep.of(quick_queue)
    yield upkeep
    for _ in BOTH:
        if loops():
            upkeep.leave(IDLE)


def loops() -> list[str]:
    names = (thread.name for thread in threading.enumerate())
    return sorted(name for name in names if name in BOTH)


def test_a_queue_has_one_upkeep_however_many_workers_ask(make_queue: MakeQueue) -> None:
    one, other = make_queue(shards=1), make_queue()
    assert Upkeep.of(one) is Upkeep.of(one)
    assert Upkeep.of(one) is not Upkeep.of(other)


def test_a_process_is_seen_and_heard_by_others_although_its_current_folder_has_changed(
    make_queue: MakeQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep = Upkeep.of(make_queue(data_dir="data", shards=1))
    monkeypatch.chdir("/")
    upkeep.join(IDLE)
    files = {path.suffix for path in (tmp_path / "data" / "workers").iterdir()}
    upkeep.leave(IDLE)
    assert files == {".bell", ".lock"}


def test_nothing_runs_before_a_worker_begins(upkeep: Upkeep) -> None:
    assert loops() == []


def test_the_loops_run_from_the_first_worker_to_the_last(upkeep: Upkeep) -> None:
    upkeep.join(IDLE)
    upkeep.join(IDLE)
    assert loops() == BOTH
    upkeep.leave(IDLE)
    assert loops() == BOTH
    upkeep.leave(IDLE)
    assert loops() == []


def test_without_fifos_no_thread_listens_for_other_processes(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setattr("queue_max.storage.bells.ARE_POSSIBLE", False)
    upkeep.join(IDLE)
    try:
        assert [path.suffix for path in (data_dir / "workers").iterdir()] == [".lock"]
        assert "queue-max-hearing" not in {thread.name for thread in threading.enumerate()}
    finally:
        upkeep.leave(IDLE)


def test_the_loops_start_again_with_the_next_worker(upkeep: Upkeep) -> None:
    for _ in range(3):
        upkeep.join(IDLE)
        assert loops() == BOTH
        upkeep.leave(IDLE)
        assert loops() == []


def test_the_leases_held_in_this_process_are_renewed(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue, eventually: Eventually
) -> None:
    monkeypatch.setenv("HEARTBEAT_INTERVAL", "5")
    queue = make_queue(shards=1)
    queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    queue.services.leases.hold(job.lease)
    upkeep = Upkeep.of(queue)
    upkeep.join(IDLE)
    try:
        eventually(lambda: queue.get_processing_jobs()[0].heartbeat != job.heartbeat)
    finally:
        upkeep.leave(IDLE)


def test_jobs_of_silent_workers_are_recovered(
    quick_queue: Queue, upkeep: Upkeep, eventually: Eventually
) -> None:
    quick_queue.enqueue({})
    quick_queue.pop_job("silent")
    upkeep.join(IDLE)
    eventually(lambda: quick_queue.get_pending_count() == 1)


def test_jobs_of_silent_workers_are_recovered_in_the_end_whatever_happens_meanwhile(
    quick_queue: Queue,
    upkeep: Upkeep,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(**facts: object) -> None:
        raise ValueError("bad callback")

    quick_queue.on("job_retried", fail)
    quick_queue.enqueue_batch([{"payload": {}}] * 2)
    upkeep.join(IDLE)
    quick_queue.pop_job("silent")
    eventually(lambda: quick_queue.get_stats()["pending"] == 2)
    quick_queue.pop_job("silent")
    eventually(lambda: quick_queue.get_stats()["pending"] == 2)
    assert "bad callback" in caplog.text


def test_what_is_kept_no_longer_is_tidied_away(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue, eventually: Eventually
) -> None:
    monkeypatch.setenv("CLEANUP_DAYS_CANCELLED", "0")
    monkeypatch.setenv("CLEANUP_DAYS_DEAD_LETTERS", "0")
    monkeypatch.setattr("queue_max.workers.upkeep.TIDY", 0.005)
    queue = make_queue(shards=1)
    queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, "never", permanent=True)
    queue.cancel(queue.enqueue({}))
    upkeep = Upkeep.of(queue)
    upkeep.join(IDLE)
    try:
        eventually(lambda: not queue.list_jobs() and not queue.dead_letters.list())
    finally:
        upkeep.leave(IDLE)


def test_an_upkeep_does_not_keep_its_queue(data_dir: object) -> None:
    queue = Queue(shards=1, data_dir=str(data_dir))
    upkeep = Upkeep.of(queue)
    upkeep.join(IDLE)
    upkeep.leave(IDLE)
    gone = weakref.ref(queue)
    del queue, upkeep
    gc.collect()
    assert gone() is None


def test_leases_are_renewed_in_time_whatever_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, make_queue: MakeQueue, eventually: Eventually
) -> None:
    monkeypatch.setenv("HEARTBEAT_INTERVAL", "600000")
    monkeypatch.setenv("STUCK_TIMEOUT", "60")
    queue = make_queue(shards=1)
    queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    queue.services.leases.hold(job.lease)
    upkeep = Upkeep.of(queue)
    upkeep.join(IDLE)
    try:
        eventually(lambda: queue.services.leases.last_renewal)
    finally:
        upkeep.leave(IDLE)


def test_a_worker_that_begins_while_the_last_one_leaves_keeps_its_identity(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(shards=1)
    upkeep = Upkeep.of(queue)
    upkeep.join(IDLE)
    stop = Repeater.stop

    def stop_while_another_begins(loop: Repeater) -> None:
        monkeypatch.setattr(Repeater, "stop", stop)
        upkeep.join(IDLE)
        loop.stop()

    monkeypatch.setattr(Repeater, "stop", stop_while_another_begins)
    upkeep.leave(IDLE)
    try:
        assert queue.services.presence.identity is not None
    finally:
        upkeep.leave(IDLE)
    assert queue.services.presence.identity is None
