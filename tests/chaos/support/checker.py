"""Checker: what a ledger says about the promises, in the words of Jepsen's queue checkers.

https://github.com/jepsen-io/jepsen/blob/main/jepsen/src/jepsen/checker.clj
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from chaos.support.ledger import Fact

from queue_max import Queue
from queue_max.storage import driver

Excuse = Callable[[Fact, Fact], bool]
"""Whether the second start of a job is excused by what befell the process of the first."""


@dataclass(slots=True)
class Verdict:
    """The jobs that broke a promise, by the promise."""

    lost: set[str] = field(default_factory=set)
    """Acknowledged, but neither run to the end, nor buried, nor stored any more."""
    phantom: set[str] = field(default_factory=set)
    """Run, or stored, though nobody offered them, or with another payload."""
    duplicated: set[str] = field(default_factory=set)
    """Stored twice, or run again although nothing had befallen the worker."""
    unfinished: set[str] = field(default_factory=set)
    """Still waiting or running when all should be over."""
    recovered: set[str] = field(default_factory=set)
    """Run although the producer never learnt that they were stored: allowed."""
    corrupt: list[str] = field(default_factory=list)
    """Files that SQLite finds fault with."""

    @property
    def faults(self) -> dict[str, object]:
        """What is not allowed, without what is empty."""
        named = {
            "lost": self.lost,
            "phantom": self.phantom,
            "duplicated": self.duplicated,
            "unfinished": self.unfinished,
            "corrupt": self.corrupt,
        }
        return {name: found for name, found in named.items() if found}


def check(facts: Iterable[Fact], data_dir: Path, excuse: Excuse | None = None) -> Verdict:
    """Compare a ledger with what the queue holds at the end; nobody else may work on it."""
    noted = _by_kind(facts)
    offered = {fact.n for fact in noted["offered"]}
    acked = {fact.n for fact in noted["acked"]}
    began = {fact.n for fact in noted["began"]}
    ended = {fact.n for fact in noted["ended"]}
    with Queue(data_dir=data_dir) as queue:
        stored = {str(job.payload["n"]): job for job in queue.list_jobs(limit=None)}
    buried = {n for n, job in stored.items() if job.is_failed}
    return Verdict(
        lost=acked - ended - stored.keys(),
        phantom=(began | stored.keys()) - offered | {fact.n for fact in noted["strange"]},
        duplicated=_duplicated(noted, excuse or (lambda _first, _second: False)),
        unfinished=stored.keys() - buried,
        recovered=(offered & began) - acked,
        corrupt=faults_of(data_dir),
    )


def killed(facts: Iterable[Fact]) -> Excuse:
    """Excuse starts that follow one in a process that was killed in between."""
    moments = {fact.about["victim"]: fact.at for fact in facts if fact.what == "killed"}
    return lambda first, second: moments.get(first.pid, float("inf")) <= second.at


def faults_of(data_dir: Path) -> list[str]:
    """Let SQLite check each file of a directory that no queue has open; gives its complaints."""
    found = []
    for path in sorted(data_dir.glob("*.db")):
        with closing(driver.choose().module.connect(path)) as connection:
            try:
                said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            except driver.choose().module.DatabaseError as error:
                said = [str(error)]
        found += [f"{path.name}: {line}" for line in said if line != "ok"]
    return found


def _by_kind(facts: Iterable[Fact]) -> Mapping[str, list[Fact]]:
    kinds = defaultdict(list)
    for fact in facts:
        kinds[fact.what].append(fact)
    return kinds


def _duplicated(noted: Mapping[str, list[Fact]], excuse: Excuse) -> set[str]:
    return (
        _stored_twice(noted["acked"])
        | {
            first.n
            for starts in _by_job(noted["began"])
            for first, second in pairwise(starts)
            if not excuse(first, second)
        }
        | _run_after_the_end(noted)
    )


def _stored_twice(acked: Collection[Fact]) -> set[str]:
    keys = defaultdict(set)
    for fact in acked:
        keys[fact.n].add(fact.about["key"])
    return {n for n, found in keys.items() if len(found) > 1}


def _run_after_the_end(noted: Mapping[str, list[Fact]]) -> set[str]:
    """Find jobs that were given out again after a finish of theirs had been accepted."""
    last = {fact.n: fact.about["fence"] for fact in noted["accepted"]}
    return {
        fact.n for fact in noted["began"] if fact.n in last and fact.about["fence"] > last[fact.n]
    }


def _by_job(starts: Iterable[Fact]) -> Iterable[list[Fact]]:
    jobs = defaultdict(list)
    for fact in starts:
        jobs[fact.n].append(fact)
    # One that was given a job first may be the last to begin it; its fence tells.
    return (
        sorted(each, key=lambda fact: (fact.about.get("fence", 0), fact.at))
        for each in jobs.values()
    )
