import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.programs import JOBS, eventually, read_until

from queue_max import JobStatus, Queue
from queue_max.storage import driver

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Statistics are due many times between two looks of the worker.
TALKATIVE = """
from queue_max.cli import process

process.STATS_EVERY = 0.01

def work(payload): ...
"""


@pytest.fixture(autouse=True)
def _jobs(tmp_path: Path) -> None:
    (tmp_path / "jobs_of_mine.py").write_text(JOBS)


@pytest.fixture
def queue(make_queue: MakeQueue) -> Queue:
    return make_queue(shards=1)


@pytest.fixture
def start_worker(start: Start) -> Start:
    """Start a worker and wait until it takes jobs."""

    def call(function: str = "stay", *options: object, **popen: Any) -> "subprocess.Popen[str]":
        process = start("worker", "--function", f"jobs_of_mine:{function}", *options, **popen)
        assert "Press Ctrl+C to stop." in read_until("Press Ctrl+C", process.stderr)
        return process

    return call


def add_jobs(queue: Queue, number: int) -> None:
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(number)])


def began(number: int = 0) -> bool:
    return Path(f"began-{number}").exists()


# Starting


@pytest.mark.parametrize(("limit", "told"), [(50, "50 req/min"), ("none", "no limit")])
def test_it_says_how_many_workers_run_what_where_at_which_rate(
    start: Start, queue: Queue, data_dir: Path, limit: object, told: str
) -> None:
    process = start(
        *("worker", "--function", "jobs_of_mine:note", "--workers", 2),
        *("--data-dir", data_dir.name, "--rate-limit", limit),
    )
    assert read_until("Ctrl+C", process.stderr) == (
        "  Started 2 worker(s) processing jobs_of_mine:note\n"
        f"  Queue: {data_dir}, 1 shards, {told}\n"
        "  Takes jobs of: default\n"
        "  Press Ctrl+C to stop.\n"
    )


@pytest.mark.parametrize("function", ["note", "Holder.note", "note_later"])
def test_a_module_in_the_current_folder_is_found(
    start_worker: Start, queue: Queue, function: str
) -> None:
    add_jobs(queue, 3)
    process = start_worker(function)
    assert queue.wait_until_empty(30)
    assert all(began(number) for number in range(3))
    process.send_signal(signal.SIGTERM)
    assert "Processed: 3" in read_until("[Stats]", process.stderr)
    assert process.wait(30) == 0
    assert queue.get_stats()["completed"] == 3


def test_its_workers_run_side_by_side_under_names_of_their_own(
    start_worker: Start, queue: Queue
) -> None:
    add_jobs(queue, 4)
    processes = [start_worker("stay", "--workers", 2) for _ in range(2)]
    eventually(lambda: all(began(number) for number in range(4)))
    names = {job.worker_id or "" for job in queue.get_processing_jobs()}
    assert len(names) == 4
    for process in processes:
        assert sum(f"-{process.pid}-worker-" in name for name in names) == 2


def test_it_makes_the_queue_where_there_is_none(start_worker: Start, data_dir: Path) -> None:
    process = start_worker("note")
    assert (data_dir / "shard_0.db").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ("jobs_of_mine", "MODULE:FUNCTION"),
        ("jobs_of_mine:", "MODULE:FUNCTION"),
        (":note", "MODULE:FUNCTION"),
        ("jobs_of_mine:note()", "MODULE:FUNCTION"),
        ("no_such_module:note", "ModuleNotFoundError"),
        ("jobs_of_mine:lost", "AttributeError"),
        ("jobs_of_mine:Holder.lost", "AttributeError"),
        ("jobs_of_mine:number", "jobs_of_mine:number=5: should be callable"),
        ("jobs_of_mine:take_two", "should take one argument, a job's payload"),
        ("broken_syntax:note", "SyntaxError"),
        ("broken_import:note", "ZeroDivisionError"),
        ("leaving:note", "SystemExit"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_a_usage_error_that_says_why(
    cli: Cli,
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    named: str,
) -> None:
    (tmp_path / "broken_syntax.py").write_text("def note(:\n")
    (tmp_path / "broken_import.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('no settings')\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "jobs_of_mine", raising=False)
    result = cli("worker", "--function", function)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
    assert "--function" in result.stderr
    assert not data_dir.exists()


def test_a_function_that_cannot_be_loaded_shows_no_traceback(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken_import.py").write_text("1 / 0\n")
    ran = run("worker", "--function", "broken_import:note")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "options", [[], ["--function", "json:dumps", "--workers", "0"], ["--function"]]
)
def test_what_is_missing_or_bad_is_a_usage_error(
    cli: Cli, data_dir: Path, options: list[str]
) -> None:
    assert cli("worker", *options).exit_code == 2
    assert not data_dir.exists()


# Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_at_the_first_signal(
    start_worker: Start, queue: Queue, number: signal.Signals
) -> None:
    process = start_worker("note")
    process.send_signal(number)
    assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_running_job_end_and_takes_no_other(
    start_worker: Start, queue: Queue, number: signal.Signals
) -> None:
    add_jobs(queue, 2)
    process = start_worker("stay")
    eventually(began)
    process.send_signal(number)
    read_until("Stopping", process.stderr)
    assert process.poll() is None
    Path("leave").touch()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Processed: 1" in err
    assert "Traceback" not in err
    stats = queue.get_stats()
    assert (stats["completed"], stats["pending"], stats["processing"]) == (1, 1, 0)
    assert not began(1)


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGINT], 130),
    ],
)
def test_a_second_signal_takes_the_running_jobs_back_and_leaves(
    start_worker: Start, queue: Queue, numbers: list[signal.Signals], code: int
) -> None:
    add_jobs(queue, 2)
    process = start_worker("stay", "--workers", 2)
    eventually(lambda: began(0) and began(1))
    process.send_signal(numbers[0])
    read_until("Stopping", process.stderr)
    process.send_signal(numbers[1])
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert "Took 2 running job(s) back; what had no attempt left has failed." in err
    for job in queue.list_jobs():
        assert (job.status, job.attempts, job.worker_id) == (JobStatus.PENDING, 1, None)
        assert job.error_type == "WorkerStopped"


