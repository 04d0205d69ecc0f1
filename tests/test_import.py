import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import queue_max
from queue_max.settings import Settings, names_of

HOSTILE = {name: "abc" for field in Settings.model_fields.values() for name in names_of(field)}

SCRIPT = """
import json, os, sys, threading

class Watched(type(os.environ)):
    read = []

    def __getitem__(self, name):
        self.read.append(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.read.append(name)
        return super().__contains__(name)

opened = []

def note(event, arguments):
    if event == "open":
        opened.append(os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else "")

environ = os.environ
os.environ = Watched(
    environ._data, environ.encodekey, environ.decodekey, environ.encodevalue, environ.decodevalue
)
sys.addaudithook(note)
import queue_max
print(json.dumps({
    "file": queue_max.__file__,
    "read": Watched.read,
    "opened": opened,
    "modules": list(sys.modules),
    "threads": threading.active_count(),
}))
"""


def import_in_a_fresh_process(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    root = Path(queue_max.__file__).parents[1]
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    facts: dict[str, Any] = json.loads(finished.stdout)
    assert facts["file"] == queue_max.__file__
    return facts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, but for a `.env` as hostile as the environment."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / ".env").write_text("".join(f"{name}=abc\n" for name in HOSTILE))
    return folder


@pytest.fixture(scope="module")
def imported(folder: Path) -> dict[str, Any]:
    """What is seen when the package is imported where every setting is bad."""
    return import_in_a_fresh_process(folder, HOSTILE)


def test_the_import_reads_none_of_our_variables(imported: dict[str, Any]) -> None:
    assert "NUM_SHARDS" in HOSTILE
    assert HOSTILE.keys() & set(imported["read"]) == set()


def test_the_import_opens_and_makes_no_file_where_it_runs(
    imported: dict[str, Any], folder: Path
) -> None:
    assert [path for path in imported["opened"] if (folder / path).parent == folder] == []
    assert [path.name for path in folder.iterdir()] == [".env"]


def test_the_import_does_not_load_alembic(imported: dict[str, Any]) -> None:
    assert "queue_max.queue" in imported["modules"]
    assert [name for name in imported["modules"] if name.split(".")[0] == "alembic"] == []


def test_the_import_starts_no_thread(imported: dict[str, Any]) -> None:
    assert imported["threads"] == 1
