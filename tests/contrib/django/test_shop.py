"""The shop of examples/django_shop, as processes: a server, workers, and one that is killed."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.programs import eventually, read_until

import queue_max
from queue_max import Queue

ROOT = Path(queue_max.__file__).parents[1]
ORDERS = 12

pytestmark = pytest.mark.slow

Manage = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def manage(tmp_path: Path) -> Iterator[Manage]:
    """Start `manage.py`; no process outlives the test."""
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "settings",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error::DeprecationWarning:shop",
        "SHOP_FOLDER": str(tmp_path),
        "SHOP_SECONDS": "0.2",
        "QUEUE_MAX_STUCK_TIMEOUT": "1500",
        "QUEUE_MAX_HEARTBEAT_INTERVAL": "300",
        "QUEUE_MAX_RECOVERY_INTERVAL": "300",
    }
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                [sys.executable, "manage.py", *words],
                cwd=ROOT / "examples" / "django_shop",
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Site:
    """The shop over HTTP."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, path: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as line:
            if form is None:
                line.request("GET", path)
            else:
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                line.request("POST", path, urlencode(form), kind)
            response = line.getresponse()
            text = response.read().decode()
            assert response.status < 300, text
            found: dict[str, Any] = json.loads(text)
            return found

    def order(self, number: int) -> int:
        return int(self.ask("/orders/", {"email": f"a{number}@example.com"})["number"])

    def answers(self) -> bool:
        try:
            self.order(0)
        except OSError:
            return False
        return True


@pytest.fixture
def site(manage: Manage) -> Site:
    assert manage("migrate").wait(60) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    manage("runserver", "--noreload", f"127.0.0.1:{port}")
    site = Site(port)
    eventually(site.answers)
    return site


def test_a_worker_that_is_killed_loses_no_order(site: Site, manage: Manage, tmp_path: Path) -> None:
    numbers = [site.order(n) for n in range(1, ORDERS + 1)]

    def told() -> list[dict[str, Any]]:
        return [site.ask(f"/orders/{number}/") for number in numbers]

    def is_in_the_middle() -> bool:
        statuses = [each["status"] for each in told()]
        return "SUCCESSFUL" in statuses and "RUNNING" in statuses

    victim = manage("queue_worker", "--workers", "2")
    eventually(is_in_the_middle)
    victim.send_signal(signal.SIGKILL)
    victim.wait(30)
    assert {"READY", "SUCCESSFUL"} <= {each["status"] for each in told()}

    worker = manage("queue_worker", "--workers", "4")
    read_until("Press Ctrl+C to stop.", worker.stderr)
    eventually(lambda: all(each["status"] == "SUCCESSFUL" for each in told()))
    assert all(each["confirmed"] >= 1 for each in told())
    assert max(each["attempts"] for each in told()) > 1  # of what the victim had begun
    with Queue(data_dir=tmp_path / "queue") as queue:
        assert queue.wait_until_empty(30)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        sent = [job for job in queue.list_jobs("completed", None) if job.task == "shop.tasks.send"]
        assert len({json.loads(job.result or "") for job in sent}) == ORDERS + 1
        assert queue.get_stats()["failed"] == 0
