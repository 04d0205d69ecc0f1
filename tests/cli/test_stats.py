import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from queue_max import Queue

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]


@pytest.fixture
def mixed_queue(make_queue: MakeQueue) -> Queue:
    """Two shards: in shard 0 a job failed and one runs, in shard 1 two wait, one for later."""
    queue = make_queue(shards=2)
    queue.enqueue_batch([{"payload": {}, "pagina_id": 0}] * 2)
    first = queue.pop_job("w")
    assert first is not None
    queue.fail_job(first.id, 0, "it broke", permanent=True)
    queue.pop_job("w")
    queue.enqueue_batch([{"payload": {}, "pagina_id": 1}] * 3)
    for _ in range(2):
        job = queue.pop_job("w")
        assert job is not None
        if job.id == 1:
            queue.complete_job(job.id, 1)
        else:
            queue.fail_job(job.id, 1, "it broke")
    return queue


@pytest.fixture
def _two_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_SHARDS", "2")


@pytest.mark.usefixtures("_two_shards")
def test_a_table_counts_the_jobs(cli: Cli, mixed_queue: Queue) -> None:
    result = cli("stats")
    assert (result.exit_code, result.stderr) == (0, "")
    title, line, *table = result.stdout.splitlines()
    assert (title, line) == ("  Queue Max Statistics", "  " + "=" * 45)
    cells = [tuple(row.strip().rsplit(maxsplit=1)) for row in table]
    assert cells[0] == ("Metric", "Value")
    assert cells[2:] == [
        ("Pending", "2"),
        ("of these scheduled", "1"),
        ("of these set aside", "0"),
        ("Processing", "1"),
        ("Failed", "1"),
        ("Completed", "1"),
        ("Shards", "2"),
        ("of these unavailable", "none"),
        ("Circuit State", "closed"),
        ("Tokens Available", "160.0"),
    ]


def test_the_circuit_and_the_tokens_are_those_of_all_processes(
    cli: Cli, make_queue: MakeQueue
) -> None:
    queue = make_queue(shards=1, rate_limit=60)
    queue.rate_limiter.acquire()
    queue.breakers.open()
    told = json.loads(cli("stats", "--rate-limit", "60", "--json").stdout)
    assert told["circuit_state"] == "open"
    assert 58 <= told["tokens_available"] < 60


def test_a_limit_that_is_off_is_told_in_words(cli: Cli, make_queue: MakeQueue) -> None:
    make_queue(shards=1)
    last = cli("stats", "--rate-limit", "none").stdout.splitlines()[-1]
    assert last.split(maxsplit=2) == ["Tokens", "Available", "no limit"]


@pytest.mark.usefixtures("_two_shards")
def test_json_has_what_get_stats_gives(cli: Cli, mixed_queue: Queue) -> None:
    result = cli("stats", "--json")
    stats = json.loads(result.stdout)
    assert result.stdout.startswith('{\n  "pending": 2,')
    assert list(stats) == list(mixed_queue.get_stats())
    assert (stats["pending"], stats["num_shards"], stats["is_healthy"]) == (2, 2, True)


@pytest.mark.usefixtures("_two_shards")
def test_one_shard_can_be_counted_alone(cli: Cli, mixed_queue: Queue) -> None:
    result = cli("stats", "--shard", 0, "--json")
    assert json.loads(result.stdout) == {
        "pending": 0,
        "scheduled": 0,
        "held": 0,
        "processing": 1,
        "failed": 1,
        "completed": 0,
    }
    assert re.search(r"Processing +1\n", cli("stats", "--shard", 0).stdout)
    assert "Tokens" not in cli("stats", "--shard", 0).stdout


@pytest.mark.parametrize("shard", ["1", "99", "-1", "99999999999999999999"])
def test_a_shard_that_does_not_exist_is_not_found_and_not_made(
    cli: Cli, make_queue: MakeQueue, data_dir: Path, shard: str
) -> None:
    make_queue(shards=1)
    result = cli("stats", "--shard", shard)
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"Error: shard {shard}: does not exist" in result.stderr
    assert [path.name for path in data_dir.glob("shard_*.db")] == ["shard_0.db"]


def test_json_is_strict_without_limits_too(
    cli: Cli, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_queue(shards=1)
    monkeypatch.setenv("RATE_LIMIT_MAX", "none")
    stats = json.loads(cli("stats", "--json").stdout, parse_constant=pytest.fail)
    assert (stats["rate_limit"], stats["tokens_available"]) == (None, None)


def test_a_queue_that_is_not_there_is_not_found_and_not_made(cli: Cli, data_dir: Path) -> None:
    result = cli("stats")
    assert (result.exit_code, result.stdout) == (4, "")
    assert str(data_dir) in result.stderr
    assert not data_dir.exists()
