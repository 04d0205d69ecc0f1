"""SIGTERM under load: running jobs end, waiting ones cost nothing, and the program says 0."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from chaos.support.checker import Verdict, check
from chaos.support.figures import scaled
from chaos.support.ledger import Ledger
from chaos.support.nursery import Child
from chaos.support.patience import wait_until

from queue_max import Queue

Fork = Callable[..., Child]
Report = Callable[[str, Verdict], None]
StartProgram = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.chaos

TERMS = scaled(200, small=2)
AT_ONCE = 2
LOAD = 500  # jobs that wait at the start of a round: as a rule, more than are run in it


def test_sigterm_loses_no_job_and_burns_no_attempt(
    fork: Fork,
    start_program: StartProgram,
    ledger: Ledger,
    chance: random.Random,
    data_dir: Path,
    report: Report,
) -> None:
    terms = under_load = 0
    with Queue(shards=3, data_dir=data_dir) as queue:
        while terms < TERMS:
            wanted = LOAD - queue.get_pending_count()
            producer = fork("produce", name=f"p{terms}", seed=terms, jobs=wanted, longest_pause=0)
            programs = [
                start_program("worker", "--function", "chaos.support.roles:note", "--workers", 4)
                for _ in range(AT_ONCE)
            ]
            wait_until(partial(have_begun, programs, ledger))
            time.sleep(chance.uniform(0, 0.2))
            for program in programs:
                program.terminate()
            codes = [program.wait(30) for program in programs]
            terms += AT_ONCE
            assert codes == [0] * AT_ONCE
            assert producer.wait() == 0
            waiting = queue.list_jobs(limit=None)
            under_load += AT_ONCE if waiting else 0
            assert {(job.status, job.attempts) for job in waiting} <= {("pending", 0)}
    finish(start_program, data_dir)

    facts = ledger.read()
    verdict = check(facts, data_dir)
    report(f"{terms} SIGTERMs, {under_load} under load, {ledger.count('acked')} jobs", verdict)
    assert verdict.faults == {}
    assert under_load >= terms / 2
    starts = Counter(fact.n for fact in facts if fact.what == "began")
    assert set(starts.values()) == {1}


def have_begun(programs: list["subprocess.Popen[str]"], ledger: Ledger) -> bool:
    return {each.pid for each in programs} <= {
        fact.pid for fact in ledger.read() if fact.what == "began"
    }


def finish(start_program: StartProgram, data_dir: Path) -> None:
    """Let one more program run what is left, if anything is."""
    with Queue(data_dir=data_dir) as queue:
        if queue.is_empty():
            return
    program = start_program("worker", "--function", "chaos.support.roles:note", "--workers", 8)
    with Queue(data_dir=data_dir) as queue:
        queue.wait_until_empty(300)
    program.terminate()
    assert program.wait(30) == 0
