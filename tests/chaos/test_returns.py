"""SIGKILL amid a job: another process of this host begins it anew within a second.

Leases last for ten minutes here, so that none of them is the reason.
"""

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from chaos.support.checker import Verdict
from chaos.support.figures import scaled
from chaos.support.ledger import Fact, Ledger
from chaos.support.nursery import Child
from chaos.support.patience import wait_until
from chaos.support.roles import payload_of

from queue_max import Queue

Fork = Callable[..., Child]
Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

DEATHS = scaled(100, small=4)
LONGEST_WAIT = 1.0  # seconds
LATE = max(1, DEATHS // 100)  # for this machine has other work, too

LEASES: dict[str, object] = {"STUCK_TIMEOUT": 600_000, "QUEUE_MAX_DURABILITY": "normal"}
LOOK_FOR_DEAD = 0.5  # seconds; kills come at any moment between two looks


def test_the_job_of_a_dead_process_begins_again_within_a_second(
    fork: Fork, ledger: Ledger, chance: random.Random, data_dir: Path, report: Report
) -> None:
    waits: dict[str, float] = {}
    with Queue(shards=2, data_dir=data_dir) as queue:
        for number in range(DEATHS):
            n = f"{number}"
            crew = {child.pid: child for child in (start(fork, f"{n}-{each}") for each in "ab")}
            queue.enqueue(payload_of(n))
            wait_until(partial(has_begun, n, 1, ledger))
            time.sleep(chance.uniform(0, LOOK_FOR_DEAD))
            killed_at = time.monotonic()
            crew[starts_of(n, ledger)[0].pid].signal(signal.SIGKILL)
            wait_until(partial(has_begun, n, 2, ledger))
            waits[n] = starts_of(n, ledger)[1].at - killed_at
            for child in crew.values():
                child.signal(signal.SIGKILL)
                child.wait()
            queue.purge_queue(force=True)

    late = {n for n, wait in waits.items() if wait > LONGEST_WAIT}
    times = f"{median(waits.values()):.2f} s, at most {max(waits.values()):.2f} s"
    done = f"{DEATHS} deaths, begun again after {times} (unfinished: late)"
    report(done, Verdict(unfinished=late))
    assert len(late) <= LATE, waits


def start(fork: Fork, name: str) -> Child:
    """Start a process that runs one job at a time, each for longer than this test takes."""
    return fork("work", name=name, threads=1, longest=3600, rarity=0, also=LEASES)


def starts_of(n: str, ledger: Ledger) -> list[Fact]:
    return [fact for fact in ledger.read() if fact.what == "began" and fact.n == n]


def has_begun(n: str, times: int, ledger: Ledger) -> bool:
    return len(starts_of(n, ledger)) >= times
