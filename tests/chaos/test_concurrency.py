"""Concurrency that six processes share: never more of a key or a queue at once than may be."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.support.checker import Verdict, check
from chaos.support.crews import Crew, Fork, failed_or_killed, most_at_once, offer
from chaos.support.figures import scaled
from chaos.support.ledger import Fact, Ledger

from queue_max import Queue

Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

ROUNDS = scaled(50, small=1)
PROCESSES = 6
KILLS = 5

NARROW = [f"narrow-{number}" for number in range(10)]  # one at a time
WIDE = [f"wide-{number}" for number in range(10)]
AT_ONCE = 3  # of each wide one
JOBS = 12  # of each


@pytest.mark.parametrize("number", range(ROUNDS))
def test_no_more_of_a_key_run_at_once_than_may_and_one_at_a_time_in_their_order(
    number: int,
    fork: Fork,
    ledger: Ledger,
    chance: random.Random,
    data_dir: Path,
    report: Report,
) -> None:
    with Queue(shards=2, data_dir=data_dir) as queue:
        queue.limits.set("key:wide-*", concurrency=AT_ONCE)
        crew = Crew(fork, ledger, PROCESSES, threads=5)
        offer(queue, ledger, [job_of(key, n) for n in range(JOBS) for key in NARROW + WIDE])
        kills = end_with_kills(queue, crew, chance)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir, failed_or_killed(facts))
    most = {key: most_at_once(of_key(facts, key)) for key in NARROW + WIDE}
    narrow, wide = (max(most[key] for key in keys) for keys in (NARROW, WIDE))
    report(f"20 keys, {kills} kills, at most {narrow} and {wide} at once", verdict)
    assert verdict.faults == {}
    assert narrow == 1
    assert wide <= AT_ONCE
    for key in NARROW:
        order = [int(fact.n.rpartition(" ")[2]) for fact in begun(of_key(facts, key))]
        assert order == sorted(order)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_no_more_of_a_queue_run_at_once_than_may(
    number: int,
    fork: Fork,
    ledger: Ledger,
    chance: random.Random,
    data_dir: Path,
    report: Report,
) -> None:
    with Queue(shards=2, data_dir=data_dir) as queue:
        queue.limits.set("queue:mail", concurrency=4)
        crew = Crew(fork, ledger, PROCESSES, threads=2, queues="mail,default")
        mail = [
            {"payload": {"n": f"mail {n}", "seconds": 0.03}, "queue": "mail"} for n in range(80)
        ]
        rest = [{"payload": {"n": f"rest {n}", "seconds": 0.01}} for n in range(40)]
        offer(queue, ledger, mail + rest)
        kills = end_with_kills(queue, crew, chance)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir, failed_or_killed(facts))
    most = most_at_once(of_key(facts, "mail"))
    report(f"a queue, {kills} kills, at most {most} at once", verdict)
    assert verdict.faults == {}
    assert most <= 4


def job_of(key: str, number: int) -> dict[str, Any]:
    return {"payload": {"n": f"{key} {number}", "seconds": 0.02}, "concurrency_key": key}


def job_of_queue(name: str, number: int) -> dict[str, Any]:
    return {"payload": {"n": f"{name} {number}", "seconds": 0.03}, "queue": name}


def end_with_kills(queue: Queue, crew: Crew, chance: random.Random) -> int:
    """Wait for the end of all jobs; gives how many workers were killed meanwhile."""
    kills = 0
    while kills < KILLS and not queue.wait_until_empty(chance.uniform(0.1, 0.4)):
        crew.kill(chance.choice(crew.members))
        kills += 1
    assert queue.wait_until_empty(60)
    return kills


def of_key(facts: list[Fact], key: str) -> list[Fact]:
    """Leave out other keys; what is about no job stays."""
    return [fact for fact in facts if fact.about.get("n", f"{key} ").startswith(f"{key} ")]


def begun(facts: list[Fact]) -> list[Fact]:
    return sorted((fact for fact in facts if fact.what == "began"), key=lambda fact: fact.at)
