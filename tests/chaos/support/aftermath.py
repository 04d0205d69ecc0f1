"""Aftermath: whether a queue that comes up again keeps to what its process had been told."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chaos.support.checker import Verdict, faults_of
from chaos.support.ledger import Fact
from chaos.support.roles import payload_of

from queue_max import Job, Queue

_STEPS = {"offered", "acked", "claimed", "finishing", "finished", "purging", "purged"}


@dataclass(frozen=True, slots=True)
class Remains:
    """What a queue holds."""

    jobs: dict[str, Job]
    letters: set[tuple[int, int]]
    """The jobs, by shard and id, that have a dead letter."""


def judge(verdict: Verdict, facts: Iterable[Fact], data_dir: Path, shards: int, when: str) -> None:
    """Compare what is left with the steps that were noted; adds what is wrong to the verdict.

    A step that was begun, and not said to be done, may have been taken or not.
    """
    try:
        remains = _open_anew(data_dir, shards)
    except Exception as error:
        verdict.corrupt.append(f"{when}: {type(error).__name__}: {error}")
        return
    steps = _by_job(facts)
    for n, taken in steps.items():
        _judge_job(verdict, n, taken, remains, when)
    verdict.phantom |= {
        f"{n} {when}"
        for n, job in remains.jobs.items()
        if n not in steps or job.payload != payload_of(n)
    }
    verdict.corrupt += [f"{when}: {fault}" for fault in faults_of(data_dir)]


def _open_anew(data_dir: Path, shards: int) -> Remains:
    with Queue(shards=shards, data_dir=data_dir, durability="normal") as queue:
        letters = {
            (letter["shard_id"], letter["original_job_id"])
            for shard_id in range(shards)
            for letter in queue.shard_manager.get_dead_letter_queue(shard_id)
        }
        jobs = {str(job.payload["n"]): job for job in queue.list_jobs(limit=None)}
    return Remains(jobs, letters)


def _by_job(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    jobs: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.what in _STEPS:
            jobs.setdefault(fact.n, []).append(fact)
    return jobs


def _judge_job(verdict: Verdict, n: str, steps: list[Fact], remains: Remains, when: str) -> None:
    job = remains.jobs.get(n)
    wrong = f"{n} {when}"
    match steps[-1].what, steps[-1].about.get("ending"):
        case ("finished", "complete") | ("purged", _):
            if job is not None:
                verdict.duplicated.add(f"{wrong}: is there again")
        case ("offered", _) | ("finishing", "complete") | ("purging", _):
            pass
        case "finished", "bury":
            if job is None or not job.is_failed or (job.shard_id, job.id) not in remains.letters:
                verdict.lost.add(f"{wrong}: its dead letter")
        case _:
            if job is None:
                verdict.lost.add(wrong)
    fences = [fact.about["fence"] for fact in steps if fact.what == "claimed"]
    if job is not None and fences and job.fence < max(fences):
        verdict.duplicated.add(f"{wrong}: its fence is given twice")
