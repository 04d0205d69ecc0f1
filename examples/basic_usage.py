"""Fetch pages of a server that is not always well: what a task queue is for, in one file.

Run it with `python examples/basic_usage.py`. It brings its own server, on this machine only, and
needs nothing beside Queue Max. In the order of this file:

1. `fetch` is a task: a function that can be called, or enqueued for a worker.
2. `main` enqueues a call for each page, lets two workers run them, and asks for the outcomes.
3. `Server` answers as servers do: well, busy (429 with Retry-After), broken (500) for a while, not
   at all for a while, and with 404 for what is not there.

At the end each page has the outcome it should have; if one had not, the exit code would be 1.
"""

import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from queue_max import (
    JobFailedError,
    JobHandle,
    Queue,
    RunningJob,
    Worker,
    WorkerPool,
    set_default_queue,
    task,
)

PATIENCE = 1.0  # seconds that a page may take


@task(max_retries=3, retry_delay=1, keep_result=600)
def fetch(url: str, *, ctx: RunningJob | None = None) -> int:
    """Read a page; gives its size. Any error is the attempt's, and the queue knows what follows.

    An HTTP error says by its status whether another attempt may help, and by Retry-After when.
    """
    if ctx is not None:
        print(f"  attempt {ctx.attempt} at {url.rpartition('/')[2]}")
    with urllib.request.urlopen(url, timeout=PATIENCE) as page:  # noqa: S310 - our own server's
        return len(page.read())


EXPECTED = {
    "good": "11 bytes, attempts: 1",
    "busy": "11 bytes, attempts: 2",
    "broken-for-a-while": "11 bytes, attempts: 2",
    "silent-for-a-while": "11 bytes, attempts: 2",
    "missing": "failed: HTTP Error 404: Not Found, attempts: 1",
    "broken": "failed: HTTP Error 500: Internal Server Error, attempts: 2",
}


def main() -> int:
    """Fetch all pages; gives the exit code."""
    with (
        Server() as server,
        tempfile.TemporaryDirectory(prefix="queue-max-example-") as folder,
        Queue(shards=2, rate_limit=600, data_dir=folder, circuit_breaker_threshold=50) as queue,
    ):
        set_default_queue(queue)

        # A call here and now, without any queue.
        print(f"A call here and now gives {fetch(server.url('good'))} bytes.")

        # The same, for workers to do. What is said of a task may be said of single calls, too.
        jobs = {
            page: fetch.using(max_retries=1 if page == "broken" else 3).delay(server.url(page))
            for page in EXPECTED
        }
        print(f"{queue.get_pending_count()} jobs wait. The workers begin:")
        with WorkerPool([Worker(f"worker-{n}", queue=queue) for n in (1, 2)]):
            outcomes = {page: outcome_of(queue, job) for page, job in jobs.items()}

        print("The outcomes:")
        for page, outcome in outcomes.items():
            print(f"  {page:20} {outcome}")

        # What failed for good is kept, with all that is known of it.
        print("The dead letters:")
        for letter in queue.dead_letters.list():
            print(f"  {letter.payload}\n    {letter.error} ({letter.reason})")
        stats = queue.get_stats()
        print(f"In all: {stats['completed']} jobs done, {stats['failed']} failed.")

    wrong = {page for page in EXPECTED if outcomes[page] != EXPECTED[page]}
    if server.waited_too_short:
        wrong.add("busy, which came back too soon")
    for page in sorted(wrong):
        print(f"Not as expected: {page}", file=sys.stderr)
    return 1 if wrong else 0


def outcome_of(queue: Queue, job: JobHandle) -> str:
    """Wait for the end of a job, and tell it in words."""
    try:
        said = f"{job.result(timeout=60)} bytes"
    except JobFailedError:
        said = f"failed: {queue.get_job(job).last_error}"
    return f"{said}, attempts: {queue.get_job(job).attempts}"


class Server:
    """A server on this machine, in a thread; it answers each page as its name says."""

    RETRY_AFTER = 1

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.waited_too_short = False
        self._busy_at = 0.0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def url(self, page: str) -> str:
        """Give the address of a page."""
        return f"http://127.0.0.1:{self._http.server_port}/{page}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, page: str) -> tuple[int, dict[str, str]]:
        """Give the status and the headers of an answer."""
        self.asked[page] += 1
        is_first = self.asked[page] == 1
        match page:
            case "busy" if is_first:
                self._busy_at = time.monotonic()
                return 429, {"Retry-After": str(self.RETRY_AFTER)}
            case "busy":
                self.waited_too_short = time.monotonic() - self._busy_at < self.RETRY_AFTER
            case "broken-for-a-while" if is_first:
                return 500, {}
            case "broken":
                return 500, {}
            case "silent-for-a-while" if is_first:
                time.sleep(PATIENCE * 2)
            case "missing":
                return 404, {}
        return 200, {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers = server.answer(self.path.strip("/"))
                body = b"hello world" if status == 200 else b""
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # whoever asked has given up

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


if __name__ == "__main__":
    sys.exit(main())
