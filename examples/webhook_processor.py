"""Deliver webhooks: in order within each account, and no account waits for one that is down.

Run it with `python examples/webhook_processor.py`. It brings its own receivers, on this machine
only, and needs nothing beside Queue Max. In the order of this file:

1. `deliver` is the job's function: it posts one event to its account's address.
2. `main` enqueues the events of some accounts, one of which is down, and starts two worker
   processes. A concurrency key keeps the events of an account in order, and a circuit breaker of
   its own lets an account that is down rest, while the others flow.
3. `Receivers` plays the servers of the accounts, and notes what arrives.

At the end you see what each account has got. The exit code is 1 if an event was lost, came twice,
or out of order.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from queue_max import Queue

ACCOUNTS = ("acme", "bolts", "corner-shop", "dairy")
DOWN = "bolts"
EVENTS = 15  # for each

# The workers inherit these. A breaker opens after so many failures in a row, and that many seconds
# later it lets one job pass, as a probe: if that works, the others follow.
BREAKERS = {"CIRCUIT_FAILURE_THRESHOLD": "3", "CIRCUIT_TIMEOUT": "1"}


def deliver(payload: dict[str, Any]) -> None:
    """Post an event; this is what the workers call. Any error is the attempt's."""
    body = json.dumps(payload["event"]).encode()
    with urllib.request.urlopen(payload["url"], body, timeout=5):  # noqa: S310 - our own server's
        pass


def main() -> int:
    """Deliver all events; gives the exit code."""
    with (
        Receivers() as receivers,
        tempfile.TemporaryDirectory(prefix="queue-max-example-") as folder,
        Queue(shards=2, rate_limit=float("inf"), data_dir=folder) as queue,
    ):
        for number in range(EVENTS):
            for account in ACCOUNTS:
                queue.enqueue(
                    {"url": receivers.url(account), "event": number},
                    # One at a time, in this order: the next one waits until this one is done, even
                    # while it waits for another attempt. A dead letter would let the next pass.
                    concurrency_key=account,
                    # Failures of this account say nothing of the others. Only a probe costs an
                    # event one of its attempts while the breaker is open: so there are plenty.
                    breaker=account,
                    max_retries=100,
                    retry_delay=0,
                )
        print(f"{queue.get_pending_count()} events for {len(ACCOUNTS)} accounts; {DOWN} is down.")
        with workers(folder, 2):
            wait_until(lambda: receivers.count(but=DOWN) == EVENTS * (len(ACCOUNTS) - 1))
            wait_until(lambda: queue.breakers.get(DOWN).last_error is not None)
            print(f"All others have theirs; {queue.get_pending_count()} events of {DOWN} wait.")
            print(f"Its breaker: {queue.breakers.get(DOWN).last_error}")
            receivers.is_down = False
            print(f"{DOWN} is up again.")
            is_done = queue.wait_until_empty(timeout=60)
        dead = len(queue.dead_letters.list())

    for account in ACCOUNTS:
        refused = receivers.refused[account]
        print(f"  {account:12} {len(receivers.arrived[account]):3} events, {refused} times refused")
    wrong = [each for each in ACCOUNTS if receivers.arrived[each] != list(range(EVENTS))]
    for account in wrong:
        print(f"Not as expected: {account} got {receivers.arrived[account]}", file=sys.stderr)
    return 0 if is_done and not dead and not wrong else 1


@contextmanager
def workers(folder: str, count: int) -> Iterator[None]:
    """Start worker processes as one would by hand, and let them end."""
    command = "worker --function webhook_processor:deliver --workers 4"
    settings = {"DATA_DIR": folder, "RATE_LIMIT_MAX": "none", **BREAKERS}
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


def wait_until(condition: Any, patience: float = 60.0) -> None:
    """Look every few milliseconds whether it is so."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("this takes too long")
        time.sleep(0.02)


class Receivers:
    """The servers of all accounts, in a thread; one of them is down at first."""

    def __init__(self) -> None:
        self.arrived: dict[str, list[int]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self.is_down = True
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def url(self, account: str) -> str:
        """Give the address of an account."""
        return f"http://127.0.0.1:{self._http.server_port}/{account}"

    def count(self, *, but: str) -> int:
        """Count the events that arrived, without those of one account."""
        return sum(len(found) for account, found in self.arrived.items() if account != but)

    def __enter__(self) -> "Receivers":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def receive(self, account: str, event: int) -> int:
        """Take an event; gives the status of the answer."""
        if account == DOWN and self.is_down:
            self.refused[account] += 1
            return 503
        self.arrived[account].append(event)
        return 200

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(receivers.receive(self.path.strip("/"), event))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


if __name__ == "__main__":
    sys.exit(main())
