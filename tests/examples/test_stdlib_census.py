"""The demo, as a person runs it: stopped at any moment, it goes on and counts no file twice."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


# Where tests run in the background of a shell, Ctrl-C is ignored, and children inherit that.
LISTENING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(script: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(
        [sys.executable, "-c", LISTENING, script, script.parents[1] / "library"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def has_begun(script: Path) -> bool:
    """Tell whether it is beyond loading its modules."""
    return (script.parents[1] / ".demo").exists()


def counted(script: Path) -> int:
    report = script.parents[1] / ".demo" / "report.db"
    if not report.exists():
        return 0
    with closing(sqlite3.connect(report, timeout=60)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
            return 0
        return int(db.execute("SELECT count(*) FROM files").fetchone()[0])


def stop(run: "subprocess.Popen[str]") -> None:
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said


@dataclass(frozen=True)
class Census:
    script: Path
    said: str
    counted: int
    counted_before_the_last_run: int


@pytest.fixture(scope="module")
def census(tmp_path_factory: pytest.TempPathFactory) -> Census:
    """A census stopped three times, then let run to its end, in a folder of its own."""
    folder = tmp_path_factory.mktemp("census") / "examples"
    folder.mkdir()
    script = Path(shutil.copy(CHECKOUT / "examples" / "stdlib_census.py", folder))
    for package in ("asyncio", "email", "idlelib", "unittest"):
        whole = Path(sysconfig.get_path("stdlib"), package)
        shutil.copytree(whole, folder.parent / "library" / package)
    (folder.parent / "library" / "badsyntax.py").write_text("else")
    for more in (0, 40, 40):
        enough = counted(script) + more
        run = start(script)
        while counted(script) < enough or not has_begun(script):
            time.sleep(0.02)
        stop(run)
    part = counted(script)
    run = start(script)
    said, _ = run.communicate(timeout=240)
    assert run.returncode == 0, said
    return Census(script, said, counted(script), part)


def test_a_census_that_is_stopped_goes_on_and_counts_each_file_once(census: Census) -> None:
    totals = totals_of(census.said)
    files, parsed, dead = (totals[name] for name in ("files", "parsed", "failed for good"))
    assert files > 200
    assert parsed + dead == files
    assert parsed == census.counted
    assert census.counted_before_the_last_run < parsed
    assert "badsyntax" in census.said
    assert totals["jobs in this run"] < files


def test_a_census_that_is_over_begins_anew(census: Census) -> None:
    run = start(census.script)
    while not 0 < counted(census.script) < census.counted:
        time.sleep(0.02)
    stop(run)


def totals_of(said: str) -> dict[str, float]:
    """Read the table of totals from what was printed."""
    lines = [line.strip("│ ").split("│") for line in said.splitlines()]
    return {
        cells[0].strip(): float(cells[1].replace(",", ""))
        for cells in lines
        if len(cells) == 2 and cells[1].strip()[:1].isdigit()
    }