def test_a_job_without_an_attempt_left_has_failed_when_a_second_signal_takes_it(
    start_worker: Start, queue: Queue
) -> None:
    queue.enqueue({"n": 0}, max_retries=0)
    process = start_worker("stay")
    eventually(began)
    process.send_signal(signal.SIGTERM)
    assert "A second signal takes them back" in read_until("Stopping", process.stderr)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert "Took 1 running job(s) back; what had no attempt left has failed." in err
    assert queue.get_failed_jobs()[0].error_type == "WorkerStopped"


def test_a_worker_whose_words_nobody_reads_works_on_and_stops_in_order(
    start: Start, queue: Queue, tmp_path: Path
) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    process = start("worker", "--function", "talkative:work")
    read_until("[Stats]", process.stderr)
    assert process.stderr is not None
    process.stderr.close()
    for _ in range(3):
        queue.enqueue({})
        assert queue.wait_until_empty(30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert queue.get_stats()["completed"] == 3


def test_a_second_signal_ends_the_worker_although_its_job_cannot_be_handed_back(
    start_worker: Start, queue: Queue, data_dir: Path
) -> None:
    add_jobs(queue, 1)
    process = start_worker("stay", env=os.environ | {"DB_BUSY_TIMEOUT": "100"})
    eventually(began)
    process.send_signal(signal.SIGTERM)
    read_until("Stopping", process.stderr)
    other = driver.choose().module.connect(data_dir / "shard_0.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        other.close()
    assert process.returncode == 143
    assert "Traceback" not in err
    assert queue.list_jobs()[0].status == JobStatus.PROCESSING


def test_a_process_whose_workers_ended_by_errors_of_their_own_ends_as_a_failure(
    start: Start, queue: Queue, tmp_path: Path
) -> None:
    (tmp_path / "sabotage.py").write_text(
        "from queue_max.services.dispatcher import Dispatcher\n"
        "def take(*arguments, **options): raise SystemExit('no more')\n"
        "Dispatcher.take = take\n"
        "def work(payload): ...\n"
    )
    process = start("worker", "--function", "sabotage:work")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no worker runs any more" in err
    assert "Error: A worker ended" in err


def test_a_database_that_cannot_be_asked_does_not_end_the_worker(
    start: Start, queue: Queue, tmp_path: Path, data_dir: Path
) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    process = start("worker", "--function", "talkative:work")
    read_until("[Stats]", process.stderr)
    other = driver.choose().module.connect(data_dir / "shard_0.db", isolation_level=None)
    try:
        other.execute("ALTER TABLE fila RENAME TO away")
        read_until("waits", process.stderr)
        other.execute("ALTER TABLE away RENAME TO fila")
    finally:
        other.close()
    queue.enqueue({})
    assert queue.wait_until_empty(30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_jobs_that_fail_do_not_end_the_worker(
    start_worker: Start, queue: Queue, tmp_path: Path
) -> None:
    queue.enqueue({"no": "number"}, max_retries=0)
    add_jobs(queue, 1)
    process = start_worker("note")
    assert queue.wait_until_empty(30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert queue.get_failed_jobs()[0].error_type == "KeyError"
    assert queue.get_stats()["completed"] == 1
