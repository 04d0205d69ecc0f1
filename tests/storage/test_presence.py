"""Lock files: who works on a directory, and what the dead had begun."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_max.domain.job import Lease
from queue_max.storage.presence import Presence

StartProcess = Callable[..., Any]

# Appears in the directory argv[1], starts a job, runs the code argv[2], and waits for a line.
PROCESS = """
import os, sys
from pathlib import Path
from queue_max.domain.job import Lease
from queue_max.storage.presence import Presence
presence = Presence(Path(sys.argv[1]))
presence.appear()
presence.started(Lease(0, 1, 1))
exec(sys.argv[2])
print(presence.identity, flush=True)
sys.stdin.readline()
os._exit(0)
"""

FORK_AND_LET_THE_CHILD_END = """
child = os.fork()
if not child:
    presence.started(Lease(0, 2, 1))
    os._exit(0)
os.waitpid(child, 0)
"""

FORK_AND_LET_THE_CHILD_STAY = """
import time
begun, say = os.pipe()
if not os.fork():
    os.write(say, b".")
    time.sleep(60)
    os._exit(0)
os.read(begun, 1)
"""


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[Presence]:
    observer = Presence(tmp_path)
    observer.appear()
    yield observer
    observer.vanish()


def test_a_process_is_dead_once_it_has_ended_and_tells_what_it_had_started(
    observer: Presence, tmp_path: Path, start_process: StartProcess
) -> None:
    process = start_process(PROCESS, tmp_path, "")
    identity = process.says()
    assert list(observer.dead()) == []

    process.kill()
    process.wait()

    [remains] = observer.dead()
    assert (remains.identity, remains.started) == (identity, {Lease(0, 1, 1)})
    remains.clear()
    assert list(observer.dead()) == []


@pytest.mark.parametrize("code", [FORK_AND_LET_THE_CHILD_END, FORK_AND_LET_THE_CHILD_STAY])
def test_a_child_of_fork_neither_ends_its_parents_presence_nor_prolongs_it(
    observer: Presence, tmp_path: Path, start_process: StartProcess, code: str
) -> None:
    process = start_process(PROCESS, tmp_path, code)
    identity = process.says()
    assert list(observer.dead()) == []

    process.kill()
    process.wait()

    [remains] = observer.dead()
    assert (remains.identity, remains.started) == (identity, {Lease(0, 1, 1)})


def test_one_dead_process_is_given_to_one_observer_at_a_time(
    observer: Presence, tmp_path: Path, start_process: StartProcess
) -> None:
    process = start_process(PROCESS, tmp_path, "")
    process.says()
    process.kill()
    process.wait()

    found = observer.dead()
    assert next(found)
    assert list(Presence(tmp_path).dead()) == []
    found.close()
    assert list(Presence(tmp_path).dead())


def test_each_beginning_is_under_a_new_identity(tmp_path: Path) -> None:
    presence, seen = Presence(tmp_path), set()
    for _ in range(3):
        presence.appear()
        seen.add(presence.identity)
        presence.vanish()
    assert len(seen) == 3
    assert presence.identity is None
    assert list((tmp_path / "workers").iterdir()) == []


def test_places_in_the_file_are_used_again(observer: Presence) -> None:
    for number in range(1_000):
        observer.started(Lease(3, number, 9))
        observer.ended(Lease(3, number, 9))
    assert observer._path().stat().st_size == 128


def test_only_its_owner_can_read_it(observer: Presence, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "workers").stat().st_mode) == 0o700
    assert stat.S_IMODE(observer._path().stat().st_mode) == 0o600


def test_who_is_not_at_work_may_be_told_of_jobs(tmp_path: Path) -> None:
    nobody = Presence(tmp_path)
    nobody.started(Lease(0, 1, 1))
    nobody.ended(Lease(0, 1, 1))
    nobody.vanish()
    assert list(nobody.dead()) == []


def test_a_file_that_cannot_be_written_keeps_no_job_from_being_run(
    observer: Presence, caplog: pytest.LogCaptureFixture
) -> None:
    assert observer._file is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, observer._file)
    os.close(full)
    observer.started(Lease(0, 1, 1))
    observer.ended(Lease(0, 1, 1))
    assert caplog.text.count("No space left on device") == 2
