"""Crews: processes that work on one queue, the jobs they are given, and how all that ends."""

import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chaos.support.checker import Excuse, killed
from chaos.support.ledger import Fact, Ledger
from chaos.support.nursery import Child
from chaos.support.patience import wait_until

from queue_max import Queue

Fork = Callable[..., Child]


class Crew:
    """Processes that do what `limited.work` says; one that is killed is replaced."""

    def __init__(self, fork: Fork, ledger: Ledger, size: int, **options: Any) -> None:
        self._fork, self._ledger, self._options = fork, ledger, options
        self._started = 0
        self.members: list[Child] = []
        for _ in range(size):
            self.add()
        wait_until(self._is_ready)

    def add(self) -> None:
        """Start one more."""
        self._started += 1
        self.members.append(self._fork("limited:work", name=f"w{self._started}", **self._options))

    def kill(self, victim: Child) -> None:
        """End one with SIGKILL, and start another in its place."""
        self._ledger.note("killed", victim=victim.pid)
        if victim.signal(signal.SIGKILL):
            victim.wait()
        self.members.remove(victim)
        self.add()

    def replace_dead(self) -> None:
        """Start others in the place of those that a job has killed, one at least."""
        wait_until(lambda: any(each.has_ended() for each in self.members))
        for member in [each for each in self.members if each.has_ended()]:
            assert member.wait() == -signal.SIGKILL
            self.members.remove(member)
            self.add()

    def disturb(self, chance: random.Random) -> None:
        """Kill one, or let it stand still for longer than any token may be used."""
        victim = chance.choice(self.members)
        if not self._ledger.count("killed") or chance.random() < 0.5:
            self.kill(victim)
            return
        victim.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0.1, 0.3))
        victim.signal(signal.SIGCONT)

    def end(self) -> None:
        """Let all end in peace, once they hear what they are told."""
        wait_until(self._is_ready)
        for member in self.members:
            member.signal(signal.SIGTERM)
        assert [member.wait() for member in self.members] == [0] * len(self.members)
        self.members = []

    def _is_ready(self) -> bool:
        ready = {fact.pid for fact in self._ledger.read() if fact.what == "ready"}
        return ready >= {member.pid for member in self.members}


def offer(queue: Queue, ledger: Ledger, jobs: Iterable[Mapping[str, Any]]) -> None:
    """Store jobs, in this order; each payload has its number in "n"."""
    jobs = [{"retry_delay": 0} | job for job in jobs]
    for job in jobs:
        ledger.note("offered", n=job["payload"]["n"])
    for job, handle in zip(jobs, queue.enqueue_batch(jobs)["jobs"], strict=True):
        key = f"{handle['shard_id']}/{handle['id']}"
        ledger.note("acked", n=job["payload"]["n"], key=key)


def failed_or_killed(facts: Iterable[Fact]) -> Excuse:
    """Excuse starts that follow one that failed, or one in a process that was killed."""
    facts = list(facts)
    failed = {(fact.n, fact.about["fence"]) for fact in facts if fact.what == "failed"}
    is_killed = killed(facts)
    return lambda first, second: (
        (first.n, first.about["fence"]) in failed or is_killed(first, second)
    )


def most_at_once(facts: Iterable[Fact]) -> int:
    """Tell how many runs there were at once, at most: from the first line of each to its last.

    One whose process was killed ends there.
    """
    changes = []
    facts = list(facts)
    deaths = {fact.about["victim"]: fact.at for fact in facts if fact.what == "killed"}
    ends = {
        (fact.n, fact.about["fence"]): fact.at for fact in facts if fact.what in {"ended", "failed"}
    }
    for fact in facts:
        if fact.what == "began":
            end = ends.get((fact.n, fact.about["fence"]), deaths.get(fact.pid, fact.at))
            changes += [(fact.at, 1), (end, -1)]
    most = running = 0
    for _at, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
