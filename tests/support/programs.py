"""Programs that a test starts: what they say, and jobs for them."""

import time
from collections.abc import Callable
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
