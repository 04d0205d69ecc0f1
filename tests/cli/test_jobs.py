import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from queue_max import Job, Queue

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]


@pytest.fixture
def queue(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A queue of two shards, which the command line finds too."""
    monkeypatch.setenv("NUM_SHARDS", "2")
    return make_queue(shards=2)


def fail_next(queue: Queue) -> None:
    job = queue.pop_job("w")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, "it broke", permanent=True)


def rows(result: Result) -> list[list[str]]:
    """Read the cells of a table, payload and error being one."""
    return [line.split(maxsplit=6) for line in result.stdout.splitlines()[2:]]


# enqueue


def test_a_job_is_stored_and_its_id_is_told(cli: Cli, queue: Queue) -> None:
    result = cli("enqueue", "--payload", '{"n": 1}', "--pagina-id", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "  Job enqueued: id=1, shard=1\n"
    assert queue.list_jobs()[0].payload == {"n": 1}


def test_the_id_can_be_had_as_one_line_of_json(cli: Cli, queue: Queue) -> None:
    result = cli("enqueue", "--payload", "{}", "--pagina-id", 0, "--json")
    assert result.stdout == '{"id": 1, "shard_id": 0}\n'


def test_all_options_of_a_job_are_passed_on(cli: Cli, queue: Queue) -> None:
    cli("enqueue", "--payload", "{}", "--priority", 2, "--pagina-id", 7, "--max-retries", 0)
    (job,) = queue.list_jobs()
    assert (job.priority_int, job.pagina_id, job.max_attempts) == (2, 7, 1)


def test_a_job_can_be_of_a_task_and_under_limits(cli: Cli, queue: Queue) -> None:
    keys = ["--concurrency-key", "c", "--rate-key", "r", "--breaker", "b"]
    cli("enqueue", "--payload", '{"args": [1]}', "--queue", "mail", "--task", "app.send", *keys)
    (job,) = queue.list_jobs()
    assert (job.queue, job.task) == ("mail", "app.send")
    assert (job.concurrency_key, job.rate_key, job.breaker) == ("c", "r", "b")


@pytest.mark.parametrize("when", [("--delay", 60), ("--run-at", "2999-01-01T00:00:00Z")])
def test_a_job_can_wait_and_be_unique(cli: Cli, queue: Queue, when: tuple[str, object]) -> None:
    first = cli("enqueue", "--payload", "{}", *when, "--unique-key", "u")
    assert cli("enqueue", "--payload", "{}", "--unique-key", "u").stdout == first.stdout
    (job,) = queue.list_jobs()
    assert job.status_str == "scheduled"


@pytest.mark.parametrize("option", [("--run-at", "tomorrow"), ("--delay", -1), ("--queue", "")])
def test_a_bad_option_of_a_job_is_told_in_one_line(
    cli: Cli, queue: Queue, option: tuple[str, object]
) -> None:
    result = cli("enqueue", "--payload", "{}", *option)
    assert result.exit_code != 0
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert queue.get_pending_count() == 0


def test_what_one_job_is_to_have_goes_not_with_a_file(
    cli: Cli, queue: Queue, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"payload": {}}\n')
    result = cli("enqueue", "--file", path, "--queue", "mail", "--unique-key", "u")
    assert result.exit_code == 2
    assert "With --file each job says this by itself: --queue, --unique-key." in result.stderr
    assert queue.get_pending_count() == 0


def test_enqueue_makes_the_queue_where_there_is_none(cli: Cli, data_dir: Path) -> None:
    assert cli("enqueue", "--payload", "{}").exit_code == 0
    assert sorted(path.name for path in data_dir.glob("*.db")) == ["control.db", "shard_0.db"]


def test_a_full_queue_is_told_in_one_line(
    cli: Cli, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_MAX_MAX_PENDING", "1")
    assert cli("enqueue", "--payload", "{}").exit_code == 0
    result = cli("enqueue", "--payload", "{}")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: the queue is full: max_pending is 1, and ")
    assert result.stderr.count("\n") == 1
    assert queue.get_pending_count() == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--payload", '{"a": '], "--payload: not JSON"),
        (["--payload", "[1]"], "--payload: should be a JSON object"),
        (["--payload", "null"], "--payload: should be a JSON object"),
        (["--payload", '{"a": NaN}'], "payload['a']"),
        (["--payload", "[" * 100_000], "--payload: not JSON"),
        (["--payload", "{}", "--priority", "3"], "--priority"),
        (["--payload", "{}", "--pagina-id", "abc"], "--pagina-id"),
        (["--payload", "{}", "--pagina-id", str(2**70)], "pagina_id="),
        (["--payload", "{}", "--max-retries", "-1"], "max_retries=-1"),
        (["--payload", "{}", "--max-retries", str(2**70)], "max_retries="),
        ([], "--payload or --file"),
        (["--payload", "{}", "--file", __file__], "--payload or --file"),
        (["--file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--payload", "{}", "--colour"], "--colour"),
    ],
)
def test_what_cannot_be_stored_is_a_usage_error_that_names_it(
    cli: Cli, queue: Queue, options: list[str], named: str
) -> None:
    result = cli("enqueue", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
    assert queue.list_jobs() == []


def test_a_file_of_jobs_is_stored(cli: Cli, queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"payload": {"n": 1}}\n{"payload": {"n": 2}}\n')
    assert cli("enqueue", "--file", path).stdout == "  Jobs enqueued: 2\n"
    assert json.loads(cli("enqueue", "--file", path, "--json").stdout) == {"total": 2}
    assert queue.get_pending_count() == 4


def test_a_csv_file_is_stored(cli: Cli, queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "jobs.txt"
    path.write_text("name\nana\nbo\n")
    assert cli("enqueue", "--file", path, "--format", "csv").exit_code == 0
    assert {job.payload["name"] for job in queue.list_jobs()} == {"ana", "bo"}


@pytest.mark.parametrize("name", ["jobs.csv", "JOBS.CSV"])
def test_the_name_of_a_file_tells_that_it_is_csv(
    cli: Cli, queue: Queue, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("name\nana\n")
    assert cli("enqueue", "--file", tmp_path / name).exit_code == 0
    assert queue.list_jobs()[0].payload == {"name": "ana"}


@pytest.mark.parametrize("name", ["jobs.csv", "jobs", "jobs.txt"])
def test_a_format_that_is_named_counts_more_than_the_name_of_the_file(
    cli: Cli, queue: Queue, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text('{"payload": {"n": 1}}\n')
    assert cli("enqueue", "--file", tmp_path / name, "--format", "jsonl").exit_code == 0
    assert queue.list_jobs()[0].payload == {"n": 1}


@pytest.mark.parametrize(
    "content", [b'{"payload": {}}\n{"payload"\n', b'{"payload": {}}\n[1]\n', b"\xff\xfe{}\n"]
)
def test_nothing_is_taken_of_a_bad_file(
    cli: Cli, queue: Queue, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(content)
    result = cli("enqueue", "--file", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "line 2" in result.stderr or "not UTF-8" in result.stderr
    assert queue.list_jobs() == []


# list


@pytest.fixture
def listed_queue(queue: Queue) -> Queue:
    """Job 1 of shard 0 failed, 2 runs, 3 waits for another attempt, 4 is pending."""
    queue.enqueue_batch([{"payload": {"n": n}, "pagina_id": 0} for n in range(1, 5)])
    fail_next(queue)
    running, failing = queue.pop_job("w"), queue.pop_job("w")
    assert running is not None
    assert failing is not None
    queue.fail_job(failing.id, 0, "it broke")
    return queue


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], ["1"]),
        (["--status", "failed"], ["1"]),
        (["--status", "processing"], ["2"]),
        (["--status", "pending"], ["4", "3"]),
        (["--status", "scheduled"], ["3"]),
        (["--status", "all"], ["4", "3", "2", "1"]),
        (["--status", "all", "--limit", "2"], ["4", "3"]),
        (["--status", "all", "--shard", "0", "--limit", "1"], ["4"]),
    ],
)
def test_jobs_are_listed_by_state(
    cli: Cli, listed_queue: Queue, options: list[str], ids: list[str]
) -> None:
    result = cli("list", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [row[1] for row in rows(result)] == ids


def test_the_table_tells_what_a_job_is(cli: Cli, listed_queue: Queue) -> None:
    header, _line, row = cli("list").stdout.splitlines()
    names = ["Key", "ID", "Shard", "Status", "Priority", "Attempts", "Payload", "Error"]
    assert header.split() == names
    told = ["0-1", "1", "0", "failed", "0", "1/4", '{"n": 1}  Error: it broke']
    assert row.split(maxsplit=6) == told
    assert cli("show", "0-1").exit_code == 0


def test_the_table_tells_how_many_attempts_were_made(cli: Cli, queue: Queue) -> None:
    queue.enqueue({}, max_retries=1)
    queue.pop_job("w")
    queue.enqueue({}, max_retries=0)
    assert {row[5] for row in rows(cli("list", "--status", "all"))} == {"0/1", "1/2"}


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyError("name"), "KeyError: 'name'"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError(), "ValueError"),
        (ValueError("\x1b[31mred\t\x9b"), r"ValueError: \x1b[31mred\t\x9b"),
        (ValueError("[red]x[/red]"), "ValueError: [red]x[/red]"),
        (ValueError("x" * 500), f"ValueError: {'x' * 47}…"),
    ],
)
def test_the_table_tells_why_a_job_failed_in_one_line(
    cli: Cli, queue: Queue, error: Exception, shown: str
) -> None:
    queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, error, permanent=True)
    (row,) = rows(cli("list"))
    assert row[6] == f"{{}}       {shown}"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("failed", "No jobs with status 'failed'."),
        ("completed", "No jobs with status 'completed'."),
        ("cancelled", "No jobs with status 'cancelled'."),
        ("all", "No jobs."),
    ],
)
def test_an_empty_list_is_told_in_words(cli: Cli, queue: Queue, status: str, words: str) -> None:
    result = cli("list", "--status", status)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"  {words}\n"
    assert json.loads(cli("list", "--status", status, "--json").stdout) == []


def test_json_gives_jobs_as_dicts_with_whole_payloads(cli: Cli, queue: Queue) -> None:
    payload = {"text": "ü" * 500, "deep": {"list": [1, None, True]}}
    queue.enqueue(payload, pagina_id=1)
    fail_next(queue)
    (found,) = json.loads(cli("list", "--json").stdout)
    assert list(found) == list(Job(1, {}).to_dict())
    assert found["payload"] == payload
    assert (found["status"], found["tentativas"], found["shard_id"]) == ("failed", 1, 1)


def test_the_table_shows_no_more_than_the_beginning_of_a_long_payload(
    cli: Cli, queue: Queue
) -> None:
    queue.enqueue({"text": "x" * 500})
    (row,) = rows(cli("list", "--status", "pending"))
    assert row[6].startswith('{"text": "xxx')
    assert row[6].endswith("…")
    assert len(row[6]) < 100


def test_the_limit_holds_over_all_shards(cli: Cli, queue: Queue) -> None:
    queue.enqueue_batch([{"payload": {}, "pagina_id": n} for n in range(120)])
    assert len(rows(cli("list", "--status", "pending"))) == 50
    assert len(json.loads(cli("list", "--status", "all", "--limit", 1, "--json").stdout)) == 1


def test_a_payload_that_no_terminal_can_show_is_listed_all_the_same(
    run: Callable[..., Any], queue: Queue
) -> None:
    queue.enqueue({"text": "\ud800"})
    table, as_json = (run("list", "--status", "pending", *rest) for rest in ([], ["--json"]))
    assert (table.returncode, table.stderr) == (0, "")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    assert json.loads(as_json.stdout)[0]["payload"] == {"text": "\ud800"}


def test_payloads_are_listed_whatever_the_encoding_of_stdout(
    run: Callable[..., Any], queue: Queue
) -> None:
    queue.enqueue({"text": "漢" * 100})
    for rest in ([], ["--json"]):
        listed = run("list", "--status", "pending", *rest, PYTHONIOENCODING="ascii")
        assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--status", "lost"], 2),
        (["--limit", "0"], 2),
        (["--limit", "-1"], 2),
        (["--limit", str(2**70)], 2),
        (["--limit", "many"], 2),
        (["--shard", "9"], 4),
    ],
)
def test_what_cannot_be_listed_is_an_error(
    cli: Cli, queue: Queue, options: list[str], code: int
) -> None:
    result = cli("list", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "Error: " in result.stderr


# show


def facts(result: Result) -> dict[str, str]:
    """Read the table of facts by their names."""
    table = result.stdout.split("\n\n")[0].splitlines()
    return dict(re.split(r"  +", line.strip(), maxsplit=1) for line in table[2:])


@pytest.fixture
def tried_twice(queue: Queue) -> str:
    """The key of a job in shard 1 that failed once, and runs again."""
    handle = queue.enqueue({"n": 1, "text": "ü"}, 1, 2, 4, retry_delay=0)
    job = queue.pop_job("ada")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, raised("no route\nto host"))
    job = queue.pop_job("bo")
    assert job is not None
    queue.update_progress(job.id, job.shard_id, 12.5)
    return handle.key


def raised(message: str) -> ValueError:
    """Give an error that has a traceback."""
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_all_that_is_known_of_a_job_is_shown(cli: Cli, queue: Queue, tried_twice: str) -> None:
    result = cli("show", tried_twice)
    assert (result.exit_code, result.stderr) == (0, "")
    job = queue.get_job(tried_twice)
    assert facts(result) == {
        "Key": tried_twice,
        "Shard": "1",
        "Job ID": "1",
        "Status": "processing",
        "Queue": "default",
        "Task": "-",
        "Pagina ID": "1",
        "Priority": "2",
        "Attempts": "2/5",
        "Concurrency key": "-",
        "Rate key": "-",
        "Breaker": "-",
        "Held by": "-",
        "Worker": "bo",
        "Created at": job.created_at,
        "Due at": job.next_retry_at or "-",
        "Started at": job.started_at,
        "Heartbeat at": job.heartbeat,
        "Ended at": "-",
        "Progress": "12.5 %",
        "Error type": "ValueError",
    }
    assert '\n\n  Payload:\n    {\n      "n": 1,\n      "text": "ü"\n    }\n' in result.stdout
    assert "\n\n  Error:\n    no route\n    to host\n" in result.stdout
    assert "\n\n  Traceback:\n    Traceback (most recent call last):\n" in result.stdout


def test_its_failed_attempts_are_shown_each_in_a_line(
    cli: Cli, queue: Queue, tried_twice: str
) -> None:
    header, _line, row = cli("show", tried_twice).stdout.split("\n\n")[-1].splitlines()
    (attempt,) = queue.get_attempts(tried_twice)
    assert header.split() == ["Attempt", "Worker", "Started", "Ended", "Error"]
    moments = [attempt.started_at, attempt.ended_at]
    assert row.split(maxsplit=4) == ["1", "ada", *moments, "ValueError: no route"]


def test_the_tracebacks_of_its_attempts_are_shown_when_they_are_asked_for(
    cli: Cli, tried_twice: str
) -> None:
    assert "Traceback of attempt" not in cli("show", tried_twice).stdout
    assert "  Traceback of attempt 1, ended " in cli("show", tried_twice, "--traceback").stdout


def test_json_shows_the_facts_of_a_job_and_its_attempts(
    cli: Cli, queue: Queue, tried_twice: str
) -> None:
    shown = json.loads(cli("show", tried_twice, "--json").stdout)
    job = queue.get_job(tried_twice)
    assert shown == job.to_dict() | {
        "key": tried_twice,
        "queue": "default",
        "task": None,
        "concurrency_key": None,
        "rate_key": None,
        "breaker": None,
        "held_by": None,
        "fence": 2,
        "retry_policy": None,
        "keep_result": None,
        "attempts": [attempt.to_dict() for attempt in queue.get_attempts(tried_twice)],
    }
    assert (shown["status"], shown["progress"]) == ("processing", 12.5)


def test_what_may_hold_a_job_back_is_shown(cli: Cli, queue: Queue) -> None:
    options = {"concurrency_key": "ada", "rate_key": "token-7", "breaker": "stripe"}
    queue.enqueue({}, task="shop.pay", **options)
    key = queue.enqueue({}, task="shop.pay", **options).key
    named = facts(cli("show", key))
    assert named["Task"] == "shop.pay"
    assert [named[name] for name in ("Concurrency key", "Rate key", "Breaker")] == [
        *("ada", "token-7", "stripe")
    ]
    assert named["Held by"] == "others of the concurrency key ada"
    told = json.loads(cli("show", key, "--json").stdout)
    assert options.items() <= told.items()
    assert (told["task"], told["held_by"]) == ("shop.pay", "key:ada")


@pytest.mark.parametrize(
    ("result", "block"), [({"sum": 3}, '{\n      "sum": 3\n    }'), (None, "null")]
)
def test_the_result_of_a_job_is_shown_where_it_is_kept(
    cli: Cli, queue: Queue, result: object, block: str
) -> None:
    key = queue.enqueue({}, keep_result=600).key
    assert "result" not in json.loads(cli("show", key, "--json").stdout)
    job = queue.pop_job("w")
    assert job is not None
    queue.complete_job(job.id, job.shard_id, result=result)
    shown = cli("show", key)
    assert (facts(shown)["Status"], facts(shown)["Progress"]) == ("completed", "100 %")
    assert f"\n\n  Result:\n    {block}\n" in shown.stdout
    assert json.loads(cli("show", key, "--json").stdout)["result"] == result


def test_a_job_that_waits_and_never_failed_has_no_error_and_no_attempts(
    cli: Cli, queue: Queue
) -> None:
    result = cli("show", queue.enqueue({}).key)
    assert (facts(result)["Status"], facts(result)["Attempts"]) == ("pending", "0/4")
    assert re.findall(r"^  (\w+):$", result.stdout, re.MULTILINE) == ["Payload"]


def test_of_a_job_that_failed_for_good_it_is_told_where_its_dead_letter_is_shown(
    cli: Cli, queue: Queue
) -> None:
    key = queue.enqueue({}).key
    fail_next(queue)
    result = cli("show", key)
    assert facts(result)["Status"] == "failed"
    assert result.stderr.endswith(f"`queue-max dlq show {key}`\n")
    assert cli("show", key, "--json").stderr == ""


def test_a_job_is_named_by_shard_and_id_too(cli: Cli, tried_twice: str) -> None:
    assert facts(cli("show", "1-1"))["Key"] == tried_twice


# cancel


@pytest.mark.parametrize(("delay", "status"), [(0, "pending"), (60, "scheduled")])
def test_a_job_that_waits_is_cancelled(cli: Cli, queue: Queue, delay: float, status: str) -> None:
    key = queue.enqueue({}, delay=delay).key
    assert queue.get_job(key).status == status
    result = cli("cancel", key)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"  Cancelled job {key}, which was waiting.\n"
    assert queue.get_job(key).is_cancelled


def test_of_a_job_that_runs_it_is_told_that_its_function_is_not_interrupted(
    cli: Cli, queue: Queue
) -> None:
    key = queue.enqueue({}).key
    queue.pop_job("w")
    result = cli("cancel", key)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (f"  Cancelled job {key}, which was running: its worker ends it.\n")
    assert queue.get_job(key).is_cancelled


def test_a_job_that_has_ended_is_not_cancelled(cli: Cli, queue: Queue) -> None:
    key = queue.enqueue({}).key
    fail_next(queue)
    result = cli("cancel", key)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: Job {key} has ended already.\n"
    assert queue.get_job(key).is_failed


def test_a_job_to_cancel_is_named_by_shard_and_id_too(cli: Cli, queue: Queue) -> None:
    handle = queue.enqueue({}, pagina_id=1)
    assert cli("cancel", "1-1").exit_code == 0
    assert queue.get_job(handle).is_cancelled


# retry


@pytest.fixture
def failed_queue(queue: Queue) -> Queue:
    """A queue with one failed job in shard 0 and two in shard 1."""
    queue.enqueue_batch([{"payload": {}, "pagina_id": n} for n in (0, 1, 1)])
    for _ in range(3):
        fail_next(queue)
    return queue


def test_all_failed_jobs_are_retried(cli: Cli, failed_queue: Queue) -> None:
    result = cli("retry")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "  Retried 3 job(s) across all shards.\n"
    assert failed_queue.get_pending_count() == 3


def test_the_failed_jobs_of_a_shard_are_retried(cli: Cli, failed_queue: Queue) -> None:
    assert cli("retry", "--shard", 1).stdout == "  Retried 2 job(s) in shard 1.\n"
    assert cli("retry", "--shard", 0).stdout == "  Retried 1 job(s) in shard 0.\n"


def test_one_failed_job_is_retried(cli: Cli, failed_queue: Queue) -> None:
    result = cli("retry", "--shard", 1, "--job-id", 2)
    assert (result.exit_code, result.stdout) == (0, "  Retried job 2 in shard 1.\n")
    assert [(job.shard_id, job.id) for job in failed_queue.get_failed_jobs()] == [(1, 1), (0, 1)]


@pytest.mark.parametrize("job_id", ["2", "9999", "-1", str(2**70)])
def test_a_job_that_has_not_failed_is_not_found(cli: Cli, failed_queue: Queue, job_id: str) -> None:
    result = cli("retry", "--shard", 0, "--job-id", job_id)
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"Job {job_id} not found or not in 'failed' status in shard 0." in result.stderr
    assert failed_queue.get_pending_count() == 0


def test_a_job_id_needs_its_shard(cli: Cli, failed_queue: Queue) -> None:
    result = cli("retry", "--job-id", 1)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--job-id needs --shard" in result.stderr


def test_nothing_is_retried_in_a_shard_that_does_not_exist(cli: Cli, failed_queue: Queue) -> None:
    assert cli("retry", "--shard", 9).exit_code == 4


# purge


@pytest.fixture
def asked_days(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Note the days that are asked for, and find two jobs to delete."""
    asked: list[float | None] = []

    def clean_up(_: Queue, days: float | None = None) -> int:
        asked.append(days)
        return 2

    monkeypatch.setattr(Queue, "cleanup_old_jobs", clean_up)
    return asked


@pytest.mark.parametrize(("options", "days"), [([], None), (["--days", "3"], 3.0)])
def test_old_jobs_are_purged(
    cli: Cli, asked_days: list[float | None], options: list[str], days: float | None
) -> None:
    result = cli("purge", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "  Removed 2 old job(s).\n"
    assert asked_days == [days]


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "1e9", "week"])
def test_days_out_of_range_are_a_usage_error(cli: Cli, queue: Queue, days: str) -> None:
    result = cli("purge", "--days", days)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "days" in result.stderr


