"""The example of the first minutes, as a person runs it: each page has the outcome it should."""

import subprocess
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow

OUTCOMES = {
    "good": "11 bytes, attempts: 1",
    "busy": "11 bytes, attempts: 2",
    "broken-for-a-while": "11 bytes, attempts: 2",
    "silent-for-a-while": "11 bytes, attempts: 2",
    "missing": "failed: HTTP Error 404: Not Found, attempts: 1",
    "broken": "failed: HTTP Error 500: Internal Server Error, attempts: 2",
}


def test_every_page_has_the_outcome_it_should_have(run: Run) -> None:
    done = run("basic_usage.py")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    begin = lines.index("The outcomes:") + 1
    table = dict(line.split(maxsplit=1) for line in lines[begin : begin + len(OUTCOMES)])
    assert table == OUTCOMES
    assert lines[-1] == "In all: 4 jobs done, 2 failed."
    assert "Traceback" not in done.stderr


def test_it_says_so_if_one_has_not(run: Run) -> None:
    spoilt = (
        "import basic_usage, sys; basic_usage.EXPECTED['good'] = ''; sys.exit(basic_usage.main())"
    )
    done = run("-c", spoilt)
    assert done.returncode == 1
    assert "Not as expected: good" in done.stderr
