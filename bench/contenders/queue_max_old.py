"""queue-max 0.1.1 from the package index. It has one durability: synchronous=NORMAL."""

import sqlite3

from queue_max import Queue

from .protocol import Request
from .queue_max_both import TASKS, main, publish

NO_LIMIT = 10**12
"""It takes whole numbers only; so many jobs a minute, or failures in a row, never come."""


def open_queue(request: Request) -> Queue:
    """Open the queue without limits."""
    return Queue(
        shards=request.shards,
        data_dir=request.directory,
        rate_limit=NO_LIMIT,
        circuit_breaker_threshold=NO_LIMIT,
    )


if __name__ == "__main__":
    publish(main(open_queue, TASKS), sqlite=sqlite3.sqlite_version)
