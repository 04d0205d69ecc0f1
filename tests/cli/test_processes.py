"""`queue-max worker` as several processes, and as one that ends by itself."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.programs import JOBS, eventually, read_until
from support.watching import is_there, wait_until

from queue_max import JobStatus, Queue
from queue_max.cli import endings
from queue_max.exceptions import ConfigurationError

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Says that it runs, then holds as much memory as the payload says, for ever.
HUNGRY = """
import os
held = []

def work(payload):
    with open("ran", "a") as file:
        print(os.getpid(), file=file)
    held.append(b"x" * payload["mb"] * 1_000_000)
"""

# Nobody waits as long for a worker that runs a job.
IDLE_ONES_HAVE_LONG = """
from queue_max.cli import process

process.MOMENT = 3600.0
"""


@pytest.fixture(autouse=True)
def _jobs(tmp_path: Path) -> None:
    (tmp_path / "jobs_of_mine.py").write_text(JOBS)


@pytest.fixture
def queue(make_queue: MakeQueue) -> Queue:
    return make_queue(shards=1)


@pytest.fixture
def start_worker(start: Start, tmp_path: Path) -> Iterator[Start]:
    """Start worker processes; jobs that stay end with the test."""

    def call(*options: object, function: str = "stay", **popen: Any) -> "subprocess.Popen[str]":
        return start("worker", "--function", f"jobs_of_mine:{function}", *options, **popen)

    yield call
    (tmp_path / "leave").touch()


def add_jobs(queue: Queue, number: int) -> None:
    queue.enqueue_batch([{"payload": {"n": n}} for n in range(number)])


def runs(number: int = 0) -> list[int]:
    """Give the processes in which a job has begun, one after the other."""
    path = Path(f"began-{number}")
    return [int(pid) for pid in path.read_text().split("\n")[:-1]] if path.exists() else []


def leave() -> None:
    Path("leave").touch()


# Several processes


def test_processes_share_the_jobs_and_end_them_at_a_signal(
    start: Start, queue: Queue, tmp_path: Path, data_dir: Path
) -> None:
    (tmp_path / "click.py").write_text("1 / 0  # a module here is not to hide a library's")
    add_jobs(queue, 4)
    process = start(
        *("--data-dir", data_dir.name, "worker", "--processes", 2, "--function=jobs_of_mine:stay"),
        *("--rate-limit", 77, "--workers", "2"),
        env=os.environ | {"DATA_DIR": "elsewhere"},
    )
    eventually(lambda: all(runs(number) for number in range(4)))
    pids = {pid for number in range(4) for pid in runs(number)}
    assert len(pids) == 2
    assert process.pid not in pids
    process.send_signal(signal.SIGTERM)
    said = read_until("Stopping", process.stderr)
    assert "Starting 2 process(es)" in said
    assert said.count("Started 2 worker(s) processing jobs_of_mine:stay") == 2
    assert len(re.findall(rf"\[\d+\] Queue: {data_dir}, 1 shards, 77 req/min", said)) == 2
    leave()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False)
    assert queue.is_empty()


def test_a_process_that_is_killed_is_replaced_and_its_job_runs_again(
    start_worker: Start, queue: Queue
) -> None:
    add_jobs(queue, 1)
    process = start_worker("--processes", 1)
    eventually(runs)
    [first] = runs()
    os.kill(first, signal.SIGKILL)
    told = read_until("another one starts", process.stderr)
    assert f"Process {first} was ended by SIGKILL; another one starts in 0.5 s." in told
    eventually(lambda: len(runs()) == 2)
    assert runs()[1] != first
    leave()
    assert queue.wait_until_empty(30)
    queue.enqueue({"n": 1, "exit": 2}, max_retries=0)
    read_until("ended with exit code 2; another one starts", process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_when_the_supervisor_is_killed_the_processes_let_their_jobs_end_and_follow(
    start_worker: Start, queue: Queue
) -> None:
    add_jobs(queue, 3)
    process = start_worker("--processes", 2)
    eventually(lambda: runs(0) and runs(1))
    process.kill()
    told = read_until("Stopping", process.stderr) + read_until("Stopping", process.stderr)
    assert told.count("The supervisor is gone.") == 2
    assert queue.get_stats()["processing"] == 2
    leave()
    process.communicate(timeout=30)  # until nobody has the other end of these pipes any more
    stats = queue.get_stats()
    assert (stats["completed"], stats["processing"], stats["pending"]) == (2, 0, 1)


def test_when_the_supervisor_is_killed_while_all_stop_running_jobs_may_end_nevertheless(
    start_worker: Start, queue: Queue
) -> None:
    add_jobs(queue, 1)
    process = start_worker("--processes", 1)
    eventually(runs)
    process.send_signal(signal.SIGTERM)
    read_until("Stopping", process.stderr)
    process.kill()
    read_until("The supervisor is gone.", process.stderr)
    leave()
    _, err = process.communicate(timeout=30)
    assert "Took" not in err
    assert queue.is_empty()


def test_ctrl_c_in_a_terminal_is_heard_once_by_the_processes(
    start_worker: Start, queue: Queue
) -> None:
    add_jobs(queue, 1)
    process = start_worker("--processes", 1, start_new_session=True)
    eventually(runs)
    os.killpg(process.pid, signal.SIGINT)
    read_until("Stopping", process.stderr)
    leave()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert queue.is_empty()


def test_a_second_signal_has_the_processes_take_their_jobs_back(
    start_worker: Start, queue: Queue
) -> None:
    add_jobs(queue, 1)
    process = start_worker("--processes", 1, "--grace", 60)
    eventually(runs)
    process.send_signal(signal.SIGTERM)
    assert "have 60 s to end" in read_until("Stopping", process.stderr)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Took 1 running job(s) back" in err
    [job] = queue.list_jobs()
    assert (job.status, job.attempts) == (JobStatus.PENDING, 1)


def test_processes_that_are_replaced_after_some_jobs_lose_and_double_none(
    run: Run, queue: Queue
) -> None:
    add_jobs(queue, 40)
    ran = run(
        *("worker", "--function", "jobs_of_mine:note", "--rate-limit", "none", "--burst"),
        *("--processes", 2, "--workers", 2, "--max-jobs-per-process", 15),
    )
    assert ran.returncode == 0
    assert "another one starts" not in ran.stderr
    pids = [pid for number in range(40) for pid in runs(number)]
    assert len(pids) == 40
    assert len(set(pids)) >= 3
    assert max(map(pids.count, pids)) < 15 + 2
    assert queue.is_empty()


def test_a_process_that_takes_too_much_memory_is_replaced(
    start: Start, queue: Queue, tmp_path: Path
) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    process = start(
        *("worker", "--function", "hungry:work"),
        *("--processes", 1, "--max-memory-per-process", 300),
    )
    queue.enqueue({"mb": 1})
    assert queue.wait_until_empty(30)
    queue.enqueue({"mb": 300})
    told = read_until("Stopping", process.stderr)
    assert re.search(r"\[\d+\] Stopping, this process takes [3-9]\d\d MB", told)
    first, second = (tmp_path / "ran").read_text().split()
    assert first == second
    wait_until(lambda: not is_there(int(first)))  # it says so before it stops to take jobs
    queue.enqueue({"mb": 1})
    assert queue.wait_until_empty(30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert (tmp_path / "ran").read_text().split()[2] != first


# What is wrong is found before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--function", "no_such_module:note"], "cannot load no_such_module:note"),
        (["--function", "jobs_of_mine:note", "--rate-limit", "0"], "rate_limit='0'"),
        (["--function", "jobs_of_mine:note", "--processes", "0"], "--processes"),
        (["--function", "jobs_of_mine:note", "--max-jobs", "3"], "--max-jobs-per-process"),
        (
            ["--function", "jobs_of_mine:note", "--max-memory-per-process", "1"],
            "1 MB is too little: a process takes",
        ),
    ],
)
def test_what_is_wrong_is_told_once_and_no_process_is_started(
    cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    result = cli("worker", "--processes", 2, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
    assert result.stderr.count("Error") == 1 + ("ModuleNotFoundError" in result.stderr)
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--max-jobs-per-process", "3"], "--max-jobs-per-process needs --processes"),
        (["--max-memory-per-process", "300"], "--max-memory-per-process needs --processes"),
        (["--max-jobs", "0"], "--max-jobs"),
        (["--grace", "-1"], "--grace=-1.0: should be 0 seconds or more"),
        (["--grace", "nan"], "--grace=nan: should be 0 seconds or more"),
        (["--reload", "--burst"], "--reload runs until a signal"),
        (["--reload", "--max-jobs", "3"], "--reload runs until a signal"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    cli: Cli, data_dir: Path, options: list[str], named: str
) -> None:
    result = cli("worker", "--function", "jobs_of_mine:note", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
    assert not data_dir.exists()


def test_a_limit_of_memory_needs_a_system_that_tells_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(endings, "STATM", tmp_path / "statm")
    result = cli(
        *("worker", "--function", "jobs_of_mine:note"),
        *("--processes", 1, "--max-memory-per-process", 300),
    )
    assert result.exit_code == 2
    assert "this system does not tell how much a process takes" in result.stderr


def test_processes_that_all_refuse_to_begin_are_not_started_for_ever(
    run: Run, queue: Queue
) -> None:
    ran = run("worker", "--function", "jobs_of_mine:note", "--processes", 1, "--shards", 3)
    assert ran.returncode == 2
    assert "holds 1 shards" in ran.stderr
    assert "before it began; it is not started again" in ran.stderr


# One process that ends by itself


def test_a_process_ends_when_it_has_run_its_jobs(run: Run, queue: Queue) -> None:
    add_jobs(queue, 5)
    ran = run("worker", "--function", "jobs_of_mine:note", "--max-jobs", 3)
    assert ran.returncode == 0
    assert "Stopping, 3 job(s) have begun" in ran.stderr
    assert [len(runs(number)) for number in range(5)] == [1, 1, 1, 0, 0]
    assert [job.attempts for job in queue.list_jobs("pending")] == [0, 0]


def test_a_burst_ends_when_no_job_is_due(run: Run, queue: Queue) -> None:
    add_jobs(queue, 5)
    queue.enqueue({"n": 5}, delay=3600)
    ran = run("worker", "--function", "jobs_of_mine:note", "--workers", 2, "--burst")
    assert ran.returncode == 0
    assert "Stopping, no job is due" in ran.stderr
    assert [len(runs(number)) for number in range(6)] == [1, 1, 1, 1, 1, 0]


# Grace


def test_jobs_that_run_when_their_grace_is_over_are_taken_back(
    start_worker: Start, queue: Queue, tmp_path: Path
) -> None:
    (tmp_path / "jobs_of_mine.py").write_text(f"{JOBS}\n{IDLE_ONES_HAVE_LONG}")
    add_jobs(queue, 2)
    process = start_worker("--grace", 0.1)
    eventually(runs)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 6
    assert "running jobs have 0.1 s to end" in err
    assert "Took 1 running job(s) back" in err
    running, waiting = sorted(queue.list_jobs(), key=lambda job: job.id)
    assert (running.status, running.attempts) == (JobStatus.PENDING, 1)
    assert running.error_type == "WorkerStopped"
    assert (waiting.status, waiting.attempts) == (JobStatus.PENDING, 0)


def test_jobs_that_end_within_their_grace_end_by_themselves(
    start_worker: Start, queue: Queue
) -> None:
    add_jobs(queue, 1)
    process = start_worker("--grace", 60)
    eventually(runs)
    process.send_signal(signal.SIGTERM)
    read_until("Stopping", process.stderr)
    leave()
    assert process.wait(30) == 0
    assert queue.is_empty()


def test_without_grace_a_worker_that_runs_no_job_ends_as_ever(
    start_worker: Start, queue: Queue
) -> None:
    process = start_worker("--grace", 0)
    read_until("Press Ctrl+C", process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_grace_is_a_number_of_seconds_even_an_infinite_one() -> None:
    from queue_max.cli.workers import worker

    with pytest.raises(ConfigurationError):
        worker.make_context("worker", ["--function", "a:b", "--grace", "-inf"])
    assert worker.make_context("worker", ["--function", "a:b", "--grace", "inf"]).params[
        "grace"
    ] == float("inf")
