"""A Django project in this process, set up once; each test has a queue of its own.

Tests of other folders run in the same process: tasks of the project are known here alone, and the
default queue of tasks is none of ours.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest

from queue_max import Queue, set_default_queue
from queue_max.workers import repertoire

# A file: Django does not close databases in memory, and each thread would have one of its own.
_folder = tempfile.mkdtemp(prefix="queue-max-django-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["SHOP_DATABASE"] = f"{_folder}/shop.sqlite3"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "support.django_project.settings")
_before = dict(repertoire.tasks._tasks)
django.setup()
from support.django_project.shop import tasks as _tasks_of_shop  # noqa: E402

_of_project = dict(repertoire.tasks._tasks)
repertoire.tasks._tasks.clear()
repertoire.tasks._tasks.update(_before)
set_default_queue(None)

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import override_settings  # noqa: E402

from queue_max.contrib.django import conf  # noqa: E402
from queue_max.contrib.django import connections as connections_of_jobs  # noqa: E402


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the project's tasks be known, and this be no process of workers at first."""
    monkeypatch.setattr(repertoire.tasks, "_tasks", dict(_of_project))
    monkeypatch.setattr(repertoire.tasks, "_queues", frozenset())
    monkeypatch.setattr(connections_of_jobs, "_is_worker", False)
    _tasks_of_shop.made.clear()
    yield
    repertoire.surround(None)


@pytest.fixture(autouse=True)
def queue_settings(data_dir: Path) -> Iterator[dict[str, Any]]:
    """What QUEUE_MAX says in this test."""
    said = {
        "DATA_DIR": data_dir,
        "SHARDS": 2,
        "RATE_LIMIT": float("inf"),
        "CIRCUIT_BREAKER_THRESHOLD": float("inf"),
        "DURABILITY": "normal",
    }
    with override_settings(QUEUE_MAX=said):
        yield said
    conf.close_queue()


@pytest.fixture
def queue(queue_settings: dict[str, Any]) -> Queue:
    return conf.get_queue()


@pytest.fixture(scope="session")
def _tables() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    yield
    connections.close_all()


@pytest.fixture
def database(_tables: None) -> Iterator[None]:
    """The tables of the project, as they were, at the end, too."""
    from django.db import transaction

    with transaction.atomic():
        yield
        transaction.set_rollback(True)
