"""Breakers that eight processes share: one probe in each opening, whoever is killed."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.support.checker import Verdict, check
from chaos.support.crews import Crew, Fork, failed_or_killed, most_at_once, offer
from chaos.support.figures import scaled
from chaos.support.ledger import Fact, Ledger
from chaos.support.patience import wait_until

from queue_max import Queue

Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

ROUNDS = scaled(50, small=2)
PROCESSES = 8
RECOVERY = 1.0  # seconds until a probe passes
PATIENCE = 0.9  # seconds until all processes see an opening; a tenth, were the machine not busy
RECOVERED_WITHIN = 15.0  # seconds
BREAKERS = {"api": {"failure_threshold": 3, "recovery_timeout": RECOVERY}}

# A probe that is killed is to be noticed by that, not by the end of its lease.
LONG_LEASE: dict[str, object] = {"STUCK_TIMEOUT": 120_000}


@pytest.mark.parametrize("number", range(ROUNDS))
def test_one_probe_passes_in_each_opening_and_only_its_success_closes(
    number: int,
    fork: Fork,
    ledger: Ledger,
    chance: random.Random,
    tmp_path: Path,
    data_dir: Path,
    report: Report,
) -> None:
    reopenings = chance.choice((1, 2))
    old_success = {"n": "old", "stays_while": "working"}
    (tmp_path / "working").touch()
    with Queue(shards=2, data_dir=data_dir) as queue:
        crew = Crew(fork, ledger, PROCESSES, breakers=BREAKERS)
        offer(queue, ledger, [{"payload": old_success, "breaker": "api"}])
        wait_until(lambda: ledger.count("began"))
        offer(queue, ledger, jobs(1000, seconds=0.005, fails_while="down"))
        wait_until(lambda: ledger.count("began") > 200)
        (tmp_path / "down").touch()
        wait_until(lambda: ledger.count("opened"))
        (tmp_path / "working").unlink()
        wait_until(lambda: ledger.count("opened") > reopenings)
        (tmp_path / "down").unlink()
        assert queue.wait_until_empty(60)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir, failed_or_killed(facts))
    opened, closed, probes = cycle(facts)
    stale = last_stale_start(facts, opened[0])
    report(f"{len(opened)} openings, last stale start after {stale * 1000:.0f} ms", verdict)
    assert verdict.faults == {}
    assert opened[0].at < moment(facts, "ended", "old") < closed
    assert stale < PATIENCE
    assert len(probes) == len(opened) > reopenings
    assert most_at_once([*probes, *(fact for fact in facts if fact.what != "began")]) == 1


@pytest.mark.parametrize("number", range(scaled(50, small=2)))
def test_another_probe_follows_one_that_is_killed(
    number: int,
    fork: Fork,
    ledger: Ledger,
    chance: random.Random,
    tmp_path: Path,
    data_dir: Path,
    report: Report,
) -> None:
    (tmp_path / "down").touch()
    (tmp_path / "dead").touch()
    lives = chance.choice((0.0, 0.0, 0.05, 0.3))
    with Queue(shards=2, data_dir=data_dir) as queue:
        crew = Crew(fork, ledger, PROCESSES, breakers=BREAKERS, also=LONG_LEASE)
        offer(queue, ledger, jobs(50, seconds=lives, kills="dead", fails_while="down"))
        wait_until(lambda: ledger.count("opened"))
        time.sleep(RECOVERY / 2)  # so that it is the probe that dies
        for name in ("down", "dead"):
            (tmp_path / name).unlink()
        wait_until(lambda: ledger.count("killed"))
        crew.replace_dead()
        assert queue.wait_until_empty(60)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir, failed_or_killed(facts))
    opened, _closed, probes = cycle(facts)
    followed = probes[-1].at - next(fact.at for fact in facts if fact.what == "killed")
    report(f"1 probe killed after {lives} s, the next one {followed:.2f} s later", verdict)
    assert verdict.faults == {}
    assert len(probes) == len(opened) + 1
    assert followed < RECOVERED_WITHIN


def jobs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"payload": {"n": f"{n}"} | more, "breaker": "api"} for n in range(count)]


def cycle(facts: list[Fact]) -> tuple[list[Fact], float, list[Fact]]:
    """Give the openings, the moment of the one closing, and the starts of jobs in between.

    Those of the first moments are left out, in which not all processes knew.
    """
    opened = [fact for fact in facts if fact.what == "opened"]
    [closed] = [fact.at for fact in facts if fact.what == "closed"]
    later = [
        fact
        for fact in facts
        if fact.what == "began" and fact.about["asked"] > opened[0].at + PATIENCE
    ]
    runs = {(fact.n, fact.about["fence"]) for fact in later}
    success = min(
        fact.at for fact in facts if fact.what == "ended" and (fact.n, fact.about["fence"]) in runs
    )
    return opened, closed, [fact for fact in later if fact.about["let"] < success]


def last_stale_start(facts: list[Fact], opened: Fact) -> float:
    """Tell how many seconds after the opening another process let a job start for the last time."""
    starts = [fact for fact in facts if fact.what == "began" and fact.pid != opened.pid]
    after = [fact.about["asked"] - opened.at for fact in starts]
    return max(seconds for seconds in after if seconds < PATIENCE)


def moment(facts: list[Fact], what: str, n: str) -> float:
    return next(fact.at for fact in facts if fact.what == what and fact.about.get("n") == n)
