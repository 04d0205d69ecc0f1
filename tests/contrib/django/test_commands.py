"""`manage.py queue_worker`, `queue_stats` and `queue_purge`, as programs and called in Python."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from support.django_project.shop import tasks
from support.programs import JOBS, WarmProgram, eventually, read_until

import queue_max
from queue_max import Queue
from queue_max.contrib.django.shim import TaskResultStatus

BACKEND = "queue_max.contrib.django.QueueMaxBackend"

MANAGE = """
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "support.django_project.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
"""

RUN_SCRIPT = "sys.path.insert(0, folder); runpy.run_path(words[0], run_name='__main__')"

ROOT = Path(queue_max.__file__).parents[1]

VARIABLES = {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    "PYTHONWARNINGS": "error",
}

LATE = """
from queue_max.contrib.django import task

@task
def run():
    with open("ran", "a") as file:
        print({version}, file=file)
"""

BOTH = """
from queue_max.contrib.django import task
from support.django_project.shop.tasks import note as _  # another module's

def work(payload):
    from django.db import connection
    with connection.cursor() as cursor, open("worked", "w") as file:
        cursor.execute("select 1")
        print(cursor.fetchone()[0] + payload["n"], file=file)
"""

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(data_dir: Path) -> dict[str, str]:
    return os.environ | VARIABLES | {"SHOP_DATA": str(data_dir)}


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Start]:
    """Start `manage.py` with pipes; none outlives the test, nor a minute."""
    (tmp_path / "manage.py").write_text(MANAGE)
    started: list[tuple[subprocess.Popen[str], threading.Timer]] = []

    def popen(*words: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "manage.py", *map(str, words)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        started.append((process, threading.Timer(60, process.kill)))
        started[-1][1].start()
        return process

    yield popen
    for process, end in started:
        end.cancel()
        process.kill()
        process.communicate()


@pytest.fixture
def run_anew(start: Start) -> Run:
    def call(*words: object) -> "subprocess.CompletedProcess[str]":
        process = start(*words)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return call


@pytest.fixture(scope="session")
def warm_manage() -> Iterator[WarmProgram]:
    command = "queue_max.contrib.django.management.commands.queue_worker"
    warm = WarmProgram(f"import django.core.management, runpy, {command}", RUN_SCRIPT, VARIABLES)
    yield warm
    warm.end()


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str], warm_manage: WarmProgram) -> Run:
    """As `run_anew`, in less time; it starts no processes of its own."""
    (tmp_path / "manage.py").write_text(MANAGE)

    def call(*words: object) -> "subprocess.CompletedProcess[str]":
        done = warm_manage.run("manage.py", *words, variables=environment)
        assert "Traceback" not in done.stderr
        return done

    return call


# queue_worker


def test_a_worker_runs_the_tasks_of_all_installed_apps(queue: Queue, run: Run) -> None:
    tasks.note.delay("hello")
    results = [tasks.mail.enqueue("ada"), tasks.add_later.enqueue(1)]
    done = run("queue_worker", "--burst", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "Started 2 worker(s) processing support.django_project.shop.tasks" in done.stderr
    assert "Takes jobs of: default=1,mail=1" in done.stderr
    assert Path("noted").read_text().startswith("hello by ")
    for result in results:
        result.refresh()
    assert [each.return_value for each in results] == ["ada", 1]


def test_worker_processes_set_django_up(queue: Queue, run_anew: Run) -> None:
    handle = tasks.query.delay()
    result = tasks.add.enqueue(1)
    done = run_anew("queue_worker", "--burst", "--processes=2", "--workers=2")
    assert done.returncode == 0, done.stderr
    assert "Starting 2 process(es)." in done.stderr
    assert queue.get_result(handle, 0) == 1
    result.refresh()
    assert result.return_value == 1


def test_processes_for_single_jobs_set_django_up(queue: Queue, run_anew: Run) -> None:
    handle = tasks.query.delay()
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": {"retry_delay": 0}}}):
        result = tasks.flaky.enqueue(2)
    done = run_anew("queue_worker", "--burst", "--isolation=process")
    assert done.returncode == 0, done.stderr
    assert queue.get_result(handle, 0) == 1
    result.refresh()
    assert result.return_value == result.attempts == 2


def test_a_worker_gives_a_function_the_payloads_of_jobs_without_a_task(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "jobs_of_mine.py").write_text(BOTH)
    queue.enqueue({"n": 4})
    done = run("queue_worker", "--function", "jobs_of_mine:work", "--burst")
    assert done.returncode == 0, done.stderr
    assert Path("worked").read_text() == "5\n"


def test_a_worker_runs_tasks_of_modules_that_are_named(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "jobs_of_mine.py").write_text(LATE.format(version=1))
    queue.enqueue({"args": [], "kwargs": {}}, task="jobs_of_mine.run")
    assert run("queue_worker", "--app", "jobs_of_mine", "--burst").returncode == 0
    assert Path("ran").read_text() == "1\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--function", "nonsense"], 2, "'nonsense' should be MODULE:FUNCTION"),
        (["--function", "nowhere:work"], 2, "No module named 'nowhere'"),
        (["--workers", "0"], 2, "--workers"),
        (["--max-jobs", "5", "--processes", "2"], 2, "--max-jobs does not go with --processes"),
        (["--app", "json"], 2, "no task is defined in json"),
    ],
)
def test_a_fault_of_the_caller_is_told_in_words(
    queue: Queue, run: Run, words: list[str], code: int, told: str
) -> None:
    done = run("queue_worker", *words, "--burst")
    assert done.returncode == code
    assert told in done.stderr


def test_without_a_module_of_tasks_there_is_nothing_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from queue_max.contrib.django.management.commands import queue_worker

    monkeypatch.setattr(queue_worker, "tasks_modules", list)
    with pytest.raises(CommandError, match="no installed app has a `tasks` module") as told:
        call_command("queue_worker")
    assert told.value.returncode == 2


@pytest.mark.parametrize("processes", [[], ["--processes=1"]])
def test_a_signal_ends_a_worker_and_its_job_runs_again(
    queue: Queue, start: Start, tmp_path: Path, processes: list[str]
) -> None:
    (tmp_path / "jobs_of_mine.py").write_text(JOBS)
    queue.enqueue({"n": 1})
    words = ["--function=jobs_of_mine:stay", "--grace=0.1", *processes]
    process = start("queue_worker", *words)
    eventually(lambda: Path("began-1").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 6
    assert queue.get_stats()["pending"] == 1


def test_a_worker_that_is_idle_ends_at_the_first_signal(queue: Queue, start: Start) -> None:
    process = start("queue_worker")
    read_until("Press Ctrl+C to stop.", process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_worker_follows_its_code(queue: Queue, start: Start, tmp_path: Path) -> None:
    pytest.importorskip("watchfiles", reason="the extra `reload` is not installed")
    code = tmp_path / "jobs_of_mine.py"
    job: dict[str, Any] = {"payload": {"args": [], "kwargs": {}}, "task": "jobs_of_mine.run"}
    code.write_text(LATE.format(version=1))
    process = start("queue_worker", "--app=jobs_of_mine", "--reload")
    queue.enqueue(**job)
    eventually(lambda: Path("ran").exists() and Path("ran").read_text() == "1\n")
    code.write_text(LATE.format(version=2))
    read_until("Stopping", process.stderr)
    queue.enqueue(**job)
    eventually(lambda: Path("ran").read_text() == "1\n2\n")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_worker_can_be_called_in_python(queue: Queue) -> None:
    result = tasks.add.enqueue(1)
    call_command("queue_worker", burst=True, workers=2)
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL


# queue_stats, queue_purge


def told(*words: object, **options: Any) -> str:
    out = io.StringIO()
    call_command(*words, **options, stdout=out)
    return out.getvalue()


def test_stats_count_the_jobs_of_the_project(queue: Queue) -> None:
    queue.enqueue({}, pagina_id=1)
    assert json.loads(told("queue_stats", "--json"))["pending"] == 1
    assert json.loads(told("queue_stats", shard=0, as_json=True))["pending"] == 0
    assert json.loads(told("queue_stats", "--shard=1", "--json"))["pending"] == 1
    assert "Pending" in told("queue_stats")


def test_stats_of_a_shard_that_is_none_are_an_error(queue: Queue) -> None:
    with pytest.raises(CommandError, match="shard 7: does not exist") as error:
        told("queue_stats", "--shard=7")
    assert error.value.returncode == 4


def test_stats_make_no_queue(data_dir: Path) -> None:
    with pytest.raises(CommandError, match="there is no queue in "):
        told("queue_stats")
    assert not data_dir.exists()


def test_old_jobs_are_purged(queue: Queue) -> None:
    queue.cancel(queue.enqueue({}))
    assert "Removed 0 old job(s)" in told("queue_purge", "--days=1")
    assert "Removed 1 old job(s)" in told("queue_purge", days=0)


def test_a_program_ends_with_our_exit_codes(queue: Queue, run: Run) -> None:
    assert run("queue_stats", "--json").returncode == 0
    done = run("queue_stats", "--shard", 7)
    assert (done.returncode, done.stdout) == (4, "")
    assert "CommandError: shard 7: does not exist" in done.stderr
