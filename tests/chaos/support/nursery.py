"""Nursery: a process that has imported everything and opened nothing, and forks what is to die.

A fork takes a millisecond where a new Python takes most of a second. All children are the
nursery's own; it signals no other process, and none of them outlives it.
"""

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import queue_max

PACKAGE = str(Path(queue_max.__file__).parents[1])
TESTS = str(Path(__file__).parents[2])

PATIENCE = 60.0
"""Seconds that a child may take to end once it is told to."""

ENVIRONMENT = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "PYTHONPATH": os.pathsep.join((PACKAGE, TESTS)),
    "RATE_LIMIT_MAX": "none",
    "CIRCUIT_FAILURE_THRESHOLD": "none",
}
"""What processes of these suites are told unless a test says otherwise."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that the nursery has forked."""

    nursery: "Nursery"
    pid: int

    def signal(self, number: int) -> bool:
        """Send a signal; False when it has ended already."""
        return bool(self.nursery.ask("signal", pid=self.pid, number=number))

    def wait(self, timeout: float = PATIENCE) -> int | None:
        """Wait for its end: the exit code, or minus the signal; None when it goes on."""
        return self.nursery.ask("wait", pid=self.pid, timeout=timeout)  # type: ignore[no-any-return]

    def has_ended(self) -> bool:
        """Tell whether it has ended."""
        return self.wait(0) is not None


class Nursery:
    """The nursery as the tests see it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from chaos.support import nursery; nursery.serve()"],
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def fork(self, role: str, cwd: Path, settings: Mapping[str, object], **options: Any) -> Child:
        """Let a child call a function of `chaos.support.roles`, with those settings set.

        One of another module is named with it, as "limited:work".
        """
        texts = {name: str(value) for name, value in settings.items()}
        pid = self.ask("fork", role=role, cwd=str(cwd), settings=texts, options=options)
        return Child(self, pid)

    def ask(self, verb: str, **details: Any) -> Any:
        """Have the nursery do something; gives its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb} | details) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the nursery has ended: {self._log.read_text()[-2000:]}")
        return json.loads(answer)

    def close(self) -> None:
        """End it, with all children that are left."""
        self._process.communicate()


def serve() -> None:
    """Be the nursery: one request a line, one answer a line, until there are no more."""
    # All that a child may need, so that it is imported once.
    from chaos.support import limited, roles  # noqa: F401

    import queue_max.storage.migrations  # noqa: F401

    children: dict[int, int | None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        verb = request.pop("verb")
        if verb == "fork":
            answer: object = _fork(request)
            children[int(str(answer))] = None
        elif verb == "signal":
            answer = _signal(children, **request)
        else:
            answer = _wait(children, **request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in children:
        _signal(children, pid, signal.SIGKILL)


def _fork(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _be_a_child(**request)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _be_a_child(
    role: str, cwd: str, settings: Mapping[str, str], options: Mapping[str, Any]
) -> None:
    die_with_parent()
    os.chdir(cwd)
    os.environ.update(settings)
    # Its own log, and no way to the nursery's requests and answers.
    log = os.open("children.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.register(signal.SIGUSR1)  # to tell where it hangs
    module, _, function = role.rpartition(":")
    getattr(importlib.import_module(f"chaos.support.{module or 'roles'}"), function)(**options)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _wait(children: dict[int, int | None], pid: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while children[pid] is None:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() >= deadline:
            break
        else:
            time.sleep(0.002)
    return children[pid]


def _signal(children: dict[int, int | None], pid: int, number: int) -> bool:
    if _wait(children, pid, 0) is not None:
        return False
    os.kill(pid, number)  # not waited for yet, so the number is still its own
    return True
