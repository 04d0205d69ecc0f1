"""What all contenders share: the jobs' payload, their function, and the book kept of them."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .protocol import Outcome, Request

PAYLOAD_BYTES = 221
"""Length of a payload in JSON, as the standard library writes it."""

QUIET = 0.5
"""Seconds without any job, after which a process looks whether the others have done the rest."""


class NoSuchPageError(Exception):
    """A failure that both releases of Queue Max take to be final: its text reads like a 404."""


def payload(number: int) -> dict[str, Any]:
    """Make the payload of the job of that number; all are equally long."""
    made = {
        "n": number,
        "task": "send_mail",
        "to": "somebody@example.com",
        "template": "welcome",
        "attempts": [1, 2, 3],
        "is_urgent": False,
        "text": "",
    }
    made["text"] = "x" * (PAYLOAD_BYTES - len(json.dumps(made)))
    return made


class Tally:
    """Counts, for one process, how often each job ran and how many are settled."""

    def __init__(self, request: Request) -> None:
        self.runs = bytearray(request.jobs)
        self.settled = 0
        self.ended = time.monotonic()
        self._request = request
        self._lock = threading.Lock()
        self._is_complete = threading.Event()

    def run(self, job: dict[str, Any]) -> None:
        """Be the function of a job: note that it ran, then sleep or fail if that is asked for."""
        number = job["n"]
        self.runs[number] += 1
        if self._request.sleep_ms:
            time.sleep(self._request.sleep_ms / 1000)
        if self._request.fails(number):
            raise NoSuchPageError("HTTP 404: no such page")

    def settle(self, **_facts: object) -> None:
        """Note that the outcome of a job is stored; fits the events of Queue Max."""
        with self._lock:
            self.settled += 1
            self.ended = time.monotonic()
            if self.settled == self._request.jobs:
                self._is_complete.set()

    def wait(self, is_queue_empty: Callable[[], bool]) -> None:
        """Wait until all jobs are settled, here or in another process."""
        while not self._is_complete.wait(QUIET / 5):
            if time.monotonic() - self.ended > QUIET and is_queue_empty():
                return

    def outcome(self, started: float) -> Outcome:
        """Tell what was done since the start."""
        return Outcome(
            started=started,
            ended=self.ended,
            runs=self.runs.hex(),
            figures={"peak_mb": memory_mb("VmHWM")},
        )


def memory_mb(line: str) -> float:
    """Read this process's memory from Linux: "VmRSS" is the present, "VmHWM" the highest."""
    for each in Path("/proc/self/status").read_text().splitlines():
        if each.startswith(f"{line}:"):
            return int(each.split()[1]) / 1024
    raise LookupError(line)
