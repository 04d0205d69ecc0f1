"""Rates that eight processes share: in any T seconds, at most `rate * T + burst` jobs start."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from chaos.support.checker import Verdict, check
from chaos.support.crews import Crew, Fork, failed_or_killed, offer
from chaos.support.figures import scaled
from chaos.support.ledger import Fact, Ledger
from chaos.support.windows import (
    begin_of_steady,
    first_lines_of,
    largest_excess,
    share_used,
    starts_of,
)

from queue_max import Queue
from queue_max.limits.rates import Rate, rates_of

Report = Callable[[str, Verdict], None]

pytestmark = pytest.mark.chaos

ROUNDS = scaled(50, small=3)
PROCESSES = 8
SECONDS = 2.0
DISTURBANCES = 20
NO_RECOVERY: dict[str, object] = {"RECOVERY_INTERVAL": 600_000, "STUCK_TIMEOUT": 600_000}

# What is limited, and how much of it is used at least where other programs have the machine, too.
# With a burst of 1 a token is lost that nobody asks for at once; and a key's jobs are claimed from
# their line once there are tokens.
CASES = (
    ("all", "200/s burst 20", 0.5),
    ("queue:default", "200/s burst 20, 200/2s burst 100", 0.5),
    ("key:customer", "50/s burst 1", 0.3),
    ("key:customer", "200/s burst 20", 0.4),
    ("all", "100/s burst 1", 0.3),
)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_rate_is_used_and_never_exceeded(
    number: int, fork: Fork, ledger: Ledger, data_dir: Path, report: Report
) -> None:
    scope, text, least = CASES[number % len(CASES)]
    rates = rates_of(text)
    with Queue(shards=2, data_dir=data_dir) as queue:
        queue.limits.set(scope, rate=text)
        crew = Crew(fork, ledger, PROCESSES)
        offer(queue, ledger, jobs(rates))
        assert queue.wait_until_empty(60)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir)
    starts = starts_of(facts)
    used, excess = share_used(starts, rates), excess_of(starts, rates)
    report(f"{scope} {text}: {figures(facts, rates)}, used {used:.1%}", verdict)
    assert verdict.faults == {}
    assert excess <= 0
    assert used >= least


@pytest.mark.parametrize("number", range(scaled(50, small=1)))
def test_a_rate_is_not_exceeded_where_processes_are_killed_or_stand_still(
    number: int,
    fork: Fork,
    ledger: Ledger,
    chance: random.Random,
    data_dir: Path,
    report: Report,
) -> None:
    scope, text, _least = CASES[number % len(CASES)]
    rates = rates_of(text)
    with Queue(shards=2, data_dir=data_dir) as queue:
        queue.limits.set(scope, rate=text)
        crew = Crew(fork, ledger, PROCESSES)
        offer(queue, ledger, jobs(rates, seconds=0.02))
        for _ in range(DISTURBANCES):
            if queue.wait_until_empty(chance.uniform(0.1, 0.3)):
                break
            crew.disturb(chance)
        assert queue.wait_until_empty(60)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir, failed_or_killed(facts))
    kills = ledger.count("killed")
    report(f"{scope} {text}, {kills} kills: {figures(facts, rates)}", verdict)
    assert verdict.faults == {}
    assert excess_of(starts_of(facts), rates) <= 0


@pytest.mark.parametrize("number", range(scaled(10, small=1)))
def test_a_rate_is_kept_and_used_where_the_time_of_day_jumps(
    number: int, fork: Fork, ledger: Ledger, data_dir: Path, report: Report
) -> None:
    scope, text, least = CASES[number % 2]
    rates = rates_of(text)
    with Queue(shards=2, data_dir=data_dir) as queue:
        queue.limits.set(scope, rate=text)
        # Leases do go by the time of day where a process may be of another host: nobody looks.
        crew = Crew(fork, ledger, PROCESSES, jumps=86_400.0, also=NO_RECOVERY)
        offer(queue, ledger, jobs(rates))
        assert queue.wait_until_empty(60)
    crew.end()

    facts = ledger.read()
    verdict = check(facts, data_dir)
    starts = starts_of(facts)
    used = share_used(starts, rates)
    report(f"the time of day jumps: {figures(facts, rates)}, used {used:.1%}", verdict)
    assert verdict.faults == {}
    assert excess_of(starts, rates) <= 0
    assert used >= least


def jobs(rates: Iterable[Rate], **more: Any) -> list[dict[str, Any]]:
    """Make as many as may start in some seconds."""
    per_second = min(rate.number / rate.seconds for rate in rates)
    count = begin_of_steady(rates) + int(per_second * SECONDS)
    return [{"payload": {"n": f"{n}"} | more, "rate_key": "customer"} for n in range(count)]


def excess_of(starts: list[tuple[float, float]], rates: Iterable[Rate]) -> float:
    return max(largest_excess(starts, rate) for rate in rates)


def figures(facts: list[Fact], rates: Iterable[Rate]) -> str:
    starts, seen = starts_of(facts), first_lines_of(facts)
    shares = Counter(fact.pid for fact in facts if fact.what == "began").values()
    width = max(let - asked for asked, let in starts)
    return (
        f"{len(starts)} starts, excess {excess_of(starts, rates):.1f}, of first lines "
        f"{excess_of(seen, rates):.1f}, let within {width * 1000:.0f} ms, "
        f"a process {min(shares)} to {max(shares)}"
    )
