"""What jobs do in child processes: functions that other processes find by their names."""

import asyncio
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from queue_max import Cancel, LeaseLostError, Permanent, Retry, RunningJob, Snooze, current_job

SIGNALS = {
    "cancel": Cancel("not needed"),
    "permanent": Permanent("bad page"),
    "retry": Retry(7, "later"),
    "snooze": Snooze(9),
}


class PageError(Exception):
    """Cannot be made again of its arguments."""

    def __init__(self, page: int, *, status_code: int = 0) -> None:
        super().__init__(f"page {page}")
        self.page = page
        if status_code:
            self.status_code = status_code


class Unreadable:
    """Can be pickled, and not be read elsewhere."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, (os.getpid(),)


def _refuse(pid: int) -> Unreadable:
    if pid != os.getpid():
        raise ValueError("not from here")
    return Unreadable()


class Adder:
    def __init__(self, number: int) -> None:
        self.number = number
        self.lock: object = None

    def __call__(self, payload: dict[str, Any]) -> int:
        return int(payload["n"]) + self.number

    def add(self, payload: dict[str, Any]) -> int:
        return self(payload)


def process_id(payload: object) -> int:
    return os.getpid()


def add(payload: dict[str, Any], number: int) -> int:
    return int(payload["n"]) + number


add_two = functools.partial(add, number=2)


async def add_later(payload: dict[str, Any]) -> int:
    await asyncio.sleep(0)
    assert current_job().job.payload == payload
    return add(payload, 2)


def facts(payload: object, ctx: RunningJob) -> dict[str, Any]:
    assert ctx is current_job()
    names = ("id", "key", "attempt", "fence", "timeout", "time_left", "should_stop", "is_cancelled")
    return {name: getattr(ctx, name) for name in names}


def progress(payload: dict[str, Any], ctx: RunningJob) -> str:
    ctx.heartbeat()
    ctx.update_progress(50)
    stay(payload)
    try:
        ctx.update_progress(101)
    except ValueError as error:
        return str(error)
    return "taken"


def wait_until_cancelled(payload: dict[str, Any], ctx: RunningJob) -> None:
    note(payload)
    while not ctx.is_cancelled:
        time.sleep(0.01)
    try:
        ctx.heartbeat()
    except LeaseLostError:
        note(payload, "lost")


def ask_too_late(payload: dict[str, Any], ctx: RunningJob) -> None:
    """Leave a thread behind that asks when the job has ended, and when the next one runs."""
    if payload["n"]:
        Path(payload["folder"], "ended").touch()
        wait_for(payload, "asked")
        return

    def ask() -> None:
        wait_for(payload, "ended")
        try:
            ctx.update_progress(5)
        except LeaseLostError:
            note(payload, "asked", ctx.is_cancelled)

    threading.Thread(target=ask).start()


def fail(payload: dict[str, Any]) -> None:
    raise ERRORS[payload["error"]]


def ask(payload: dict[str, Any]) -> object:
    signal = SIGNALS[payload["signal"]]
    if payload["how"] == "raised":
        raise signal
    return signal


def unsendable(payload: dict[str, Any]) -> object:
    return Unreadable() if payload["n"] else threading.Lock()


def hold_the_interpreter(payload: dict[str, Any]) -> None:
    """Stay in C code, which lets no other thread run."""
    if "folder" in payload:
        note(payload)
    ctypes.PyDLL(None).sleep(600)


def stay_or_end(payload: dict[str, Any]) -> str:
    if payload["n"] == 0:
        hold_the_interpreter(payload)
    return "ended"


def start_another(payload: dict[str, Any]) -> None:
    """Start a process, and stay."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(payload, "begun", started.pid)
    ctypes.PyDLL(None).sleep(600)


def die(payload: dict[str, Any]) -> None:
    match payload.get("how"):
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fork":
            if os.fork() == 0:
                time.sleep(600)
            os._exit(4)
        case "forget":
            os.closerange(3, 1000)
            time.sleep(600)


def signal_itself(payload: dict[str, Any]) -> str:
    os.kill(os.getpid(), payload["number"])
    return "survived"


def stay(payload: dict[str, Any]) -> str:
    """Stay until the file `leave` is there."""
    note(payload)
    wait_for(payload, "leave")
    return "left"


def stay_or_note(payload: dict[str, Any]) -> None:
    if payload["n"] == 0:
        stay(payload)
    else:
        note(payload, "noted")


def stay_deaf(payload: dict[str, Any]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stay(payload)


def start_a_process(payload: dict[str, Any]) -> int | None:
    import multiprocessing

    process = multiprocessing.Process(target=os.getpid)
    process.start()
    process.join()
    return process.exitcode


def fork_or_give(payload: dict[str, Any]) -> int:
    """Fork, and have both come to the end of the function."""
    if payload["forks"]:
        child = os.fork()
        if child == 0:
            return -1
        os.waitpid(child, 0)
    return int(payload["n"])


def note(payload: dict[str, Any], name: str = "begun", what: object = None) -> None:
    """Tell the test, in a file that is there in full or not at all."""
    draft = Path(payload["folder"], f"{name}.draft")
    draft.write_text(str(os.getpid() if what is None else what))
    draft.rename(draft.with_suffix(""))


def wait_for(payload: dict[str, Any], name: str) -> None:
    while not Path(payload["folder"], name).exists():
        time.sleep(0.005)


def _local() -> Exception:
    class LocalError(ConnectionError):
        pass

    return LocalError("only here")


def _http() -> Exception:
    from email.message import Message
    from io import BytesIO

    headers = Message()
    headers["Retry-After"] = "77"
    return HTTPError("http://x", 503, "busy", headers, BytesIO(b"busy"))


ERRORS = {
    "plain": ValueError("it broke"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "own": PageError(3),
    "own 404": PageError(4, status_code=404),
    "local": _local(),
    "http": _http(),
}
