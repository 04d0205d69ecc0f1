"""What a type checker knows of tasks."""

import re
from pathlib import Path

import pytest
from mypy import api

CODE = """
from queue_max import JobHandle, Queue, RunningJob, Task, task

@task
def add(a: int, b: int = 0) -> int:
    return a + b

@task(priority=2, max_retries=3, keep_result=60)
def send(to: str, *, ctx: RunningJob | None = None) -> None: ...

@task(Queue)  # error: a class is no queue
def other() -> None: ...

@task
async def fetch(url: str) -> bytes:
    return b""

handle: JobHandle = add.delay(1, b=2)
total: int = add(1, 2)
typed: Task[[str], None] = task()(lambda to: None)
send.delay("ann")
send.using(priority=1).delay("ann")
add.schedule_in(5, 1, 2)
handles: list[JobHandle] = add.map([1, 2], b=3)

async def here() -> bytes:
    return await fetch("http://a")

add.delay("one")  # error: incompatible type
add.delay()  # error: Missing positional argument
send.delay(5)  # error: incompatible type
send.using(priority=1).delay(5)  # error: incompatible type
add.schedule_in(5, "one")  # error: incompatible type
text: str = add(1)  # error: Incompatible types in assignment
send("ann", subject="hi")  # error: Unexpected keyword argument
"""


@pytest.mark.slow
def test_arguments_of_calls_that_are_enqueued_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.setenv("MYPYPATH", str(root))
    file = tmp_path / "shop.py"
    file.write_text(CODE)
    options = ["--strict", "--no-error-summary", "--follow-imports=silent"]
    cache = f"--cache-dir={root / '.mypy_cache'}"
    out, err, _status = api.run([*options, cache, "--config-file=", str(file)])
    assert err == ""
    found = {int(line.split(":")[1]): line for line in out.splitlines() if ": error:" in line}
    for number, line in enumerate(CODE.splitlines(), 1):
        if expected := re.search(r"# error: (.+)", line):
            assert number in found, f"nothing is said of {line!r}"
            said = found.pop(number)
            if "class is no" not in expected[1]:
                assert expected[1] in said
    assert found == {}
