import json
import signal
import subprocess
from collections.abc import Callable

import pytest
from click.testing import Result
from support.programs import read_until

from queue_max import Queue

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def logged(make_queue: MakeQueue) -> Queue:
    """A queue whose log holds the enqueueing of jobs 1 to 3."""
    queue = make_queue(shards=1, event_log=100)
    for n in range(3):
        queue.enqueue({"n": n})
    queue.events()
    return queue


def job_ids(result: Result) -> list[int]:
    return [event["facts"]["job_id"] for event in json.loads(result.stdout)]


def test_a_table_shows_the_events_in_order(cli: Cli, logged: Queue) -> None:
    result = cli("events")
    assert (result.exit_code, result.stderr) == (0, "")
    headers, _, *rows = result.stdout.splitlines()
    assert headers.split() == ["Id", "At", "Event", "Facts"]
    first = logged.events()[0].to_dict()
    assert rows[0].split(maxsplit=3) == ["1", first["at"], "job_enqueued", "job_id=1, shard_id=0"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]


def test_json_has_all_of_an_event(cli: Cli, logged: Queue) -> None:
    result = cli("events", "--json")
    assert json.loads(result.stdout) == [event.to_dict() for event in logged.events()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--since", 1], [2, 3]),
        (["--since", 0, "--limit", 2], [1, 2]),
        (["--limit", 2], [2, 3]),
        (["--since", 3], []),
    ],
)
def test_a_part_can_be_asked_for(
    cli: Cli, logged: Queue, options: list[object], expected: list[int]
) -> None:
    assert job_ids(cli("events", "--json", *options)) == expected


def test_where_no_log_is_kept_it_says_how(cli: Cli, make_queue: MakeQueue) -> None:
    make_queue(shards=1).enqueue({})
    result = cli("events")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "QUEUE_MAX_EVENT_LOG" in result.stderr
    assert cli("events", "--json").stdout == "[]\n"


def test_a_command_logs_its_own_events_where_that_is_set(
    cli: Cli, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_queue(shards=1)
    monkeypatch.setenv("QUEUE_MAX_EVENT_LOG", "10")
    cli("enqueue", "--payload", "{}")
    assert job_ids(cli("events", "--json")) == [1]


def test_what_would_steer_a_terminal_is_escaped(cli: Cli, logged: Queue) -> None:
    job = logged.pop_job("w")
    assert job is not None
    logged.fail_job(job.id, 0, "\x1b[2Jgone\nsecond line", permanent=True)
    logged.events()
    out = cli("events").stdout
    assert "\x1b" not in out
    assert "\\x1b[2Jgone" in out


def test_following_goes_on_with_what_comes_until_it_is_interrupted(
    start: Start, logged: Queue
) -> None:
    process = start("events", "--follow", "--since", 1, "--limit", 1)
    read_until("job_id=3", process.stdout)
    logged.enqueue({})
    logged.events()
    read_until("job_id=4", process.stdout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (130, "", "")


def test_following_prints_one_object_a_line(start: Start, logged: Queue) -> None:
    process = start("events", "--follow", "--json")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [event["facts"]["job_id"] for event in lines] == [1, 2, 3]


def test_following_begins_with_nothing_where_there_is_nothing_yet(
    start: Start, make_queue: MakeQueue
) -> None:
    queue = make_queue(shards=1, event_log=100)
    process = start("events", "--follow")
    queue.enqueue({})
    read_until("job_id=1", process.stdout)


@pytest.mark.parametrize("option", [("--since", "-1"), ("--limit", "0"), ("--since", "x")])
def test_a_bad_option_is_a_usage_error(cli: Cli, logged: Queue, option: tuple[str, str]) -> None:
    assert cli("events", *option).exit_code == 2


def test_a_queue_that_is_not_there_is_not_found(cli: Cli) -> None:
    assert cli("events").exit_code == 4
