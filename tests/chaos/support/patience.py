"""Patience: waiting for what other processes do."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait for a condition to come true; TimeoutError when it takes longer, in seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} seconds")
        time.sleep(0.01)
