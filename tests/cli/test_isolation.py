import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from support.watching import is_there, noted, wait_until

from queue_max import Queue
from queue_max.tasks.binding import standing_default

JOBS = """
import os, time

def begin(payload):
    with open("draft", "w") as draft:
        draft.write(f"{os.getpid()} {os.getppid()}")
    os.rename("draft", "begun")
    time.sleep(600)

def close_all(payload):
    os.closerange(3, 256)

lost = lambda payload: None
"""


def test_jobs_run_in_processes_and_end_when_they_are_taken_back(
    make_queue: Callable[..., Queue],
    start: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(JOBS)
    queue = make_queue(shards=1)
    job = queue.enqueue({})
    process = start("worker", "--function", "mine:begin", "--isolation", "process")
    pid, server = map(int, noted(tmp_path).split())
    assert pid != process.pid
    os.kill(pid, signal.SIGINT)  # as when it is typed in
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    while "Stopping" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert queue.get_job(job).error_type == "WorkerStopped"
    wait_until(lambda: not is_there(pid) and not is_there(server))


def test_a_function_that_cannot_be_called_there_is_a_fault_in_words(
    cli: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(JOBS)
    result = cli("worker", "--function", "mine:lost", "--isolation", "process")
    assert result.exit_code == 2
    assert "top level of a module" in result.output
    assert standing_default() is None  # what was opened for the command ends with it


def test_a_function_that_closes_the_way_to_its_worker_fails_in_words(
    make_queue: Callable[..., Queue],
    run_anew: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
) -> None:
    queue = make_queue(shards=1)
    (tmp_path / "mine.py").write_text(JOBS)
    job = queue.enqueue({}, max_retries=0)
    ran = run_anew("worker", "--function", "mine:close_all", "--isolation", "process", "--burst")
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    assert "its process" in str(queue.get_job(job).last_error)  # it ended, or was killed first
