"""Which SQLite is used, and which ones can lose commits."""

import sys
from types import ModuleType

import pytest

from queue_max.storage import driver
from queue_max.storage.driver import Version, has_wal_reset_bug

AFFECTED = (3, 40, 1)
SOUND = (3, 53, 4)


@pytest.mark.parametrize(
    "version",
    [
        (3, 7, 0),
        (3, 40, 1),
        (3, 44, 5),
        (3, 45, 0),
        (3, 46, 1),
        (3, 50, 6),
        (3, 51, 0),
        (3, 51, 2),
        (3, 52, 0),
    ],
)
def test_a_version_before_the_repair_is_affected(version: Version) -> None:
    assert has_wal_reset_bug(version)


@pytest.mark.parametrize(
    "version",
    [
        (3, 6, 23),
        (3, 44, 6),
        (3, 44, 7),
        (3, 50, 7),
        (3, 50, 8),
        (3, 51, 3),
        (3, 51, 4),
        (3, 53, 0),
        (3, 53, 4),
        (4, 0, 0),
    ],
)
def test_a_version_without_the_bug_or_with_the_repair_is_sound(version: Version) -> None:
    assert not has_wal_reset_bug(version)


def have(monkeypatch: pytest.MonkeyPatch, package: str, version: Version | None) -> None:
    """Let a package bring that version of SQLite, or be absent."""
    module = None if version is None else ModuleType(f"{package}.dbapi2")
    if module is not None:
        module.sqlite_version_info = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, f"{package}.dbapi2", module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("standard", "bundled", "taken"),
    [
        (SOUND, SOUND, "sqlite3"),
        (SOUND, None, "sqlite3"),
        (AFFECTED, SOUND, "pysqlite3"),
        (AFFECTED, AFFECTED, "sqlite3"),
        (AFFECTED, None, "sqlite3"),
    ],
)
def test_the_standard_library_is_left_only_for_a_sound_pysqlite3(
    monkeypatch: pytest.MonkeyPatch, standard: Version, bundled: Version | None, taken: str
) -> None:
    have(monkeypatch, "sqlite3", standard)
    have(monkeypatch, "pysqlite3", bundled)

    chosen = driver.choose.__wrapped__()

    assert chosen.module.__name__ == f"{taken}.dbapi2"
    assert chosen.version == (standard if taken == "sqlite3" else bundled)
    assert chosen.has_wal_reset_bug == (chosen.version == AFFECTED)


def test_all_files_of_a_process_are_opened_by_one_driver() -> None:
    assert driver.choose() is driver.choose()


def test_a_driver_knows_the_library_it_really_talks_to() -> None:
    chosen = driver.choose()
    connection = chosen.module.connect(":memory:")

    found = connection.execute("SELECT sqlite_version()").fetchone()[0]

    connection.close()
    assert chosen.version == tuple(map(int, found.split(".")))


def test_a_driver_is_named_by_its_module_and_library(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "sqlite3", AFFECTED)
    have(monkeypatch, "pysqlite3", None)

    assert driver.choose.__wrapped__().name == "sqlite3.dbapi2 with SQLite 3.40.1"
