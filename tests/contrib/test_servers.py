"""The examples, and workers within a server, as they are run: real servers, processes, kills."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.watching import PATIENCE, wait_until

import queue_max

pytestmark = pytest.mark.slow

ROOT = Path(queue_max.__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
Start = Callable[..., "Process"]


class Process:
    """A program that was started, and what it has said."""

    def __init__(self, words: list[str], folder: Path, log: Path, env: dict[str, str]) -> None:
        self.log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [PROGRAMS / words[0], *words[1:]],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.send_signal, self.wait = self._process.send_signal, self._process.wait

    def said(self, pattern: str) -> str:
        """Wait until it has said something; gives the group of the pattern."""

        def look() -> "re.Match[str] | None":
            assert self._process.poll() is None, self.log.read_text()
            return re.search(pattern, self.log.read_text())

        wait_until(look)
        found = look()
        assert found is not None
        return found[1]

    def end(self) -> None:
        """Let it end, and see to it that it does."""
        if self._process.poll() is None:
            self._process.terminate()
        kill = threading.Timer(PATIENCE, self._process.kill)
        kill.start()
        self._process.wait()
        kill.cancel()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program in a folder; none outlives the test."""
    started: list[Process] = []

    def begin(*words: str, folder: Path = tmp_path, **env: str) -> Process:
        log = tmp_path / f"log-{len(started)}"
        started.append(Process(list(words), folder, log, env))
        return started[-1]

    yield begin
    for each in reversed(started):
        each.end()


def ask(url: str, body: Any = None) -> tuple[int, Any, Any]:
    """Ask a server; gives status, body and headers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.status, json.load(answer), answer.headers


def the_end_of(base: str, places: list[str]) -> list[dict[str, Any]]:
    """Wait until all jobs have ended; gives how they are."""
    ended: dict[str, dict[str, Any]] = {}

    def look() -> bool:
        for place in places:
            state = ask(base + place)[1]
            if state["status"] in {"completed", "failed", "cancelled"}:
                ended[place] = state
        time.sleep(0.02)
        return len(ended) == len(places)

    wait_until(look)
    return [ended[place] for place in places]


def test_reports_of_the_fastapi_app_outlive_the_kill_of_their_worker(
    start: Start, tmp_path: Path
) -> None:
    folder, env = ROOT / "examples" / "fastapi_app", {"DATA_DIR": str(tmp_path / "data")}
    server = start("uvicorn", "app:app", "--port", "0", folder=folder, **env)
    base = server.said(r"running on (http://[\d.]+:[1-9]\d*)")
    worker = ("queue-max", "worker", "--app", "tasks", "--workers", "2")
    first = start(*worker, folder=folder, **env)

    places = []
    for number in range(6):
        text = {"pages": [f"page {number}"] * 5, "seconds_a_page": 0.1}
        status, body, headers = ask(f"{base}/reports", text)
        assert (status, headers["Location"]) == (202, body["status_url"])
        places.append(headers["Location"])
    wait_until(lambda: any(0 < ask(base + each)[1]["progress"] < 100 for each in places))
    first.send_signal(signal.SIGKILL)
    first.wait()
    states = [ask(base + each)[1] for each in places]
    running = [each["key"] for each in states if each["status"] == "processing"]
    assert running

    start(*worker, folder=folder, **env)
    states = the_end_of(base, places)
    assert [each["result"] for each in states] == [{"page": 5, str(n): 5} for n in range(6)]
    assert all(each["attempts"] == 2 for each in states if each["key"] in running)
    assert ask(f"{base}/health")[1] == {"is_healthy": True, "waiting": 0}


def test_letters_of_the_flask_app_outlive_the_kill_of_their_worker(
    start: Start, tmp_path: Path
) -> None:
    folder, outbox = ROOT / "examples" / "flask_app", tmp_path / "outbox"
    env = {
        "FLASK_QUEUE_MAX_DATA_DIR": str(tmp_path / "data"),
        "FLASK_OUTBOX": str(outbox),
        "FLASK_SECONDS_A_LETTER": "0.3",
        "FLASK_SHOP": "Ada's",
    }
    gunicorn = ("gunicorn", "--preload", "-w", "2", "-b", "127.0.0.1:0", "app:create_app()")
    server = start(*gunicorn, folder=folder, **env)
    base = server.said(r"Listening at: (http://[\d.]+:\d+)")
    worker = ("flask", "queue-max", "worker", "--workers", "2")
    first = start(*worker, folder=folder, **env)

    places = []
    for number in range(6):
        customer = {"number": number, "address": f"customer {number}"}
        status, _, headers = ask(f"{base}/customers", customer)
        assert status == 202
        assert ask(f"{base}/customers", customer)[2]["Location"] == headers["Location"]
        places.append(headers["Location"])
    wait_until(lambda: any(outbox.glob("*.txt")))
    wait_until(lambda: any(ask(base + each)[1]["status"] == "processing" for each in places))
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert len(list(outbox.glob("*.txt"))) < 6

    start(*worker, folder=folder, **env)
    states = the_end_of(base, places)
    assert [each["status"] for each in states] == ["completed"] * 6
    assert {each.name: each.read_text() for each in outbox.glob("*.txt")} == {
        f"{n}.txt": f"Dear customer {n}, welcome to Ada's!\n" for n in range(6)
    }


OF_ONE_PROCESS = """
import time
from fastapi import FastAPI
from queue_max.contrib.fastapi import QueueDep, QueueMiddleware

def work(payload):
    open("begun", "w").close()
    time.sleep(0.5)
    open("ended", "w").close()

app = FastAPI()
app.add_middleware(QueueMiddleware, max_workers=1, process_function=work)

@app.post("/")
async def enqueue(queue: QueueDep) -> str:
    return (await queue.aenqueue({})).key
"""


def test_a_server_that_is_told_to_end_lets_the_job_end_that_runs(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(OF_ONE_PROCESS)
    server = start("uvicorn", "mine:app", "--port", "0", "--app-dir", str(tmp_path))
    base = server.said(r"running on (http://[\d.]+:[1-9]\d*)")
    ask(base, {})
    wait_until((tmp_path / "begun").exists)
    server.send_signal(signal.SIGTERM)
    server.wait()
    assert (tmp_path / "ended").exists()
    assert "Application shutdown complete" in server.log.read_text()
    with queue_max.Queue(data_dir=tmp_path / "data") as queue:
        assert queue.get_stats()["completed"] == 1


def test_a_server_whose_queue_cannot_be_opened_does_not_start_and_says_why(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(OF_ONE_PROCESS)
    words = ("uvicorn", "mine:app", "--port", "0", "--app-dir", str(tmp_path))
    server = start(*words, RATE_LIMIT_MAX="soon")
    assert server.wait(PATIENCE) == 3
    text = server.log.read_text()
    assert "the queue cannot be opened: RATE_LIMIT_MAX='soon'" in text
    assert "Traceback" not in text
