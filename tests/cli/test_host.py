"""Our commands among those of another program."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from queue_max import Queue
from queue_max.cli.base import Host
from queue_max.cli.stats import stats
from queue_max.cli.workers import worker
from queue_max.settings import Settings

CHILD = """
import sys
from pathlib import Path

Path("told").write_text(" ".join(sys.argv[1:]))
"""


@pytest.fixture
def host(make_queue: Callable[..., Queue]) -> Host:
    def open_queue(_create: bool) -> Queue:
        return make_queue(shards=3)

    return Host(open_queue, Settings.load, [sys.executable, "-c", CHILD, "queue_worker"])


def test_a_command_works_on_the_queue_of_its_host(host: Host) -> None:
    told = CliRunner().invoke(stats, ["--json"], obj=host, catch_exceptions=False)
    assert '"num_shards": 3' in told.stdout


def test_a_command_that_a_host_has_run_still_has_all_words_for_help(
    host: Host, cli: Callable[..., Result]
) -> None:
    CliRunner().invoke(stats, [], obj=host, catch_exceptions=False)
    assert cli("stats", "-h").exit_code == 0


def test_worker_processes_are_started_by_the_words_of_the_host(host: Host, tmp_path: Path) -> None:
    (tmp_path / "work_of_host.py").write_text("def work(payload): ...")
    words = ["--function=work_of_host:work", "--processes=1", "--burst", "--workers=2"]
    CliRunner().invoke(worker, words, obj=host, catch_exceptions=False)
    begin, _, rest = (tmp_path / "told").read_text().partition(" --supervised=")
    assert begin == "queue_worker"
    assert rest.partition(" ")[2] == " ".join(words)
