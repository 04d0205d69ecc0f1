"""SIGSTOP for longer than a lease, then SIGCONT: who lost a job can finish it no more."""

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.support.checker import Excuse, Verdict, check
from chaos.support.figures import scaled
from chaos.support.ledger import Fact, Ledger
from chaos.support.nursery import Child
from chaos.support.patience import wait_until

from queue_max import Queue

Fork = Callable[..., Child]
Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

FREEZES = scaled(200, small=4)
AT_ONCE = 4  # frozen; as many again go on
LONGEST_JOB = 1.5  # seconds, so that others run a job when its first worker thaws

LEASE = 1.0  # seconds
LEASES: dict[str, object] = {
    "STUCK_TIMEOUT": int(LEASE * 1000),
    "QUEUE_MAX_DURABILITY": "normal",
    "HEARTBEAT_INTERVAL": 200,
    "RECOVERY_INTERVAL": 200,
}
FREEZE = 1.8 * LEASE  # a lease, and time for others to notice


def test_a_worker_that_slept_through_its_lease_finishes_nothing(
    fork: Fork, ledger: Ledger, chance: random.Random, data_dir: Path, report: Report
) -> None:
    with Queue(shards=2, data_dir=data_dir):
        pass
    producer = fork("produce", name="p", seed=chance.randrange(2**32), longest_pause=0.05)
    workers = [
        fork("work", name=f"w{number}", threads=6, longest=LONGEST_JOB, also=LEASES)
        for number in range(2 * AT_ONCE)
    ]
    everybody = {worker.pid for worker in workers}
    wait_until(lambda: everybody <= {fact.pid for fact in ledger.read() if fact.what == "began"})
    frozen = 0
    while frozen < FREEZES:
        time.sleep(chance.uniform(0, 0.1))
        victims = chance.sample(workers, min(AT_ONCE, FREEZES - frozen))
        freeze(victims, ledger)
        frozen += len(victims)
    producer.signal(signal.SIGKILL)
    with Queue(data_dir=data_dir) as queue:
        queue.wait_until_empty(120)
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [0] * len(workers)

    facts = ledger.read()
    verdict = check(facts, data_dir, any_excuse)
    refused = sum(fact.about["lost"] for fact in facts if fact.what == "stats")
    taken_over = sum(count - 1 for count in starts(facts).values())
    awake = len(check(facts, data_dir, slept(facts)).duplicated)
    verdict.duplicated |= finished_twice(facts)
    taken = f"{taken_over} jobs taken over, {awake} of workers awake"
    report(f"{frozen} freezes, {taken}, {refused} finishes refused", verdict)
    assert verdict.faults == {}
    assert refused > 0


def freeze(victims: list[Child], ledger: Ledger) -> None:
    for victim in victims:
        ledger.note("frozen", victim=victim.pid)
        victim.signal(signal.SIGSTOP)
    time.sleep(FREEZE)
    for victim in victims:
        # Noted first: what it does from now on comes later in the ledger.
        ledger.note("thawed", victim=victim.pid)
        victim.signal(signal.SIGCONT)


def slept(facts: list[Fact]) -> Excuse:
    """Tell whether the worker of a first start was frozen before the job was given out again."""
    begun: dict[int, list[float]] = defaultdict(list)
    for fact in facts:
        if fact.what == "frozen":
            begun[fact.about["victim"]].append(fact.at)

    def excuse(first: Fact, second: Fact) -> bool:
        # A job may begin long after it was given, as a suspect that waits to run alone does.
        given, given_again = first.about["given"], second.about["given"]
        # A signal takes a moment to arrive.
        return any(given <= moment + 0.05 and moment <= given_again for moment in begun[first.pid])

    return excuse


def any_excuse(_first: Fact, _second: Fact) -> bool:
    """Leave out whose lease was over, and why.

    Workers that are awake lose theirs, too, where one is frozen amid a transaction: until it goes
    on, nobody can write to its shard.
    """
    return True


def starts(facts: list[Fact]) -> Counter[str]:
    return Counter(fact.n for fact in facts if fact.what == "began")


def finished_twice(facts: list[Fact]) -> set[str]:
    accepted = Counter(fact.n for fact in facts if fact.what == "accepted")
    return {n for n, count in accepted.items() if count > 1}
