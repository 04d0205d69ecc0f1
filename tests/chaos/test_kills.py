"""SIGKILL at random moments: what was acknowledged is run to its end, whoever dies."""

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chaos.support.checker import Verdict, check, killed
from chaos.support.figures import scaled
from chaos.support.ledger import Ledger
from chaos.support.nursery import Child
from chaos.support.patience import wait_until
from chaos.support.roles import payload_of

from queue_max import Queue

Fork = Callable[..., Child]
Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

KILLS = scaled(500, small=20)
PROGRAM_KILLS = scaled(20, small=1)
FIRST_STARTS = scaled(60, small=3)

WORKERS, PRODUCERS = 3, 2
LONGEST_LIFE = 0.08  # seconds between two kills, at most


class Crew:
    """Workers and producers, each of which is replaced when it is killed."""

    def __init__(self, fork: Fork, ledger: Ledger, chance: random.Random) -> None:
        self._fork, self._ledger, self._chance = fork, ledger, chance
        self._started = 0
        self._roles = ["work"] * WORKERS + ["produce"] * PRODUCERS
        self.members = [self._start(role) for role in self._roles]

    def kill_one(self) -> None:
        place = self._chance.randrange(len(self.members))
        kill(self.members[place], self._ledger)
        self.members[place] = self._start(self._roles[place])

    def kill_producers(self) -> None:
        for member, role in zip(self.members, self._roles, strict=True):
            if role == "produce":
                kill(member, self._ledger)

    def end(self) -> None:
        workers = [m for m, role in zip(self.members, self._roles, strict=True) if role == "work"]
        for worker in workers:
            worker.signal(signal.SIGTERM)
        assert [worker.wait() for worker in workers] == [0] * len(workers)

    def _start(self, role: str) -> Child:
        self._started += 1
        if role == "work":
            # Some jobs outlast a look of those who recover.
            return self._fork("work", name=f"w{self._started}", threads=4, longest=0.8, rarity=12)
        return self._fork("produce", name=f"p{self._started}", seed=self._chance.randrange(2**32))


def kill(victim: Child, ledger: Ledger) -> None:
    ledger.note("killed", victim=victim.pid)
    assert victim.signal(signal.SIGKILL), "it had ended by itself"
    assert victim.wait() == -signal.SIGKILL


def test_every_acknowledged_job_runs_to_its_end_whoever_is_killed(
    fork: Fork, ledger: Ledger, chance: random.Random, data_dir: Path, report: Report
) -> None:
    with Queue(shards=3, data_dir=data_dir):
        pass
    crew = Crew(fork, ledger, chance)
    for number in range(KILLS):
        time.sleep(chance.uniform(0, LONGEST_LIFE))
        # Where the machine is slow, nobody would live long enough to store anything.
        wait_until(partial(has_acked_more_than, number, ledger))
        crew.kill_one()
    crew.kill_producers()
    with Queue(data_dir=data_dir) as queue:
        queue.wait_until_empty(60 + KILLS / 5)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir, killed(facts))
    again = ledger.count("began") - len({fact.n for fact in facts if fact.what == "began"})
    report(f"{KILLS} kills, {ledger.count('acked')} jobs, {again} of them run again", verdict)
    assert verdict.faults == {}
    assert ledger.count("acked") >= KILLS


def test_killed_worker_programs_lose_nothing(
    fork: Fork,
    start_program: Callable[..., Any],
    ledger: Ledger,
    chance: random.Random,
    data_dir: Path,
    report: Report,
) -> None:
    with Queue(shards=2, data_dir=data_dir):
        pass
    producer = fork("produce", name="p", seed=chance.randrange(2**32), longest_pause=0.05)
    for number in range(PROGRAM_KILLS + 1):
        begun = ledger.count("began")
        program = start_program("worker", "--function", "chaos.support.roles:note", "--workers", 2)
        wait_until(partial(has_begun_more_than, begun, ledger))
        if number < PROGRAM_KILLS:
            time.sleep(chance.uniform(0, 0.3))
            ledger.note("killed", victim=program.pid)
            program.kill()
            program.wait()
    kill(producer, ledger)
    with Queue(data_dir=data_dir) as queue:
        queue.wait_until_empty(60)
    program.terminate()
    assert program.wait(60) == 0

    facts = ledger.read()
    verdict = check(facts, data_dir, killed(facts))
    report(f"{PROGRAM_KILLS} kills of programs, {ledger.count('acked')} jobs", verdict)
    assert verdict.faults == {}


def test_a_directory_opens_wherever_its_makers_were_killed(
    fork: Fork, ledger: Ledger, chance: random.Random, tmp_path: Path, report: Report
) -> None:
    verdict = Verdict()
    for number in range(FIRST_STARTS):
        data_dir = tmp_path / f"data-{number}"
        also: dict[str, object] = {"DATA_DIR": data_dir, "NUM_SHARDS": 2}
        makers = [fork("produce", name=f"{number}-{each}", seed=each, also=also) for each in (1, 2)]
        for maker in makers:
            time.sleep(chance.uniform(0, 0.3))
            kill(maker, ledger)
        with Queue(data_dir=data_dir, shards=2) as queue:
            stored = {job.payload["n"]: job.payload for job in queue.list_jobs(limit=None)}
            queue.enqueue({"n": "one more"})
        acked = {fact.n for fact in ledger.read() if fact.what == "acked"}
        verdict.lost |= {n for n in acked if n.startswith(f"{number}-")} - stored.keys()
        verdict.phantom |= {n for n, payload in stored.items() if payload != payload_of(n)}
        verdict.corrupt += check(ledger.read(), data_dir).corrupt
    report(f"{2 * FIRST_STARTS} kills of those who make a directory", verdict)
    assert verdict.faults == {}


def has_acked_more_than(count: int, ledger: Ledger) -> bool:
    return ledger.count("acked") > count


def has_begun_more_than(count: int, ledger: Ledger) -> bool:
    return ledger.count("began") > count
