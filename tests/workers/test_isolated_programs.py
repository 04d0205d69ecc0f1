"""Programs that have jobs run in child processes: what becomes of these when the program ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.watching import is_there, noted, parent_of, wait_until

import queue_max
from queue_max import Queue

Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.slow


@pytest.fixture
def start_script(tmp_path: Path, data_dir: Path) -> Iterator[Start]:
    """Start a program that has a worker; none outlives the test."""
    started: list[subprocess.Popen[str]] = []
    package = str(Path(queue_max.__file__).parents[1])
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([package, str(Path(__file__).parents[1])]),
        "DATA_DIR": str(data_dir),
        "NUM_SHARDS": "1",
        "RATE_LIMIT_MAX": "none",
    }

    def start(text: str, *options: str) -> "subprocess.Popen[str]":
        (tmp_path / "program.py").write_text(text)
        command = options or ["program.py"]
        process = subprocess.Popen(
            [sys.executable, "-W", FORKS_ARE_MEANT, *command],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


PROGRAM = """
import os, sys, time
from support import isolated
from queue_max import Queue, Worker

def work(payload):
    if "then" in payload:
        getattr(isolated, payload["then"])(payload)
    else:
        print("printed by a job")

if __name__ == "__main__":
    worker = Worker("w", work, Queue(), isolation="process", poll_interval=0.01{options})
    worker.start()
    {end}
"""


GUARD = 'if __name__ == "__main__":'


def a_program(end: str, **options: object) -> str:
    """Give a program that has a worker with those options, and what it does in the end."""
    more = "".join(f", {name}={value!r}" for name, value in options.items())
    return PROGRAM.replace("{options}", more).replace("{end}", end)


def test_a_function_of_the_main_module_writes_at_once_where_the_program_does(
    queue: Queue, start_script: Start
) -> None:
    queue.enqueue({})
    process = start_script(a_program("time.sleep(600)", jobs_per_process=2))
    assert process.stdout is not None
    assert process.stdout.readline() == "printed by a job\n"


def test_when_the_program_is_killed_its_children_are_too(
    queue: Queue, start_script: Start, tmp_path: Path
) -> None:
    queue.enqueue({"then": "hold_the_interpreter", "folder": str(tmp_path)})
    process = start_script(a_program("time.sleep(600)"))
    pid = int(noted(tmp_path))
    assert is_there(pid)
    process.kill()
    wait_until(lambda: not is_there(pid))


def test_when_the_program_ends_its_children_do_too_whatever_they_make_of_signals(
    queue: Queue, start_script: Start, tmp_path: Path
) -> None:
    queue.enqueue({"then": "stay_deaf", "folder": str(tmp_path)})
    end = f"isolated.wait_for({{'folder': {str(tmp_path)!r}}}, 'begun')"
    process = start_script(a_program(end))
    pid = int(noted(tmp_path))
    process.communicate(timeout=60)
    wait_until(lambda: not is_there(pid))


def test_a_job_outlives_the_server_that_forked_its_process(
    queue: Queue, start_script: Start, tmp_path: Path
) -> None:
    queue.enqueue({"then": "stay", "folder": str(tmp_path)}, max_retries=0)
    queue.enqueue({"then": "note", "folder": str(tmp_path)}, max_retries=0)
    start_script(a_program("worker.queue.wait_until_empty(60); worker.stop(60)"))
    pid = int(noted(tmp_path))
    server = parent_of(pid)
    os.kill(server, signal.SIGTERM)
    wait_until(lambda: not is_there(server))
    (tmp_path / "leave").touch()
    assert queue.wait_until_empty(60)
    assert queue.get_failed_jobs() == []
    assert int(noted(tmp_path)) != pid


def test_a_program_without_a_guard_is_told_what_to_do(queue: Queue, start_script: Start) -> None:
    job = queue.enqueue({}, max_retries=0)
    process = start_script(a_program("time.sleep(600)").replace(GUARD, "if True:"))
    assert_told_of_the_guard(process)
    assert queue.get_job(job).is_pending


def test_a_module_without_a_guard_too(queue: Queue, start_script: Start, tmp_path: Path) -> None:
    job = queue.enqueue({}, max_retries=0)
    module = a_program("time.sleep(600)").replace(GUARD, "def run():")
    (tmp_path / "unguarded.py").write_text(f"{module}\nrun()\n")
    assert_told_of_the_guard(start_script("import unguarded"))
    assert queue.get_job(job).is_pending


def assert_told_of_the_guard(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    text = ""
    while 'below `if __name__ == "__main__":`' not in text:
        line = process.stdout.readline()
        assert line, text
        text += line


WITH_A_TASK = """
from queue_max import Queue, Worker, task

@task(keep_result=60)
def double(n):
    return 2 * n

if __name__ == "__main__":
    handle = double.delay(4)
    worker = Worker("w", queue=double.get_queue(), isolation="process", poll_interval=0.01)
    worker.start()
    print(handle.result(60))
    worker.stop()
"""


def test_a_task_of_the_main_module_is_found(start_script: Start) -> None:
    output, _ = start_script(WITH_A_TASK).communicate(timeout=60)
    assert output == "8\n"


def test_a_function_that_was_typed_in_is_refused(start_script: Start) -> None:
    text = a_program("worker.stop()")
    output, _ = start_script(text, "-c", text).communicate(timeout=60)
    assert "ConfigurationError" in output
    assert "put it into a module of its own" in output


FORKS_ARE_MEANT = "ignore::DeprecationWarning"
"""Python 3.12 warns of forks of a process with threads."""

FORKING = """
import os, sys
from support import isolated
from queue_max import Queue, Worker

if __name__ == "__main__":
    folder = {"folder": sys.argv[1]}
    worker = Worker("w", isolated.stay_or_note, Queue(), isolation="process", poll_interval=0.01)
    worker.start()
    isolated.wait_for(folder, "begun")
    forked = os.fork()
    if not forked:
        worker.start()
        isolated.wait_for(folder, "noted")
        worker.stop()
        sys.exit()
    assert os.waitpid(forked, 0)[1] == 0
    isolated.note(folder, "leave")
    worker.queue.wait_until_empty(60)
    worker.stop()
"""


def test_a_fork_of_the_program_has_children_of_its_own_and_does_not_harm_those_there_are(
    queue: Queue, start_script: Start, tmp_path: Path
) -> None:
    for n in range(2):
        queue.enqueue({"n": n, "folder": str(tmp_path)}, max_retries=0)
    output, _ = start_script(FORKING, "program.py", str(tmp_path)).communicate(timeout=60)
    assert output == ""
    assert queue.wait_until_empty(0)
    assert queue.get_failed_jobs() == []


# Dying with the parent

WATCHED = """
import ctypes, multiprocessing, os, sys, time
from multiprocessing.connection import Connection
from queue_max.workers import child

if sys.argv[1] == "thread":
    del child.fcntl.F_SETSIG
os.setsid()
child.die_with(Connection(os.dup(0), writable=False))
print("ready", flush=True)
ctypes.PyDLL(None).sleep(600) if sys.argv[1] == "kernel" else time.sleep(600)
"""


@pytest.mark.parametrize("how", ["kernel", "thread"])
def test_a_process_ends_with_its_lifeline(start_script: Start, how: str) -> None:
    process = start_script(WATCHED, "program.py", how)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL


def test_a_process_whose_lifeline_was_cut_before_ends_at_once(start_script: Start) -> None:
    process = start_script("import sys; sys.stdin.read()" + WATCHED, "program.py", "kernel")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL
