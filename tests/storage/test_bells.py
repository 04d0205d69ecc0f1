"""Bells: processes hear of new jobs at once, and nothing depends on it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_max.storage import bells as bells_module
from queue_max.storage.bells import Bell, Bells

LONG = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workers").mkdir()
    return tmp_path


@pytest.fixture
def bells(folder: Path) -> Iterator[Bells]:
    made = Bells(folder)
    yield made
    made.close()


@pytest.fixture
def bell(folder: Path) -> Iterator[Bell]:
    made = Bell(folder, "anna")
    yield made
    made.take_down()


def test_who_listens_hears_for_which_shards_it_rings(bells: Bells, bell: Bell) -> None:
    for shard_id in (3, 70_000, 3):
        bells.ring(shard_id)
    assert bell.heard(LONG) == {3, 70_000}
    assert bell.heard(0.0) == set()


def test_nobody_rings_for_himself(bells: Bells, bell: Bell) -> None:
    bells.ring(1, but="anna")
    assert bell.heard(0.0) == set()


def test_who_comes_later_is_found_and_who_has_gone_is_forgotten(folder: Path, bells: Bells) -> None:
    bells.ring(1)
    late = Bell(folder, "late")
    bells.ring(2)
    assert late.heard(LONG) == {2}
    late.take_down()
    bells.ring(3)
    assert bells._files == {}
    assert list((folder / "workers").iterdir()) == []


def test_a_folder_that_has_not_changed_for_a_while_is_not_read_again(
    folder: Path, bells: Bells, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = time.time_ns() - 10 * bells_module.JUST_NOW
    os.utime(folder / "workers", ns=(old, old))
    bells.ring(1)
    monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("the folder was read"))
    bells.ring(2)
    assert bell.heard(LONG) == {1, 2}


def test_a_full_bell_holds_up_nobody(bells: Bells, bell: Bell) -> None:
    for _ in range(100_000):
        bells.ring(5)
    assert bell.heard(LONG) == {5}


def test_the_bell_of_a_process_that_was_killed_harms_nobody(folder: Path, bells: Bells) -> None:
    dead = Bell(folder, "dead")
    dead._forget()
    bells.ring(1)
    bells.ring(2)


def test_without_workers_there_is_nothing_to_ring(tmp_path: Path) -> None:
    Bells(tmp_path).ring(1)


def test_a_listener_can_be_made_to_look_up(bell: Bell) -> None:
    bell.ring()
    assert bell.heard(LONG) == {0}
