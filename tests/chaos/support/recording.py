"""Recording: what a process did to its files, as strace saw it."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos.support.nursery import ENVIRONMENT

_CALLS = "openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink,unlinkat,rename,renameat,renameat2"

_WHOLE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")
_FD = re.compile(r"^\d+<([^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that ended well."""

    name: str
    path: str
    """The file it is about."""
    begun: int
    """How many calls had ended when it began: a flush knows of those only."""
    data: bytes = b""
    offset: int = 0
    """Where data was written; of a truncation, the new size."""
    target: str = ""
    """The new name."""
    creates: bool = False


@functools.cache
def why_not() -> str | None:
    """Say why nothing can be traced here; None when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return f"strace may not trace: {tried.stderr.strip()}" if tried.returncode else None


def record(code: str, log: Path, cwd: Path, settings: Mapping[str, object]) -> list[Call]:
    """Run Python code in a process of its own; gives all it wrote."""
    # Bytes in hex, paths beside file descriptors, all threads.
    strace = ["strace", "-f", "-y", "-xx", "-s", "16777216", "-e", f"trace={_CALLS}"]
    subprocess.run(
        [*strace, "-e", "signal=none", "-o", log, sys.executable, "-c", code],
        env=ENVIRONMENT | {name: str(value) for name, value in settings.items()},
        cwd=cwd,
        check=True,
        timeout=300,
    )
    return list(_parse(log.read_text()))


def _parse(text: str) -> Iterator[Call]:
    begun: dict[str, tuple[str, int]] = {}
    ended = 0
    for line in text.splitlines():
        if found := _UNFINISHED.match(line):
            begun[found[1]] = found[3], ended
            continue
        if found := _RESUMED.match(line):
            arguments, since = begun.pop(found[1])
            whole = arguments + found[3]
        elif found := _WHOLE.match(line):
            whole, since = found[3], ended
        else:
            continue
        if int(found[4]) >= 0 and (call := _call(found[2], whole, since, int(found[4]))):
            yield call
            ended += 1


def _call(name: str, arguments: str, begun: int, result: int) -> Call | None:
    if name in {"pwrite64", "write"}:
        data = _bytes(arguments)[:result]  # a short write is one of fewer bytes
        offset = int(arguments.rpartition(",")[2]) if name == "pwrite64" else -1
        return Call(name, _path(arguments), begun, data, offset)
    if name in {"fsync", "fdatasync"}:
        return Call("fsync", _path(arguments), begun)
    if name == "ftruncate":
        size = int(arguments.rpartition(",")[2])
        return Call(name, _path(arguments), begun, offset=size)
    names = [_decoded(found[1]) for found in _STRING.finditer(arguments)]
    if name == "openat":
        if "O_TRUNC" in arguments:
            return Call("ftruncate", names[0], begun, creates="O_CREAT" in arguments)
        return Call("create", names[0], begun, creates=True) if "O_CREAT" in arguments else None
    if name.startswith("unlink"):
        return Call("unlink", names[0], begun)
    return Call("rename", names[0], begun, target=names[-1])


def _path(arguments: str) -> str:
    found = _FD.match(arguments)
    return _decoded(found[1]) if found else ""


def _bytes(arguments: str) -> bytes:
    found = _STRING.search(arguments)
    return bytes.fromhex(found[1].replace("\\x", "")) if found else b""


def _decoded(text: str) -> str:
    """Read a name that strace may have put in hex."""
    if text.startswith("\\x"):
        return bytes.fromhex(text.replace("\\x", "")).decode()
    return text
