import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.contenders.protocol import Outcome, Request
from bench.contenders.tally import PAYLOAD_BYTES, payload
from bench.environments import Contender
from bench.measuring import MeasurementError, check_once, combine, measure

FAILING = Request(contender="x", task="drain", jobs=4, failing_percent=2)  # jobs 0 and 1
PLAIN = Request(contender="x", task="drain", jobs=4)


class ThisPython(Contender):
    @property
    def python(self) -> Path:
        return Path(sys.executable)


THREADS = ThisPython(module="contenders.bare_threads", environment="none", requirements=())


def outcome(runs: str = "", buried: str = "", **figures: float) -> Outcome:
    return Outcome(started=0.0, ended=1.0, runs=runs, buried=buried, figures=figures)


def test_all_payloads_are_equally_long() -> None:
    assert {len(json.dumps(payload(n))) for n in (0, 19_999, 9_999_999)} == {PAYLOAD_BYTES}


def test_jobs_that_several_processes_ran_once_are_all_right() -> None:
    check_once(PLAIN, [outcome("01000100"), outcome("00010001")])


@pytest.mark.parametrize(
    ("request_", "outcomes", "complaint"),
    [
        (PLAIN, [outcome("01010001")], "1 of 4 jobs did not run exactly once"),
        (PLAIN, [outcome("01010101"), outcome("01000000")], "1 of 4 jobs did not run"),
        (PLAIN, [outcome("010101")], "3 jobs were counted, not 4"),
        (PLAIN, [outcome(stored=3)], "3 of 4 jobs were stored"),
        (FAILING, [outcome("01010101", "01000000")], "1 of 4 jobs have not the dead letters"),
    ],
    ids=["never", "twice", "fewer", "not stored", "not buried"],
)
def test_a_job_that_was_not_done_exactly_once_is_told(
    request_: Request, outcomes: list[Outcome], complaint: str
) -> None:
    with pytest.raises(MeasurementError, match=complaint):
        check_once(request_, outcomes)


def test_the_clock_runs_from_the_first_start_to_the_last_end() -> None:
    first = Outcome(started=10.0, ended=11.0, figures={"peak_mb": 50.0})
    last = Outcome(started=10.5, ended=12.0, figures={"peak_mb": 70.0})
    assert combine(PLAIN, [first, last]).figures == {"jobs_per_second": 2.0, "peak_mb": 70.0}


def test_a_measurement_is_done_by_a_process_of_its_own(tmp_path: Path) -> None:
    request = Request(contender="threads", task="work", jobs=100, threads=2)
    measured = measure(request, THREADS, where=tmp_path)
    assert measured.figures["jobs_per_second"] > 0
    assert not list(tmp_path.iterdir())


def test_the_last_words_of_a_contender_that_fails_are_told(tmp_path: Path) -> None:
    nobody = replace(THREADS, module="contenders.nobody")
    with pytest.raises(MeasurementError, match=r"No module named contenders\.nobody"):
        measure(PLAIN, nobody, where=tmp_path)


def test_a_contender_that_leaves_jobs_out_is_found_out(tmp_path: Path) -> None:
    idle = Request(contender="threads", task="work", jobs=100, threads=0)
    with pytest.raises(MeasurementError, match="100 of 100 jobs did not run exactly once"):
        measure(idle, THREADS, where=tmp_path)


def test_a_contender_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    request = Request(contender="threads", task="work", jobs=2, threads=1, sleep_ms=60_000)
    with pytest.raises(MeasurementError, match=r"stopped after 0\.5 s"):
        measure(request, THREADS, where=tmp_path, timeout=0.5)
