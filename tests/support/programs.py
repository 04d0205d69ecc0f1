"""Programs that a test starts: what they say, and jobs for them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

# Notes that a job began in a file of its own, and stays until the file `leave` is there.
JOBS = """
import os, threading, time

def note(payload):
    with open(f"began-{payload['n']}", "a") as file:
        print(os.getpid(), file=file)
    if "exit" in payload:
        os._exit(payload["exit"])

def stay(payload):
    note(payload)
    given_up = time.monotonic() + 60
    while not os.path.exists("leave") and time.monotonic() < given_up:
        time.sleep(0.005)

class Holder:
    note = staticmethod(note)

async def note_later(payload):
    note(payload)

def take_two(payload, more): ...

number = 5
"""


def read_until(words: str, stream: IO[str] | None) -> str:
    assert stream is not None
    text = ""
    while words not in text:
        line = stream.readline()
        assert line, f"{words!r} was never said, but {text!r}"
        text += line
    return text


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Reads how to run, a line of JSON each, and does so in a child, which has all modules already.
_WARM = """
import json, os, sys

{imports}

def run(words, variables, folder, out, err):
    for fd, path in enumerate((os.devnull, out, err)):
        os.dup2(os.open(path, os.O_WRONLY if fd else os.O_RDONLY), fd)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = words
    {call}

for line in iter(sys.stdin.readline, ""):
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    else:
        sys.exit(run(*json.loads(line)))
"""


class WarmProgram:
    """A program that is run again and again: as it is, but for the time that its imports take.

    It has no standard input, and the current folder is not on its path.
    """

    def __init__(self, imports: str, call: str, variables: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-P", "-c", _WARM.format(imports=imports, call=call)]
        self._variables = variables
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, *words: object, variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run it to its end, within a minute, in the current folder; `words` are its argv."""
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with NamedTemporaryFile() as out, NamedTemporaryFile() as err:
            told = [[*map(str, words)], dict(variables or os.environ), os.getcwd()]
            late = threading.Timer(60, process.kill)
            late.start()
            print(json.dumps([*told, out.name, err.name]), file=process.stdin, flush=True)
            code = int(process.stdout.readline())
            late.cancel()
            shown = (Path(each.name).read_text() for each in (out, err))
            return subprocess.CompletedProcess(words, code, *shown)

    def _start(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent,
                env=os.environ | self._variables,
            )
        return self._process

    def end(self) -> None:
        """End it; what runs ends, too."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
