"""What is seen of other processes: whether they live, and what they have noted."""

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_there(pid: int) -> bool:
    """Tell whether a process lives; one that only waits for its parent does not."""
    try:
        return _status(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends just now
        return False


def parent_of(pid: int) -> int:
    return int(_status(pid)[1])


def noted(folder: Path, name: str = "begun") -> str:
    """Wait for what a job notes in a file (`isolated.note`)."""
    wait_until((folder / name).exists)
    return (folder / name).read_text()


def _status(pid: int) -> list[str]:
    """Read the state of a process, its parent, and more (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
