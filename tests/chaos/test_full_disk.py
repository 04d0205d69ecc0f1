"""A disk that is full, again and again: no job is lost, and all go on when there is room."""

import os
import random
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from chaos.support.checker import Verdict, check
from chaos.support.figures import scaled
from chaos.support.ledger import Ledger
from chaos.support.patience import wait_until
from chaos.support.roles import payload_of

from queue_max import Job, Queue, QueueError, Worker
from queue_max.storage import room
from queue_max.storage.room import LEAST

Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

CYCLES = scaled(20, small=2)
SHARDS = 2
MIB = 1024 * 1024
DISK, LEFT = 40 * MIB, 6 * MIB
HOLDING = 3  # jobs by hand, and as many in workers, that run while the disk is full
SIZES = (40_000, 2_000, 100)  # characters of payloads: the last fill the gaps

PATIENCE = 60.0  # seconds


class TmpfsDisk:
    """A small file system of its own; a file on it takes the room away."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        room = shutil.disk_usage(self.path).free - LEFT
        (self.path / "ballast").write_bytes(bytes(max(0, room)))

    def fill_to_the_brim(self) -> None:
        """Take what is left, as another program may."""
        with suppress(OSError), (self.path / "brim").open("wb", buffering=0) as brim:
            while True:
                brim.write(bytes(4096))

    def make_room(self) -> None:
        for name in ("ballast", "brim"):
            (self.path / name).unlink()


class LimitedFiles:
    """The best an ordinary user can do: no file of this process may grow beyond a size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        largest = max((path.stat().st_size for path in self.path.rglob("*.db")), default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 2 * MIB, self._before[1]))

    def fill_to_the_brim(self) -> None:
        """There is no limit to what others may take."""

    def make_room(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


Disk = TmpfsDisk | LimitedFiles


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0:
        try:
            yield TmpfsDisk(place)
        finally:
            # Lazily: after a failure the queue is still open, and a disk left behind hurts others.
            subprocess.run(["umount", "--lazy", str(place)], check=True)
    else:
        limited = LimitedFiles(place)
        yield limited
        limited.make_room()


class Crew:
    """Workers whose jobs note what they do; those that are to hold wait for `go_on`."""

    def __init__(self, queue: Queue, ledger: Ledger) -> None:
        self._ledger = ledger
        self.go_on = threading.Event()
        self._workers = [self._worker(f"w{number}", queue) for number in range(HOLDING)]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for worker in self._workers:
            worker.start()
        yield
        stopped = [worker.stop(PATIENCE) for worker in self._workers]
        assert all(stopped)

    def _worker(self, name: str, queue: Queue) -> Worker:
        def run(payload: dict[str, Any]) -> dict[str, Any]:
            job = worker.get_current_job()
            assert job is not None
            facts = begin(job, self._ledger)
            if payload["n"].startswith("hold"):
                self.go_on.wait(PATIENCE)
            self._ledger.note("ended", **facts)
            return facts

        def accepted(worker_id: str, job_id: int, result: dict[str, Any]) -> None:
            self._ledger.note("accepted", **result)

        worker = Worker(name, run, queue, on_job_complete=accepted, poll_interval=0.01)
        return worker


def test_a_full_disk_loses_no_job_and_all_go_on_when_there_is_room(
    disk: Disk,
    ledger: Ledger,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    report: Report,
) -> None:
    monkeypatch.setenv("RATE_LIMIT_MAX", "none")
    monkeypatch.setenv("CIRCUIT_FAILURE_THRESHOLD", "none")
    data_dir = disk.path / "data"
    refused = 0
    for cycle in range(CYCLES):
        with Queue(shards=SHARDS, data_dir=data_dir) as queue:
            held = hold_some(queue, ledger, cycle)
            crew = Crew(queue, ledger)
            store(queue, ledger, [f"hold-{cycle}-{number}" for number in range(HOLDING)])
            with crew.at_work():
                wait_until(lambda: len(queue.get_processing_jobs()) == 2 * HOLDING)
                disk.fill()
                # Every other time room is not looked for, as if it had gone after the look.
                monkeypatch.setattr(room, "LEAST", LEAST if cycle % 2 else 0)
                fill_up(queue, ledger, cycle, chance)
                disk.fill_to_the_brim()
                crew.go_on.set()
                refused += sum(not finish(queue, ledger, job) for job in held)
                disk.make_room()
                for job in held:
                    finish_after_all(queue, ledger, job)
                queue.wait_until_empty(PATIENCE)

    verdict = check(ledger.read(), data_dir)
    done = f"{CYCLES} times full, {ledger.count('acked')} jobs, {refused} finishes refused"
    report(done, verdict)
    assert verdict.faults == {}


def hold_some(queue: Queue, ledger: Ledger, cycle: int) -> list[Job]:
    """Take jobs by hand."""
    store(queue, ledger, [f"hand-{cycle}-{number}" for number in range(HOLDING)])
    held = []
    for _ in range(HOLDING):
        job = queue.pop_job("by hand")
        assert job is not None
        begin(job, ledger)
        held.append(job)
    return held


def fill_up(queue: Queue, ledger: Ledger, cycle: int, chance: random.Random) -> None:
    """Store jobs until none is taken any more, however small."""
    for size in SIZES:
        refusals = 0
        while refusals < 5:
            n = f"{cycle}-{chance.randrange(2**48)}x{size}"
            refusals += not store(queue, ledger, [n])


def store(queue: Queue, ledger: Ledger, numbers: list[str]) -> bool:
    for n in numbers:
        ledger.note("offered", n=n)
        try:
            handle = queue.enqueue(payload_of(n), retry_delay=0)
        except QueueError as error:
            ledger.note("refused", error=str(error))
            return False
        ledger.note("acked", n=n, key=f"{handle['shard_id']}/{handle['id']}")
    return True


def begin(job: Job, ledger: Ledger) -> dict[str, Any]:
    key = f"{job.shard_id}/{job.id}"
    facts = {"n": job.payload["n"], "key": key, "fence": job.fence, "attempts": job.attempts}
    ledger.note("began", **facts)
    if job.payload != payload_of(job.payload["n"]):
        ledger.note("strange", n=job.payload["n"])
    return facts


def finish(queue: Queue, ledger: Ledger, job: Job) -> bool:
    """Finish a job by hand; False when that is refused."""
    n, key = job.payload["n"], f"{job.shard_id}/{job.id}"
    ledger.note("ended", n=n)
    try:
        queue.complete_job(job.id, job.shard_id, fence=job.fence)
    except QueueError:
        return False
    ledger.note("accepted", n=n, key=key, fence=job.fence, attempts=job.attempts)
    return True


def finish_after_all(queue: Queue, ledger: Ledger, job: Job) -> None:
    """Finish a job unless that was done while the disk was full."""
    if job.payload["n"] in {running.payload["n"] for running in queue.get_processing_jobs()}:
        assert finish(queue, ledger, job)
