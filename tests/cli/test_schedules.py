import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from queue_max import Queue
from queue_max.domain.clock import to_text

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]

commands_with_a_name = pytest.mark.parametrize(
    "command", ["show", "remove", "pause", "resume", "run"]
)


@pytest.fixture
def nightly(queue: Queue) -> Queue:
    """A queue with a schedule."""
    queue.schedules.put(
        "nightly", "reports.send", cron="30 2 * * MON-FRI", tz="Europe/Berlin", kwargs={"to": "ü"}
    )
    return queue


def facts(result: Result) -> dict[str, str]:
    """Read the table of facts."""
    lines = result.stdout.partition("\n\n")[0].splitlines()[2:]
    return {name: value.strip() for name, value in (line.strip().split("  ", 1) for line in lines)}


# add


def test_a_schedule_is_added_with_all_that_the_options_say(cli: Cli, queue: Queue) -> None:
    options = {
        "--task": "reports.send",
        "--cron": "30 2 * * MON-FRI",
        "--tz": "Europe/Berlin",
        "--args": "[1]",
        "--kwargs": '{"to": "ü"}',
        "--misfire": "all",
        "--misfire-cap": "7",
        "--overlap": "skip",
        "--priority": "2",
        "--pagina-id": "5",
        "--max-retries": "0",
        "--retry-delay": "9",
        "--timeout": "1.5",
        "--keep-result": "60",
    }
    result = cli(
        "schedules", "add", "nightly", *(word for each in options.items() for word in each)
    )
    assert (result.exit_code, result.stderr) == (0, "")
    schedule = queue.schedules.get("nightly")
    assert result.stdout == (
        "  Schedule nightly: 30 2 * * MON-FRI (Europe/Berlin), "
        f"next at {to_text(schedule.next_at)}.\n"
    )
    found = schedule.to_dict()
    assert found["payload"] == {
        "task": "reports.send",
        "version": 1,
        "args": [1],
        "kwargs": {"to": "ü"},
    }
    assert found["options"] == {
        "priority": 2,
        "pagina_id": 5,
        "max_retries": 0,
        "retry_delay": 9,
        "timeout": 1.5,
        "keep_result": 60.0,
    }
    assert (found["cron"], found["tz"]) == ("30 2 * * MON-FRI", "Europe/Berlin")
    assert (found["misfire"], found["misfire_cap"], found["overlap"]) == ("all", 7, "skip")


def test_what_is_left_out_has_the_defaults_of_the_library(cli: Cli, queue: Queue) -> None:
    assert cli("schedules", "add", "a", "--task", "t", "--interval", "90").exit_code == 0
    by_library = queue.schedules.put("b", "t", interval=90).to_dict()
    by_command = queue.schedules.get("a").to_dict()
    for name in ("payload", "interval", "tz", "misfire", "misfire_cap", "overlap", "options"):
        assert by_command[name] == by_library[name]


def test_a_payload_takes_the_place_of_arguments(cli: Cli, queue: Queue) -> None:
    add = ["schedules", "add", "a", "--task", "t", "--interval", "90", "--payload", '{"task": "t"}']
    assert cli(*add).exit_code == 0
    assert queue.schedules.get("a").payload == {"task": "t"}
    result = cli(*add, "--args", "[1]")
    assert result.exit_code == 2
    assert "payload: is given in place of args and kwargs" in result.stderr


def test_to_add_a_name_again_changes_the_schedule(cli: Cli, nightly: Queue) -> None:
    result = cli("schedules", "add", "nightly", "--task", "other", "--interval", "1.5")
    assert result.stdout.startswith("  Schedule nightly: every 1.5 s, next at ")
    assert nightly.schedules.get("nightly").task == "other"


