"""Faults: single system calls of a process that fail, by strace."""

import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chaos.support import recording
from chaos.support.nursery import Child

CALLS = ("pwrite64", "fsync", "fdatasync", "ftruncate")


@dataclass(frozen=True, slots=True)
class Fault:
    """Which call of a thread fails, and how."""

    call: str
    number: int
    """Counted from 1."""
    error: str
    for_ever: bool = False
    """Whether all later ones fail too."""

    def __str__(self) -> str:
        return f"{self.error} at {self.call} {self.number}{'+' if self.for_ever else ''}"

    @property
    def rule(self) -> str:
        """The rule as strace has it."""
        when = f"{self.number}+" if self.for_ever else str(self.number)
        return f"inject={self.call}:error={self.error}:when={when}"


class Tracer:
    """An strace on a child that waits for it; it ends with the child."""

    def __init__(self, child: Child, log: Path, fault: Fault | None = None) -> None:
        self._log = log
        rule = ["-e", fault.rule] if fault else []
        what = ["-e", f"trace={','.join(CALLS)}", "-e", "signal=none", *rule]
        self._process = subprocess.Popen(
            ["strace", "-f", "-qq", *what, "-o", str(log), "-p", str(child.pid)],
            stderr=subprocess.DEVNULL,
        )

    def calls(self) -> Counter[str]:
        """Wait for the end; tells how often the busiest thread made each call."""
        self.close()
        by_thread = Counter(
            (words[0], words[1].partition("(")[0])
            for line in self._log.read_text().splitlines()
            if len(words := line.split(maxsplit=1)) == 2 and not words[1].startswith("<")
        )
        most: Counter[str] = Counter()
        for (_thread, call), count in by_thread.items():
            most[call] = max(most[call], count)
        return most

    def has_struck(self) -> bool:
        """Wait for the end; tells whether a call was made to fail."""
        self.close()
        return "(INJECTED)" in self._log.read_text()

    def close(self) -> None:
        """Wait for the end."""
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def why_not() -> str | None:
    """Say why calls of a running process cannot be made to fail here; None when they can."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() != 0 and scope.exists() and int(scope.read_text()) > 1:
        return "only root may trace a running process"
    return recording.why_not()
