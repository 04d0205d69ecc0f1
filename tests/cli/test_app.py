"""`queue-max worker --app`: tasks that another process has enqueued, found by their names."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from queue_max import Queue

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).parents[2]

SHOP = """
import asyncio, sys
from queue_max import current_job, periodic_task, task

@task(keep_result=600)
def add(a: int, b: int) -> int:
    return a + b

@task(keep_result=600)
async def meet(n: int) -> int:
    seen.add(n)
    while len(seen) < 3:
        await asyncio.sleep(0.001)
    return len(seen)

@task(keep_result=600)
def more(n: int) -> str:
    return add.using(keep_result=600).delay(n, n).key

@periodic_task(cron="@daily")
def tidy() -> None: ...

seen = set()

if __name__ == "__main__":
    print(add.delay(int(sys.argv[1]), 1).key)
"""


@pytest.fixture
def queue(make_queue: MakeQueue, tmp_path: Path) -> Queue:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "nothing_here.py").write_text("")
    return make_queue(shards=1)


def python(tmp_path: Path, queue: Queue, *arguments: str) -> str:
    """Run Python as another process of the user would."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DATA_DIR": queue.data_dir},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("how", ["imported", "script", "module"])
def test_tasks_are_run_that_another_process_enqueued(
    queue: Queue, run: Run, tmp_path: Path, how: str
) -> None:
    arguments = {
        "imported": ["-c", "import shop; print(shop.add.delay(41, 1).key)"],
        "script": ["shop.py", "41"],
        "module": ["-m", "shop", "41"],
    }[how]
    key = python(tmp_path, queue, *arguments)
    ran = run("worker", "--app", "shop", "--workers", 2, "--burst")
    assert ran.returncode == 0, ran.stderr
    assert queue.get_result(key, 0) == 42
    assert queue.get_job(key).task == "shop.add"


def test_what_tasks_enqueue_goes_to_the_same_queue(queue: Queue, run: Run, tmp_path: Path) -> None:
    key = python(tmp_path, queue, "-c", "import shop; print(shop.more.delay(4).key)")
    ran = run("worker", "--app", "shop", "--burst", "--data-dir", queue.data_dir)
    assert ran.returncode == 0, ran.stderr
    assert queue.get_result(queue.get_result(key, 0), 0) == 8


def test_coroutines_run_at_once(queue: Queue, run: Run, tmp_path: Path) -> None:
    keys = python(
        tmp_path,
        queue,
        "-c",
        "import shop; print(*(each.key for each in shop.meet.map([1, 2, 3])))",
    )
    ran = run("worker", "--app", "shop", "--concurrency", 3, "--burst")
    assert ran.returncode == 0, ran.stderr
    assert [queue.get_result(key, 0) for key in keys.split()] == [3, 3, 3]


def test_schedules_of_the_module_are_declared(queue: Queue, run: Run) -> None:
    assert run("worker", "--app", "shop", "--burst").returncode == 0
    assert [each.name for each in queue.schedules.list()] == ["shop.tidy"]


def test_a_function_may_stand_beside(queue: Queue, run: Run, tmp_path: Path) -> None:
    queue.enqueue({"n": 5})
    key = python(tmp_path, queue, "shop.py", "1")
    ran = run("worker", "--app", "shop", "--function", "builtins:print", "--burst")
    assert ran.returncode == 0, ran.stderr
    assert "{'n': 5}" in ran.stdout
    assert "processing shop, builtins:print" in ran.stderr
    assert queue.get_result(key, 0) == 2


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import math\n\nmath.sqrt(-1)\n", "ValueError: math domain error ({file}, line 3)"),
        ("def broken(:\n", "SyntaxError: invalid syntax ({file}, line 1)"),
        ("import this_is_not_there", "({file}, line 1)"),
        ("\nfrom queue_max import task\ntask(7)\n", "or the name of one in it ({file}, line 3)"),
        ("import json\njson.loads('{')", "({file}, line 2)"),
    ],
    ids=["its own", "syntax", "missing module", "wrong use of ours", "wrong use of a library"],
)
def test_an_import_that_fails_is_told_with_file_and_line(
    run: Run, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "deeper.py").write_text(text)
    (tmp_path / "broken_app.py").write_text("import deeper\n")
    ran = run("worker", "--app", "broken_app")
    assert ran.returncode == 2
    assert said.format(file=tmp_path / "deeper.py") in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing to run: give --app MODULE"),
        (["--app", "no_such_module"], "cannot load no_such_module: ModuleNotFoundError"),
        (["--app", "shop:add"], "'shop:add' should be a module"),
        (["--app", "nothing_here"], "no task is defined in nothing_here"),
        (["--app", "shop", "--concurrency", 0], "--concurrency"),
    ],
)
@pytest.mark.parametrize("processes", [[], ["--processes", 2]], ids=["alone", "supervised"])
def test_what_cannot_be_run_is_said_at_once(
    run: Run, options: list[object], said: str, processes: list[object]
) -> None:
    ran = run("worker", *options, *processes)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_worker_takes_jobs_of_the_queues_it_is_told_and_leaves_when_these_are_empty(
    queue: Queue, run: Run
) -> None:
    for name in ("default", "mail", "news"):
        queue.enqueue({"from": name}, queue=name)
    ran = run("worker", "--function", "builtins:print", "--queues", "news=1,mail=2", "--burst")
    assert ran.returncode == 0, ran.stderr
    assert "Takes jobs of: news=1,mail=2" in ran.stderr
    assert sorted(ran.stdout.split("'")[3::4]) == ["mail", "news"]
    assert [job.queue for job in queue.list_jobs()] == ["default"]


def test_it_says_what_is_paused(run: Run, queue: Queue) -> None:
    queue.pause("mail", reason="the provider moves")
    ran = run("worker", "--function", "builtins:print", "--burst")
    assert "  queue:mail is paused: the provider moves; `queue-max resume mail`" in ran.stderr


def test_queues_that_are_none_are_refused_before_anything_is_started(run: Run) -> None:
    ran = run("worker", "--function", "builtins:print", "--queues", "news,news")
    assert ran.returncode == 2
    assert "queues=['news', 'news']: should name at least one queue, and none twice" in ran.stderr
    assert "Traceback" not in ran.stderr