def test_a_queue_is_made_for_the_first_schedule(cli: Cli, data_dir: Path) -> None:
    assert not data_dir.exists()
    assert cli("schedules", "add", "a", "--task", "t", "--interval", "60").exit_code == 0
    assert cli("schedules", "list").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--task"),
        (["--task", "t"], "give either interval"),
        (["--task", "t", "--interval", "60", "--cron", "@daily"], "give either interval"),
        (["--task", "t", "--interval", "0.5"], "interval=0.5"),
        (["--task", "t", "--interval", "nan"], "interval=nan"),
        (["--task", "t", "--interval", "often"], "--interval"),
        (["--task", "t", "--cron", "30 25 * * *"], "cron='30 25 * * *'"),
        (["--task", "t", "--cron", "@daily", "--tz", "Mars/Base"], "tz='Mars/Base'"),
        (["--task", "", "--cron", "@daily"], "task=''"),
        (["--task", "t", "--cron", "@daily", "--args", "{}"], "should be a JSON array"),
        (["--task", "t", "--cron", "@daily", "--args", "[NaN]"], "payload['args'][0]"),
        (["--task", "t", "--cron", "@daily", "--kwargs", "[]"], "should be a JSON object"),
        (["--task", "t", "--cron", "@daily", "--payload", "{"], "not JSON"),
        (["--task", "t", "--cron", "@daily", "--misfire", "never"], "--misfire"),
        (["--task", "t", "--cron", "@daily", "--overlap", "never"], "--overlap"),
        (["--task", "t", "--cron", "@daily", "--misfire-cap", "0"], "misfire_cap=0"),
        (["--task", "t", "--cron", "@daily", "--priority", "3"], "--priority"),
        (["--task", "t", "--cron", "@daily", "--timeout", "0"], "timeout=0"),
    ],
)
def test_what_is_bad_is_a_usage_error_that_names_it(
    cli: Cli, queue: Queue, options: list[str], words: str
) -> None:
    result = cli("schedules", "add", "a", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert queue.schedules.list() == []


# list


def test_schedules_are_listed_in_a_table(cli: Cli, nightly: Queue) -> None:
    nightly.schedules.put("often", "ping", interval=60)
    nightly.schedules.pause("often")
    result = cli("schedules", "list")
    assert (result.exit_code, result.stderr) == (0, "")
    header, _line, *rows = result.stdout.splitlines()
    assert header.split("  ")[1].strip() == "Name"
    next_at = to_text(nightly.schedules.get("nightly").next_at)
    assert [[cell.strip() for cell in row.split("  ") if cell] for row in rows] == [
        ["nightly", "reports.send", "30 2 * * MON-FRI (Europe/Berlin)", next_at, "-"],
        ["often", "ping", "every 60 s", "paused", "-"],
    ]


def test_json_lists_all_facts(cli: Cli, nightly: Queue) -> None:
    listed = json.loads(cli("schedules", "list", "--json").stdout)
    assert listed == [nightly.schedules.get("nightly").to_dict()]


def test_no_schedules_are_told_in_words(cli: Cli, queue: Queue) -> None:
    result = cli("schedules", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "  No schedules.\n")
    assert json.loads(cli("schedules", "list", "--json").stdout) == []


# show


def test_all_that_is_known_of_a_schedule_is_shown_with_its_next_ten_times(
    cli: Cli, nightly: Queue
) -> None:
    nightly.schedules.put("hourly", "ping", cron="@hourly", misfire="all", priority=2)
    result = cli("schedules", "show", "hourly")
    assert (result.exit_code, result.stderr) == (0, "")
    schedule = nightly.schedules.get("hourly")
    assert facts(result) == {
        "Name": "hourly",
        "Task": "ping",
        "Rhythm": "@hourly",
        "Next at": to_text(schedule.next_at),
        "Last at": "-",
        "Last job": "-",
        "Misfire": "all, at most 100",
        "Overlap": "allow",
        "Created at": to_text(schedule.created_at),
        "Updated at": to_text(schedule.updated_at),
    }
    assert '\n  Options:\n    {\n      "priority": 2\n    }\n' in result.stdout
    following = result.stdout.partition("  Next times:\n")[2].split()
    assert following == [
        to_text(schedule.next_at + timedelta(hours=number)) for number in range(10)
    ]


def test_json_shows_the_facts_and_the_next_ten_times(cli: Cli, nightly: Queue) -> None:
    shown = json.loads(cli("schedules", "show", "nightly", "--json").stdout)
    following = shown.pop("next")
    assert shown == nightly.schedules.get("nightly").to_dict()
    assert following[0] == shown["next_at"]
    assert len({datetime.fromisoformat(each) for each in following}) == 10


def test_the_next_times_of_a_paused_schedule_come_once_it_is_resumed(
    cli: Cli, nightly: Queue
) -> None:
    nightly.schedules.pause("nightly")
    result = cli("schedules", "show", "nightly")
    assert facts(result)["Next at"] == "paused"
    assert "  Next times, once it is resumed:\n" in result.stdout


# pause, resume, remove, run


def test_a_schedule_is_paused_and_resumed(cli: Cli, nightly: Queue) -> None:
    result = cli("schedules", "pause", "nightly")
    assert (result.exit_code, result.stdout) == (0, "  Paused schedule nightly.\n")
    assert nightly.schedules.get("nightly").is_paused
    result = cli("schedules", "resume", "nightly")
    schedule = nightly.schedules.get("nightly")
    assert result.stdout == f"  Resumed schedule nightly, next at {to_text(schedule.next_at)}.\n"
    assert not schedule.is_paused


def test_a_schedule_is_removed(cli: Cli, nightly: Queue) -> None:
    result = cli("schedules", "remove", "nightly")
    assert (result.exit_code, result.stdout) == (0, "  Removed schedule nightly.\n")
    assert nightly.schedules.list() == []


def test_a_job_of_a_schedule_is_run_now(cli: Cli, nightly: Queue) -> None:
    before = nightly.schedules.get("nightly")
    result = cli("schedules", "run", "nightly")
    assert (result.exit_code, result.stdout) == (0, "  Job enqueued: id=1, shard=0\n")
    handle: Any = json.loads(cli("schedules", "run", "nightly", "--json").stdout)
    assert nightly.get_job(handle).task == "reports.send"
    assert nightly.schedules.get("nightly") == before


@commands_with_a_name
def test_an_unknown_name_is_not_found(cli: Cli, queue: Queue, command: str) -> None:
    result = cli("schedules", command, "weekly")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "there is no schedule 'weekly'; `queue-max schedules list` shows all" in result.stderr


@commands_with_a_name
def test_where_there_is_no_queue_none_is_made(cli: Cli, data_dir: Path, command: str) -> None:
    assert cli("schedules", command, "nightly").exit_code == 4
    assert not data_dir.exists()
