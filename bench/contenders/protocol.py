"""What the suite asks of a contender, and what it hears back.

The request is one JSON object in the arguments. The process gets ready, prints "ready", waits for
a line on its standard input, does its work, and prints the outcome: one JSON object. A task that
only prepares another one waits for the signal, too.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field

READY = "ready"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One measurement. Requests that are equal are measured once."""

    contender: str
    task: str
    prepare: str = ""
    """A task that a process of its own does before, unmeasured."""
    jobs: int = 20_000
    shards: int = 6
    threads: int = 10
    processes: int = 1
    durability: str = "full"
    failing_percent: int = 0
    sleep_ms: float = 0.0
    rate: str = ""
    """The limit of all jobs, over all processes; empty for none."""
    batch: int = 1000
    """Jobs that are stored, or taken, in one transaction where a task does so by itself."""
    rows: int = 0
    """Rows that lie in the table, beside the jobs that are taken."""
    rows_are: str = "pending"
    seconds: float = 0.0
    """How long a task goes on that has no end of its own."""

    # Told by the suite for each process:
    directory: str = ""
    part: int = 0
    """Which one of `processes` this is."""

    def fails(self, number: int) -> bool:
        """Tell whether the job of that number is to fail for good."""
        return number % 100 < self.failing_percent


@dataclass(kw_only=True)
class Outcome:
    """What one process did. Times are those of the monotonic clock, which processes share."""

    started: float
    ended: float
    runs: str = ""
    """How often each job ran, one byte a job, in hexadecimal; empty if the task runs none."""
    buried: str = ""
    """How many dead letters each job has, likewise."""
    figures: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def receive() -> Request:
    """Read the request that this process was started with."""
    return Request(**json.loads(sys.argv[1]))


def wait_for_start() -> float:
    """Say that all is ready and wait for the signal; gives the time at which it came."""
    print(READY, flush=True)
    sys.stdin.readline()
    return time.monotonic()


def send(outcome: Outcome) -> None:
    """Hand the outcome to the suite."""
    print(json.dumps(asdict(outcome)), flush=True)
