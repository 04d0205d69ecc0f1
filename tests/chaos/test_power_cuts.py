"""Power cuts: a real process is recorded, and cut off after any of its writes.

What was not flushed may be there, or not, or in part.
"""

import functools
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from chaos.support.aftermath import judge
from chaos.support.checker import Verdict
from chaos.support.disk import Disk
from chaos.support.figures import scaled
from chaos.support.ledger import parse
from chaos.support.recording import Call, record, why_not
from chaos.support.roles import LEDGER

Report = Callable[[str, Verdict], None]
Record = Callable[..., "Recording"]
CutOff = Callable[..., Verdict]

WHY_NOT = why_not()

CUTS = scaled(300, small=8)
LOOSER_CUTS = scaled(100, small=4)
ROUNDS = scaled(8, small=2)

SHARDS = 2
OFTEN = 40  # pages in the WAL that bring about a checkpoint

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"nothing can be recorded: {WHY_NOT}"),
]


@dataclass(frozen=True, slots=True)
class Recording:
    """What a process did, from the making of its queue on."""

    calls: list[Call]
    data_dir: Path
    ledger: Path

    def first_word(self, name: str) -> int:
        """Tell which call first speaks of jobs whose numbers begin like that."""
        wanted = f'"n": "{name}'.encode()
        words = (at for at, call in enumerate(self.calls) if call.path == str(self.ledger))
        return next(at for at in words if wanted in self.calls[at].data)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Record a process that makes a queue and leads jobs through all steps of their lives."""

    @functools.cache
    def run(durability: str, flushes: bool = True) -> Recording:
        place = tmp_path_factory.mktemp("recorded")
        pragmas: dict[str, object] = {"wal_autocheckpoint": OFTEN}
        if not flushes:
            pragmas["synchronous"] = "OFF"
        settings = {
            LEDGER: place / "ledger",
            "DATA_DIR": place / "data",
            "NUM_SHARDS": SHARDS,
            "QUEUE_MAX_DURABILITY": durability,
        }
        code = f"from chaos.support import roles; roles.live_through_all({ROUNDS}, {pragmas!r})"
        calls = record(code, place / "strace.log", place, settings)
        return Recording(calls, place / "data", place / "ledger")

    return run


def test_a_power_cut_takes_nothing_back_that_was_acknowledged(
    recorded: Record, cut_off: CutOff, report: Report
) -> None:
    recording = recorded("full")
    made, end = recording.first_word(""), len(recording.calls)
    # Few amid the making, for each of those has the queue made again, which takes long.
    verdict = cut_off(recording, CUTS // 8, range(made))
    verdict = cut_off(recording, CUTS - CUTS // 8, range(made, end), verdict)
    report(f"{CUTS} cuts in {end} calls, full", verdict)
    assert verdict.faults == {}


def test_a_power_cut_corrupts_nothing_even_where_commits_are_not_flushed(
    recorded: Record, cut_off: CutOff, report: Report
) -> None:
    recording = recorded("normal")
    closed_once = recording.first_word("1-")
    verdict = cut_off(recording, LOOSER_CUTS, range(closed_once, len(recording.calls)))
    report(f"{LOOSER_CUTS} cuts, normal: may lose the last moments", verdict)
    assert (verdict.corrupt, verdict.phantom) == ([], set())


def test_a_new_queue_opens_after_a_power_cut_even_where_commits_are_not_flushed(
    recorded: Record, cut_off: CutOff, report: Report
) -> None:
    recording = recorded("normal")
    verdict = cut_off(recording, LOOSER_CUTS, range(recording.first_word("1-")))
    report(f"{LOOSER_CUTS} cuts while a queue is new, normal", verdict)
    assert (verdict.corrupt, verdict.phantom) == ([], set())


def test_the_power_cuts_would_show_a_queue_that_does_not_flush(
    recorded: Record, cut_off: CutOff, report: Report
) -> None:
    recording = recorded("full", flushes=False)
    among = range(recording.first_word(""), len(recording.calls))
    verdict = cut_off(recording, LOOSER_CUTS, among)
    report(f"{LOOSER_CUTS} cuts, control without flushes: must lose", verdict)
    assert verdict.lost or verdict.corrupt


@pytest.fixture
def cut_off(chance: random.Random, tmp_path: Path) -> CutOff:
    """Cut a recorded process off so many times after some of its calls; see what is left."""

    def run(
        recording: Recording, cuts: int, among: range, verdict: Verdict | None = None
    ) -> Verdict:
        verdict, disk, lines = verdict or Verdict(), Disk(recording.data_dir), bytearray()
        cut_after = Counter(chance.choices(among, k=cuts))
        for place, call in enumerate(recording.calls):
            disk.happen(call)
            if call.name == "write" and call.path == str(recording.ledger):
                lines += call.data
            for number in range(cut_after[place]):
                target = tmp_path / f"cut-{place}-{number}"
                disk.cut(target, chance)
                facts = list(parse(lines.decode()))
                judge(verdict, facts, target, SHARDS, f"after call {place}")
                shutil.rmtree(target)
        return verdict

    return run
