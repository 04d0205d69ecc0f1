"""Bits of a closed shard file flip: no function is ever given a payload that nobody enqueued.

A flip is harmful when a job is lost, changed or unreadable, or an error is raised; the doctor has
to name those.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from chaos.support.checker import Verdict
from chaos.support.figures import scaled
from chaos.support.roles import payload_of

from queue_max import Queue, QueueError
from queue_max.services.diagnosis import Diagnosis, Level
from queue_max.storage.directory import Directory
from queue_max.storage.sqlite import SqliteOptions

Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

FLIPS = scaled(400, small=10)
JOBS, SHARDS = 40, 2


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    data_dir = tmp_path / "prepared"
    with Queue(shards=SHARDS, data_dir=data_dir) as queue:
        queue.enqueue_batch({"payload": payload_of(f"{each}")} for each in range(JOBS))
    return data_dir


def test_no_payload_is_given_out_that_was_not_enqueued_and_the_doctor_names_the_harm(
    prepared: Path, chance: random.Random, tmp_path: Path, report: Report
) -> None:
    verdict, outcomes, unnamed = Verdict(), Counter[str](), []
    for number in range(FLIPS):
        data_dir = tmp_path / f"flip-{number}"
        shutil.copytree(prepared, data_dir)
        when = flip(data_dir / f"shard_{chance.randrange(SHARDS)}.db", chance)
        is_named = names_a_fault(data_dir)
        outcome = run_all(data_dir, verdict, when)
        outcomes[outcome] += 1
        if outcome != "harmless" and not is_named:
            unnamed.append(when)
        shutil.rmtree(data_dir)
    harmful = FLIPS - outcomes["harmless"]
    report(f"{FLIPS} flips, {harmful} harmful, {len(unnamed)} of these not named", verdict)
    assert verdict.faults == {}
    assert len(unnamed) <= 0.05 * harmful, unnamed


def names_a_fault(data_dir: Path) -> bool:
    directory = Directory(data_dir, SqliteOptions())
    try:
        findings = list(Diagnosis(directory, timedelta(minutes=5)).examine())
    finally:
        directory.close()
    return any(each.level is Level.ERROR for each in findings)


def flip(path: Path, chance: random.Random) -> str:
    """Flip a bit, most often where something is stored; gives its place in words."""
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    while not content[at] and chance.random() < 0.95:
        at = chance.randrange(len(content))
    content[at] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return f"bit in byte {at} of {path.name}"


def run_all(data_dir: Path, verdict: Verdict, when: str) -> str:
    """Take all jobs that are to be had, until the queue refuses; gives what became of them."""
    taken = 0
    try:
        with Queue(data_dir=data_dir, durability="normal") as queue:
            while job := queue.pop_job("me"):
                taken += 1
                n = str(job.payload.get("n"))
                if job.payload != payload_of(n):
                    verdict.phantom.add(f"{n}: {when}")
                queue.complete_job(job.id, job.shard_id, fence=job.fence)
    except QueueError:
        return "noticed"
    except Exception as error:
        verdict.corrupt.append(f"{when}: not in words: {type(error).__name__}: {error}")
        return "not in words"
    return "harmless" if taken == JOBS else "noticed"
