"""Ledger: what many processes did, in one file that outlives any of them."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """One line: who did what, to which job, when."""

    what: str
    at: float
    """Seconds on the monotonic clock, which all processes of a host share."""
    pid: int
    about: dict[str, Any]

    @property
    def n(self) -> str:
        """The job it is about: the number in its payload, not its id."""
        return str(self.about["n"])


class Ledger:
    """Appends facts; a line is one `os.write`, so no death of a process tears or mixes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, what: str, **about: Any) -> None:
        """Write one fact."""
        line = json.dumps({"what": what, "at": time.monotonic(), "pid": os.getpid()} | about)
        os.write(self._file, f"{line}\n".encode())

    def read(self) -> list[Fact]:
        """Give all facts, in the order in which they were written."""
        return list(parse(self.path.read_text()))

    def count(self, what: str) -> int:
        """Tell how many facts of a kind there are."""
        return self.path.read_bytes().count(f'{{"what": "{what}"'.encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def parse(text: str) -> Iterator[Fact]:
    """Read the lines of a ledger."""
    for line in text.splitlines():
        about = json.loads(line)
        yield Fact(about.pop("what"), about.pop("at"), about.pop("pid"), about)