# all of them


@pytest.mark.parametrize("command", ["show", "cancel"])
@pytest.mark.parametrize("key", ["0-9999", "0-0198c0de-0000-7000-8000-000000000000", "9-1"])
def test_a_job_that_does_not_exist_is_not_found(
    cli: Cli, queue: Queue, command: str, key: str
) -> None:
    result = cli(command, key)
    assert (result.exit_code, result.stdout) == (4, "")
    assert re.fullmatch("Error: .+\n", result.stderr)


@pytest.mark.parametrize("command", ["show", "cancel"])
@pytest.mark.parametrize("key", ["", "17", "a-1"])
def test_what_is_no_key_is_a_usage_error_that_names_it(
    cli: Cli, queue: Queue, command: str, key: str
) -> None:
    result = cli(command, key)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"job={key!r}: should be a key" in result.stderr


@pytest.mark.parametrize(
    "command", [["list"], ["show", "0-1"], ["cancel", "0-1"], ["retry"], ["purge"]]
)
def test_only_enqueue_makes_a_queue(cli: Cli, data_dir: Path, command: list[str]) -> None:
    result = cli(*command)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "there is no queue" in result.stderr
    assert not data_dir.exists()


def test_a_file_that_cannot_be_read_twice_is_refused(
    cli: Cli, queue: Queue, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in cli("enqueue", "--file", pipe).stderr
