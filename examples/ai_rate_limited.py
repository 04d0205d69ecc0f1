"""Call an AI API that allows so many requests a second, from two worker processes.

Run it with `python examples/ai_rate_limited.py`. It brings its own API, on this machine only, and
needs nothing beside Queue Max. In the order of this file:

1. `ask` is the job's function: one call of the API. It knows nothing of limits.
2. `main` sets the limits, for all processes there are or will be; enqueues the questions of three
   customers; and starts two worker processes through the command line.
3. `Api` plays the service: it answers 429 with Retry-After to whoever exceeds its limit, and now
   and then to anybody, for it has other users, too. The queue waits as long as it is asked to.

At the end you see when the calls came in. The exit code is 1 if a question has no answer, or if
there were more calls in any time than the limits allow.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from queue_max import Queue

PER_SECOND, BURST = 20, 5
"""What the API allows us, in all: so many calls a second, and so many at once."""

PER_CUSTOMER = 8
"""What we allow each customer, so that none uses it all up: calls a second."""

SLACK = 8
"""A call comes in later than its job was let start, by as long as the machine is busy. So there may
be a few more calls in a second here than there were starts, and one promises an API less."""

QUESTIONS = {"acme": 50, "bolts": 30, "corner-shop": 20}


def ask(payload: dict[str, Any]) -> str:
    """Send a question to the API; this is what the workers call.

    An answer 429 comes out of here as an error that carries Retry-After: the job waits so long,
    and so do all others of that customer. Nothing is to be caught.
    """
    body = json.dumps(payload).encode()
    with urllib.request.urlopen(payload["url"], body, timeout=5) as answer:  # noqa: S310
        return str(json.load(answer)["answer"])


def main() -> int:
    """Ask all questions; gives the exit code."""
    with (
        Api() as api,
        tempfile.TemporaryDirectory(prefix="queue-max-example-") as folder,
        Queue(shards=2, rate_limit=float("inf"), data_dir=folder) as queue,
    ):
        # The queue called "ai" holds all that goes to the API; a rate key stands for a customer.
        # The star makes one limit for each. A breaker would stop everything after five failures
        # in a row; an answer 429 is none of our failures, so here it stays away.
        queue.limits.set("queue:ai", rate=f"{PER_SECOND}/s burst {BURST}")
        queue.limits.set("key:customer-*", rate=f"{PER_CUSTOMER}/s burst 2")

        jobs = [
            queue.enqueue(
                {"url": api.url, "customer": customer, "question": f"{customer} {number}"},
                queue="ai",
                rate_key=f"customer-{customer}",
                keep_result=600,
                max_retries=20,
                retry_delay=1,
            )
            for customer, count in QUESTIONS.items()
            for number in range(count)
        ]
        print(f"{len(jobs)} questions of {len(QUESTIONS)} customers, two worker processes:")
        with workers(folder, 2):
            answers = [job.result(timeout=60) for job in jobs]

    return tell(api, answers)


@contextmanager
def workers(folder: str, count: int) -> Iterator[None]:
    """Start worker processes as one would by hand, and let them end."""
    command = "worker --function ai_rate_limited:ask --workers 4 --queues ai"
    settings = {"DATA_DIR": folder, "RATE_LIMIT_MAX": "none", "CIRCUIT_FAILURE_THRESHOLD": "none"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "queue_max", *command.split()],
            env=os.environ | settings,
            cwd=Path(__file__).parent,  # where the module of the function lies
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in running:
            process.terminate()  # SIGTERM: running jobs may end
        for process in running:
            process.wait()


def tell(api: "Api", answers: list[str]) -> int:
    """Show when the calls came in, and whether all is as it should be; gives the exit code."""
    first = api.calls[0][0]
    for second, count in sorted(Counter(int(at - first) for at, _ in api.calls).items()):
        print(f"  second {second}: {count:3} calls  {'#' * count}")
    print(f"{len(set(answers))} answers from {len(api.calls)} calls, {api.refused} of them refused")

    wrong = []
    if len(set(answers)) != sum(QUESTIONS.values()):
        wrong.append("not all questions have an answer")
    if (most := most_within(1.0, [at for at, _ in api.calls])) > PER_SECOND + BURST + SLACK:
        wrong.append(f"{most} calls within a second")
    for name in QUESTIONS:
        most = most_within(1.0, [at for at, customer in api.calls if customer == name])
        print(f"  {name}: at most {most} calls within a second")
        if most > PER_CUSTOMER + 2 + SLACK:
            wrong.append(f"{most} calls for {name} within a second")
    for line in wrong:
        print(f"Not as expected: {line}", file=sys.stderr)
    return 1 if wrong else 0


def most_within(seconds: float, moments: list[float]) -> int:
    """Count the moments in the fullest window of that length."""
    counts = (sum(start <= each < start + seconds for each in moments) for start in moments)
    return max(counts, default=0)


class Api:
    """The service, in a thread; it keeps to its own limit, and is overloaded now and then."""

    RETRY_AFTER = 1
    OVERLOADED = (25, 60)
    """The calls that it refuses though they were allowed."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str]] = []
        """When each came in, and for whom."""
        self.refused = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1/answers"

    def __enter__(self) -> "Api":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Give the status and the content of an answer."""
        now = time.monotonic()
        with self._lock:
            self.calls.append((now, question["customer"]))
            lately = sum(at > now - 1 for at, _ in self.calls)
            if lately > PER_SECOND + BURST + SLACK or len(self.calls) in self.OVERLOADED:
                self.refused += 1
                return 429, {"error": "too many requests"}
        return 200, {"answer": f"What do you think, {question['question']}?"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                status, content = api.answer(json.loads(self.rfile.read(length)))
                body = json.dumps(content).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", str(api.RETRY_AFTER))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


if __name__ == "__main__":
    sys.exit(main())
