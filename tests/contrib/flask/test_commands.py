"""`flask queue-max`: the commands, on the queue that the app's configuration describes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

import queue_max
from queue_max import Queue
from queue_max.contrib.flask import QueueExtension

Here = Callable[..., Result]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

SHOP = """
from flask import Flask, current_app
from queue_max.contrib.flask import QueueExtension

jobs = QueueExtension()

@jobs.task(keep_result=600)
def greet(name):
    return f"{current_app.config['GREETING']}, {name}"

def create_app(greeting="Hello"):
    app = Flask(__name__)
    app.config.update(GREETING=greeting, QUEUE_MAX_DATA_DIR="of-the-shop", QUEUE_MAX_SHARDS=2)
    jobs.init_app(app)
    return app
"""


@pytest.fixture
def flask(tmp_path: Path) -> Run:
    (tmp_path / "shop.py").write_text(SHOP)

    def run(*words: str, app: str = "shop") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-P", "-m", "flask", "--app", app, "queue-max", *words],
            env=os.environ | {"PYTHONPATH": str(Path(queue_max.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def of_the_shop(tmp_path: Path) -> Queue:
    return Queue(data_dir=tmp_path / "of-the-shop", shards=2)


@pytest.fixture
def here(tmp_path: Path) -> Callable[..., Result]:
    """Run a command in this process; an exception that would be a traceback fails the test."""
    app = Flask("shop")
    app.config.update(QUEUE_MAX_DATA_DIR=str(tmp_path / "of-the-shop"), QUEUE_MAX_SHARDS=2)
    QueueExtension(app)

    def run(*words: str) -> Result:
        return app.test_cli_runner().invoke(args=["queue-max", *words], catch_exceptions=False)

    return run


def test_commands_look_at_the_queue_of_the_app(here: Here, of_the_shop: Queue) -> None:
    handle = json.loads(here("enqueue", "--payload", '{"n": 1}', "--json").stdout)
    with of_the_shop as queue:
        assert queue.get_job(handle).payload == {"n": 1}
    stats = json.loads(here("stats", "--json").stdout)
    assert (stats["pending"], stats["num_shards"]) == (1, 2)
    (job,) = json.loads(here("list", "--status", "all", "--json").stdout)
    assert job["payload"] == {"n": 1}
    key = f"{handle['shard_id']}-{handle['id']}"
    assert "Cancelled" in here("cancel", key).stdout
    assert "Removed 1 old job" in here("purge", "--days", "0").stdout
    assert here("show", key).exit_code == 4
    assert here("health").exit_code == 0
    assert "at revision" in here("db", "upgrade").stdout


def test_commands_look_at_the_queue_that_was_given(queue: Queue) -> None:
    app = Flask("shop")
    QueueExtension(app, queue)
    queue.enqueue({})
    run = app.test_cli_runner().invoke
    assert json.loads(run(args=["queue-max", "stats", "--json"]).stdout)["pending"] == 1
    assert run(args=["queue-max", "health"]).exit_code == 0
    assert queue.get_pending_count() == 1  # it is still open


def test_faults_are_told_in_words_with_the_exit_codes_of_queue_max(here: Here) -> None:
    done = here("stats")
    assert done.exit_code == 4
    assert done.stderr.startswith("Error: there is no queue in ")


def test_a_command_closes_what_it_has_opened(here: Here, of_the_shop: Queue) -> None:
    of_the_shop.close()
    files = open_files()
    assert here("stats").exit_code == 0
    assert open_files() == files


def open_files() -> set[str]:
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return {os.readlink(each) for each in links if each.is_symlink()}


@pytest.mark.parametrize("command", ["stats", "worker", "dlq list", "schedules add", "enqueue"])
def test_what_the_app_says_is_no_option(here: Here, command: str) -> None:
    text = here(*command.split(), "--help").stdout
    assert "Options:" in text
    assert not [name for name in ("--data-dir", "--app", "--shards") if name in text]
    assert here(*command.split(), "--data-dir", "x").exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="threads"),
        pytest.param(["--processes", "1"], id="processes"),
        pytest.param(["--concurrency", "5"], id="coroutines"),
    ],
)
def test_a_worker_runs_tasks_in_the_context_of_the_app(
    flask: Run, of_the_shop: Queue, options: list[str]
) -> None:
    with of_the_shop as queue:
        handle = queue.enqueue({"args": ["Ada"], "kwargs": {}}, task="shop.greet", keep_result=600)
        done = flask("worker", "--burst", *options, app="shop:create_app('Good day')")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert handle.result(0) == "Good day, Ada"


def test_an_app_without_tasks_says_so_unless_a_function_is_named(
    flask: Run, tmp_path: Path
) -> None:
    (tmp_path / "idle.py").write_text(
        "from flask import Flask\n"
        "from queue_max.contrib.flask import QueueExtension\n"
        "app = Flask(__name__)\n"
        "QueueExtension(app)\n"
        "def work(payload): print('worked', payload, flush=True)\n"
    )
    done = flask("worker", "--burst", app="idle")
    assert done.returncode == 2
    assert "no task is defined in idle" in done.stderr
    assert flask("enqueue", "--payload", '{"n": 1}', app="idle").returncode == 0
    done = flask("worker", "--burst", "--function", "idle:work", app="idle")
    assert done.returncode == 0, done.stderr
    assert "worked {'n': 1}" in done.stdout
