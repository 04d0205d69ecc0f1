"""One measurement: fresh processes on a fresh directory, and a check that each job ran once."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.contenders.protocol import READY, Outcome, Request
from bench.environments import CHECKOUT, Contender

WORKING_DIRECTORY = CHECKOUT / "bench"


class MeasurementError(Exception):
    """A contender failed, or did not do each job exactly once."""


@dataclass(frozen=True)
class Measurement:
    """What was measured, all processes taken together."""

    figures: Mapping[str, float]
    versions: Mapping[str, str] = field(default_factory=dict)


def measure(
    request: Request, contender: Contender, *, where: Path | None = None, timeout: float = 600.0
) -> Measurement:
    """Do what a request asks for, in a new directory below `where`.

    Raises MeasurementError when a contender fails, or takes longer than `timeout` seconds, or
    has not done each job exactly once.
    """
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=where or CHECKOUT) as folder:
        data = Path(folder).resolve() / "data"  # the processes work elsewhere
        data.mkdir()
        request = replace(request, directory=str(data))
        if request.prepare:
            prepared = replace(request, task=request.prepare, processes=1)
            _run_processes(prepared, contender, timeout)
            _flush(data)
        outcomes = _run_processes(request, contender, timeout)
    check_once(request, outcomes)
    return combine(request, outcomes)


def check_once(request: Request, outcomes: Sequence[Outcome]) -> None:
    """See that each job was stored, ran once, and left a dead letter if it was to fail.

    Raises MeasurementError that says how many did not.
    """
    for outcome in outcomes:
        stored = outcome.figures.get("stored", request.jobs)
        if stored != request.jobs:
            raise MeasurementError(f"{stored:.0f} of {request.jobs} jobs were stored")
    if runs := _added([outcome.runs for outcome in outcomes if outcome.runs]):
        _expect(runs, [1] * request.jobs, "did not run exactly once")
    if request.failing_percent:
        letters = _added([outcome.buried for outcome in outcomes])
        failing = [int(request.fails(number)) for number in range(request.jobs)]
        _expect(letters, failing, "have not the dead letters that they should have")


def combine(request: Request, outcomes: Sequence[Outcome]) -> Measurement:
    """Take the outcomes of all processes together: the rate of all, the worst of the rest."""
    duration = max(each.ended for each in outcomes) - min(each.started for each in outcomes)
    figures = {"jobs_per_second": request.jobs / duration}
    for outcome in outcomes:
        for name, value in outcome.figures.items():
            figures[name] = max(value, figures.get(name, value))
    return Measurement(figures, outcomes[0].versions)


def _flush(folder: Path) -> None:
    """Bring files to the disk, so that they are not written back while the clock runs."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _run_processes(request: Request, contender: Contender, timeout: float) -> list[Outcome]:
    """Start all processes, give the signal once all are ready, and collect the outcomes."""
    with tempfile.TemporaryFile("w+") as errors:
        parts = [replace(request, part=part) for part in range(request.processes)]
        processes = [_start(part, contender, errors.fileno()) for part in parts]
        with _ended_at_last(processes, timeout):
            _give_signal(processes)
            answers = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            errors.seek(0)
            raise MeasurementError(_last_line(errors.read()) or f"stopped after {timeout:g} s")
    return [Outcome(**json.loads(answer)) for answer in answers]


def _start(request: Request, contender: Contender, errors: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [contender.python, "-m", contender.module, json.dumps(asdict(request))],
        cwd=WORKING_DIRECTORY,
        env=contender.variables(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


@contextmanager
def _ended_at_last(processes: Sequence[subprocess.Popen[str]], timeout: float) -> Iterator[None]:
    """Leave no process behind: neither one that hangs, nor any when we are interrupted."""

    def kill() -> None:
        for process in processes:
            process.kill()

    alarm = threading.Timer(timeout, kill)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
        kill()
        for process in processes:
            process.wait()


def _give_signal(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Let all begin at the same time, once all are ready; one that died is found out later."""
    ready = [process.stdout.readline().strip() == READY for process in processes if process.stdout]
    if not all(ready):
        return
    for process in processes:
        if process.stdin:
            process.stdin.write("start\n")
            process.stdin.flush()


def _added(counts: Sequence[str]) -> list[int]:
    """Add up what the processes counted, job by job."""
    return [sum(each) for each in zip(*(bytes.fromhex(text) for text in counts), strict=True)]


def _expect(found: Sequence[int], wanted: Sequence[int], complaint: str) -> None:
    if len(found) != len(wanted):
        raise MeasurementError(f"{len(found)} jobs were counted, not {len(wanted)}")
    wrong = sum(one != other for one, other in zip(found, wanted, strict=True))
    if wrong:
        raise MeasurementError(f"{wrong} of {len(wanted)} jobs {complaint}")


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")
