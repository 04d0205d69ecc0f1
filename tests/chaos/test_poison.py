"""Jobs that kill their worker's process end in the dead letters, and no other job with them."""

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.support.checker import Verdict, faults_of
from chaos.support.figures import scaled
from chaos.support.ledger import Ledger
from chaos.support.nursery import Child
from chaos.support.roles import payload_of, poison_of

from queue_max import Queue

Fork = Callable[..., Child]
Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

POISON, GOOD = scaled(100, small=3), scaled(1000, small=40)
RETRIES = 2
PROCESSES, THREADS = 2, 10
PATIENCE = 60.0 + 3.0 * POISON  # seconds

SETTINGS: dict[str, object] = {"QUEUE_MAX_RETRIES": RETRIES}


def test_exactly_the_jobs_that_kill_their_worker_are_buried(
    fork: Fork, ledger: Ledger, chance: random.Random, data_dir: Path, report: Report
) -> None:
    poison = {f"poison-{number}" for number in range(POISON)}
    good = {f"good-{number}" for number in range(GOOD)}
    numbers = sorted(poison | good)
    chance.shuffle(numbers)
    with Queue(shards=3, data_dir=data_dir, max_retries=RETRIES) as queue:
        queue.enqueue_batch({"payload": made_of(n), "retry_delay": 0} for n in numbers)
        deaths = run_until_none_is_left(fork, queue)
        letters = {
            str(json.loads(letter["payload"])["n"]): letter["error_type"]
            for shard_id in range(queue.num_shards)
            for letter in queue.shard_manager.get_dead_letter_queue(shard_id, limit=10_000)
        }
        left = {job.payload["n"] for job in queue.list_jobs("pending", None)}
    done = {fact.n for fact in ledger.read() if fact.what == "ended"}

    verdict = Verdict(
        lost=good - done - left - letters.keys(),
        phantom=good & letters.keys(),
        unfinished=left | (poison - letters.keys()),
        corrupt=faults_of(data_dir),
    )
    report(f"{POISON} poison among {GOOD} good, {deaths} deaths (phantom: buried good)", verdict)
    assert verdict.faults == {}
    assert set(letters.values()) == {"WorkerDied"}
    assert done == good


def made_of(n: str) -> dict[str, Any]:
    return poison_of(n) if n.startswith("poison") else payload_of(n)


def run_until_none_is_left(fork: Fork, queue: Queue) -> int:
    """Start each process anew that dies; gives how many did."""
    started = deaths = 0
    crew: list[Child] = []
    deadline = time.monotonic() + PATIENCE
    while not queue.wait_until_empty(0.02) and time.monotonic() < deadline:
        alive = [child for child in crew if not child.has_ended()]
        deaths += len(crew) - len(alive)
        crew = alive
        while len(crew) < PROCESSES:
            started += 1
            crew.append(fork("work", name=f"w{started}", threads=THREADS, also=SETTINGS))
    for child in crew:
        child.signal(signal.SIGTERM)
        child.wait()
    return deaths
