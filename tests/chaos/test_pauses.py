"""Pauses: all processes see one within a second, and it outlives them."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.support.checker import Verdict, check
from chaos.support.crews import Crew, Fork, offer
from chaos.support.figures import scaled
from chaos.support.ledger import Fact, Ledger
from chaos.support.patience import wait_until

from queue_max import Queue

Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

PROCESSES = 6
SEEN_WITHIN = 1.0  # seconds


@pytest.mark.parametrize("number", range(scaled(50, small=1)))
def test_a_pause_is_seen_by_all_within_a_second_and_outlives_their_restart(
    number: int, fork: Fork, ledger: Ledger, data_dir: Path, report: Report
) -> None:
    with Queue(shards=2, data_dir=data_dir) as queue:
        crew = Crew(fork, ledger, PROCESSES)
        offer(queue, ledger, ({"payload": {"n": f"{n}", "seconds": 0.005}} for n in range(1500)))
        wait_until(lambda: ledger.count("began") > 100)
        queue.pause("default", reason="a look at what goes wrong")
        ledger.note("paused")
        time.sleep(SEEN_WITHIN)
        crew.end()
        crew = Crew(fork, ledger, PROCESSES)
        time.sleep(SEEN_WITHIN)
        assert queue.paused() == {"queue:default": "a look at what goes wrong"}
        assert queue.get_pending_count() > 0
        ledger.note("resumed")
        queue.resume("default")
        assert queue.wait_until_empty(60)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir)
    [paused], [resumed] = (moments(facts, what) for what in ("paused", "resumed"))
    asked = [fact.about["asked"] - paused for fact in facts if fact.what == "began"]
    late = [seconds for seconds in asked if 0 < seconds < resumed - paused]
    report(f"last start {max(late, default=0) * 1000:.0f} ms after the pause", verdict)
    assert verdict.faults == {}
    assert all(seconds < SEEN_WITHIN for seconds in late)


def moments(facts: list[Fact], what: str) -> list[float]:
    return [fact.at for fact in facts if fact.what == what]
