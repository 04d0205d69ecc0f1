"""Disk: what is on it after a power cut, by what POSIX and journalling file systems promise.

A write is safe once a flush of its file that began after it has ended. Until then a cut may keep
it, drop it, or tear it between two sectors, each write for itself, whatever their order. Names
that were made or removed are safe once the directory or, as on ext4, XFS and btrfs, the file
itself was flushed; of those that are not, a cut keeps the first few.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.support.recording import Call

SECTOR = 512

Chooser = Callable[[], str]


@dataclass(slots=True, eq=False)
class File:
    """The contents of a file."""

    safe: bytearray = field(default_factory=bytearray)
    doubtful: list[tuple[int, Call]] = field(default_factory=list)
    """Changes since, each with its place among all calls."""

    def flush(self, begun: int) -> None:
        for place, call in self.doubtful:
            if place < begun:
                _apply(self.safe, call)
        self.doubtful = [(place, call) for place, call in self.doubtful if place >= begun]

    def after_cut(self, choose: Chooser, chance: random.Random) -> bytes:
        content = bytearray(self.safe)
        for _place, call in self.doubtful:
            fate = choose()
            if fate == "keep":
                _apply(content, call)
            elif fate == "tear":
                _tear(content, call, chance)
        return bytes(content)


class Disk:
    """The files of one directory while calls happen."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._names: dict[str, File] = {}
        self._safe_names: dict[str, File] = {}
        self._doubtful_names: list[tuple[str, File | None]] = []
        self._calls = 0

    def happen(self, call: Call) -> None:
        """Let a call have ended."""
        place, self._calls = self._calls, self._calls + 1
        path = call.path.removesuffix(" (deleted)").removesuffix("(deleted)")
        # The index of a WAL lives in shared memory only: a cut takes it away.
        if not path.startswith(self._root) or path.endswith("-shm"):
            return
        if call.creates and path not in self._names:
            self._rename(path, File())
        match call.name:
            case "pwrite64" | "write" | "ftruncate" if path in self._names:
                self._names[path].doubtful.append((place, call))
            case "fsync" if path == self._root:
                self._keep_names(len(self._doubtful_names))
            case "fsync" if path in self._names:
                self._flush(path, call.begun)
            case "unlink" if path in self._names:
                self._rename(path, None)
            case "rename" if path in self._names:
                file = self._names[path]
                self._rename(path, None)
                self._rename(call.target, file)
            case _:
                pass

    def cut(self, target: Path, chance: random.Random) -> None:
        """Write what a power cut at this moment would leave, to another directory."""
        names = dict(self._safe_names)
        for path, file in self._doubtful_names[: chance.randint(0, len(self._doubtful_names))]:
            _enter(names, path, file)
        choose = _chooser(chance)
        for path, file in names.items():
            place = target / Path(path).relative_to(self._root)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.after_cut(choose, chance))

    def _rename(self, path: str, file: File | None) -> None:
        _enter(self._names, path, file)
        self._doubtful_names.append((path, file))

    def _flush(self, path: str, begun: int) -> None:
        file = self._names[path]
        file.flush(begun)
        places = [at for at, (_path, named) in enumerate(self._doubtful_names) if named is file]
        self._keep_names(max(places, default=-1) + 1)

    def _keep_names(self, count: int) -> None:
        for path, file in self._doubtful_names[:count]:
            _enter(self._safe_names, path, file)
        del self._doubtful_names[:count]


def _enter(names: dict[str, File], path: str, file: File | None) -> None:
    if file is None:
        names.pop(path, None)
    else:
        names[path] = file


def _chooser(chance: random.Random) -> Chooser:
    """Choose what befalls doubtful writes: all alike, or each something else."""
    mood = chance.choice(("keep", "drop", "tear", "mix", "mix", "mix"))
    if mood != "mix":
        return lambda: mood
    return lambda: chance.choice(("keep", "drop", "tear"))


def _apply(content: bytearray, call: Call) -> None:
    if call.name == "ftruncate":
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
        return
    _put(content, len(content) if call.offset < 0 else call.offset, call.data)


def _tear(content: bytearray, call: Call, chance: random.Random) -> None:
    """Keep some sectors of a write; a truncation is whole or not at all."""
    if call.name == "ftruncate":
        return
    start = len(content) if call.offset < 0 else call.offset
    for at in range(0, len(call.data), SECTOR):
        if chance.random() < 0.5:
            _put(content, start + at, call.data[at : at + SECTOR])


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data
