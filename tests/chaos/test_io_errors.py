"""One write or flush fails, once or from then on: what was acknowledged stays, nothing hangs."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.support.aftermath import judge
from chaos.support.checker import Verdict, check
from chaos.support.faults import Fault, Tracer, why_not
from chaos.support.figures import scaled
from chaos.support.ledger import Ledger
from chaos.support.nursery import Child
from chaos.support.roles import LEDGER, payload_of

from queue_max import Queue

Fork = Callable[..., Child]
Report = Callable[[str, Verdict], None]

SHARDS = 2
LONGEST_RUN = 30.0  # seconds: nothing a process does then takes a tenth of it

WHY_NOT = why_not()

MAKING_FAULTS = scaled(150, small=2)
STEP_FAULTS = scaled(100_000, small=8)  # in full, all there are
WORKER_FAULTS = scaled(100_000, small=3)

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no write can be made to fail: {WHY_NOT}"),
]


class Bench:
    """Runs a role on a copy of a prepared directory, each time with another fault."""

    def __init__(self, fork: Fork, tmp_path: Path, prepared: Path | None, ledger: Ledger) -> None:
        self._fork, self._tmp_path, self._prepared = fork, tmp_path, prepared
        self._before = ledger
        self.verdict = Verdict()
        self.refused: Counter[str] = Counter()
        self.hits = 0
        """How many faults have struck."""

    def calls(self, role: str) -> Counter[str]:
        """Tell how often a run without faults makes each call."""
        place, tracer, code = self._run(role, "count", None)
        assert code == 0
        calls = tracer.calls()
        shutil.rmtree(place)
        return calls

    def run(self, role: str, fault: Fault) -> tuple[Path, Ledger]:
        """Run it with a fault, to its end; gives the place and what was noted there."""
        place, tracer, code = self._run(role, "f", fault)
        self.hits += tracer.has_struck()
        if code is None:
            self.verdict.unfinished.add(f"{fault}: hangs")
        elif code:
            self.verdict.unfinished.add(f"{fault}: ended with exit code {code}")
        noted = Ledger(place / "ledger")
        self.refused[str(fault)] += noted.count("refused")
        return place, noted

    def _run(self, role: str, name: str, fault: Fault | None) -> tuple[Path, Tracer, int | None]:
        place = self._tmp_path / "run"
        place.mkdir()
        if self._prepared is not None:
            shutil.copytree(self._prepared, place / "data")
        shutil.copyfile(self._before.path, place / "ledger")
        also = {"DATA_DIR": place / "data", LEDGER: place / "ledger", "NUM_SHARDS": SHARDS}
        child = self._fork(role, name=name, also=also)
        tracer = Tracer(child, place / "strace.log", fault)
        code = child.wait(LONGEST_RUN)
        child.signal(9)
        return place, tracer, code


@pytest.fixture
def prepared(tmp_path: Path, ledger: Ledger) -> Path:
    """A directory in which jobs wait."""
    data_dir = tmp_path / "prepared"
    with Queue(shards=SHARDS, data_dir=data_dir) as queue:
        for number in range(6):
            n = f"prepared-{number}"
            ledger.note("offered", n=n)
            queue.enqueue(payload_of(n), retry_delay=0, pagina_id=number)
            ledger.note("acked", n=n, key=n)
    return data_dir


def test_no_step_of_a_job_loses_anything_to_a_failing_write(
    fork: Fork,
    ledger: Ledger,
    chance: random.Random,
    tmp_path: Path,
    prepared: Path,
    report: Report,
) -> None:
    bench = Bench(fork, tmp_path, prepared, ledger)
    faults = some(faults_of(bench.calls("take_steps")), STEP_FAULTS, chance)
    for fault in faults:
        place, noted = bench.run("take_steps", fault)
        judge(bench.verdict, noted.read(), place / "data", SHARDS, str(fault))
        bench.verdict.unfinished |= left_after_all(place / "data", fault)
        shutil.rmtree(place)
    report(f"{bench.hits} of {len(faults)} faults struck the steps of a job", bench.verdict)
    assert bench.verdict.faults == {}
    assert bench.hits > len(faults) / 2
    # Who was refused once can go on.
    once = [bench.refused[str(fault)] for fault in faults if not fault.for_ever]
    assert max(once, default=0) <= 1


def test_a_queue_whose_making_met_a_failing_write_can_be_made(
    fork: Fork, ledger: Ledger, chance: random.Random, tmp_path: Path, report: Report
) -> None:
    bench = Bench(fork, tmp_path, None, ledger)
    faults = some(faults_of(bench.calls("take_steps")), MAKING_FAULTS, chance)
    for fault in faults:
        place, noted = bench.run("take_steps", fault)
        judge(bench.verdict, noted.read(), place / "data", SHARDS, str(fault))
        shutil.rmtree(place)
    report(f"{bench.hits} of {len(faults)} faults struck the making", bench.verdict)
    assert bench.verdict.faults == {}
    assert bench.hits > len(faults) / 2


def test_a_worker_outlives_a_failing_write_and_runs_each_job_once(
    fork: Fork,
    ledger: Ledger,
    chance: random.Random,
    tmp_path: Path,
    prepared: Path,
    report: Report,
) -> None:
    bench = Bench(fork, tmp_path, prepared, ledger)
    possible = [each for each in faults_of(bench.calls("work_off")) if not each.for_ever]
    faults = some(possible, WORKER_FAULTS, chance)
    for fault in faults:
        place, noted = bench.run("work_off", fault)
        found = check(noted.read(), place / "data")
        for kind in ("lost", "phantom", "duplicated", "unfinished"):
            mine = {f"{n}: {fault}" for n in getattr(found, kind)}
            setattr(bench.verdict, kind, getattr(bench.verdict, kind) | mine)
        bench.verdict.corrupt += found.corrupt
        shutil.rmtree(place)
    report(f"{bench.hits} of {len(faults)} faults struck a worker", bench.verdict)
    assert bench.verdict.faults == {}
    assert bench.hits > len(faults) / 2


def faults_of(calls: Counter[str]) -> list[Fault]:
    """Let each call fail in turn, in every way it may."""
    return [
        Fault(call, number, error, for_ever)
        for call, count in calls.items()
        for number in range(1, count + 1)
        for error in (("ENOSPC", "EIO") if call == "pwrite64" else ("EIO",))
        for for_ever in (False, True)
    ]


def some(faults: list[Fault], count: int, chance: random.Random) -> list[Fault]:
    return faults if count >= len(faults) else chance.sample(faults, count)


def left_after_all(data_dir: Path, fault: Fault) -> set[str]:
    """Run all that is left by hand; gives what cannot be."""
    with Queue(data_dir=data_dir, durability="normal") as queue:
        while job := queue.pop_job("heir"):
            queue.complete_job(job.id, job.shard_id, fence=job.fence)
        # Those that ran are still leased to the process that met the fault.
        for job in queue.get_processing_jobs():
            queue.fail_job(job.id, job.shard_id, "its process is gone", fence=job.fence)
        while job := queue.pop_job("heir"):
            queue.complete_job(job.id, job.shard_id, fence=job.fence)
        return {f"{job.payload['n']}: {fault}" for job in queue.list_jobs("pending", None)}
