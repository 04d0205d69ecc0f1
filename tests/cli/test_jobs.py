import json
import os
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
    return [line.split(maxsplit=5) for line in result.stdout.splitlines()[2:]]


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


def test_enqueue_makes_the_queue_where_there_is_none(cli: Cli, data_dir: Path) -> None:
    assert cli("enqueue", "--payload", "{}").exit_code == 0
    assert sorted(path.name for path in data_dir.glob("*.db")) == ["control.db", "shard_0.db"]


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
    assert [row[0] for row in rows(result)] == ids


def test_the_table_tells_what_a_job_is(cli: Cli, listed_queue: Queue) -> None:
    header, _line, row = cli("list").stdout.splitlines()
    assert header.split() == ["ID", "Shard", "Status", "Priority", "Attempts", "Payload", "Error"]
    assert row.split(maxsplit=5) == ["1", "0", "failed", "0", "1/4", '{"n": 1}  Error: it broke']


def test_the_table_tells_how_many_attempts_were_made(cli: Cli, queue: Queue) -> None:
    queue.enqueue({}, max_retries=1)
    queue.pop_job("w")
    queue.enqueue({}, max_retries=0)
    assert {row[4] for row in rows(cli("list", "--status", "all"))} == {"0/1", "1/2"}


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
    assert row[5] == f"{{}}       {shown}"


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
    assert row[5].startswith('{"text": "xxx')
    assert row[5].endswith("…")
    assert len(row[5]) < 100


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


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_payloads_are_listed_whatever_the_encoding_of_stdout(
    run: Callable[..., Any], queue: Queue, encoding: str
) -> None:
    queue.enqueue({"text": "漢" * 100})
    for rest in ([], ["--json"]):
        listed = run("list", "--status", "pending", *rest, PYTHONIOENCODING=encoding)
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


@pytest.mark.parametrize("command", ["list", "retry", "purge"])
def test_only_enqueue_makes_a_queue(cli: Cli, data_dir: Path, command: str) -> None:
    result = cli(command)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "there is no queue" in result.stderr
    assert not data_dir.exists()


def test_a_file_that_cannot_be_read_twice_is_refused(
    cli: Cli, queue: Queue, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in cli("enqueue", "--file", pipe).stderr
