import errno
import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from queue_max import Queue
from queue_max.cli import output
from queue_max.cli.main import commands
from queue_max.storage import driver

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

LONG_AGO, LONG_HENCE = "2001-01-01", "2999-01-01T00:00:00Z"


@pytest.fixture
def queue(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A queue of two shards, which the command line finds too."""
    monkeypatch.setenv("NUM_SHARDS", "2")
    return make_queue(shards=2)


def bury(
    queue: Queue, error: BaseException | str = "it broke", shard_id: int = 0, **payload: Any
) -> str:
    """Store a job that fails for good; gives its key."""
    handle = queue.enqueue(payload, pagina_id=shard_id)
    job = queue.pop_job("w")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, error, permanent=True)
    return handle.key


def raised(message: str) -> ValueError:
    """Give an error that has a traceback."""
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def damage_payloads(data_dir: Path, payload: str) -> None:
    with driver.choose().module.connect(data_dir / "shard_0.db") as connection:
        connection.execute("UPDATE dead_letter_queue SET payload = ?", [payload])
    connection.close()


def keys(queue: Queue) -> list[str]:
    return [letter.key for letter in queue.dead_letters.list()]


@pytest.fixture
def buried(queue: Queue) -> dict[str, str]:
    """Two dead letters in shard 0, of a ValueError and a KeyError, and one in shard 1."""
    return {
        "first": bury(queue, ValueError("no"), n=1),
        "second": bury(queue, KeyError("name"), n=2),
        "other shard": bury(queue, ValueError("no"), shard_id=1, n=3),
    }


every_filter = pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([], {"first", "second", "other shard"}),
        (["--shard", "0"], {"first", "second"}),
        (["--error-type", "ValueError"], {"first", "other shard"}),
        (["--error-type", "ValueError", "--shard", "1"], {"other shard"}),
        (["--error-type", "LostError"], set()),
        (["--before", LONG_AGO], set()),
        (["--before", LONG_HENCE], {"first", "second", "other shard"}),
    ],
)

bad_filter = pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--shard", "9"], 4, "shard 9: does not exist"),
        (["--shard", "one"], 2, "--shard"),
        (["--before", "yesterday"], 2, "before='yesterday'"),
        (["--before", ""], 2, "before=''"),
    ],
)

commands_with_a_key = pytest.mark.parametrize("command", ["show", "requeue", "discard"])


# list


def test_a_table_tells_what_failed_when_and_why(cli: Cli, queue: Queue) -> None:
    key = bury(queue, ValueError("first line\nsecond line"))
    result = cli("dlq", "list")
    assert (result.exit_code, result.stderr) == (0, "")
    header, _line, row = result.stdout.splitlines()
    assert header.split() == ["Key", "Failed", "at", "Error", "Reason"]
    (letter,) = queue.dead_letters.list()
    assert row.split(maxsplit=2)[:2] == [key, letter.failed_at]
    assert row.split(maxsplit=2)[2] == f"ValueError: first line  {letter.reason}"


def test_dead_letters_are_listed_newest_first(
    cli: Cli, queue: Queue, buried: dict[str, str]
) -> None:
    listed = [line.split()[0] for line in cli("dlq", "list").stdout.splitlines()[2:]]
    assert listed == [letter.key for letter in queue.dead_letters.list()]
    assert set(listed) == set(buried.values())


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError(), "ValueError  "),
        (ValueError("\x1b[31mred\t\x9b"), r"ValueError: \x1b[31mred\t\x9b  "),
        (ValueError("x" * 500), f"ValueError: {'x' * 47}…  "),
    ],
)
def test_the_table_tells_an_error_in_one_line(
    cli: Cli, queue: Queue, error: Exception, shown: str
) -> None:
    bury(queue, error)
    assert shown in cli("dlq", "list").stdout.splitlines()[2]


@every_filter
def test_options_choose_what_is_listed(
    cli: Cli, buried: dict[str, str], options: list[str], chosen: set[str]
) -> None:
    listed = json.loads(cli("dlq", "list", "--json", *options).stdout)
    assert {letter["key"] for letter in listed} == {buried[name] for name in chosen}


def test_the_limit_of_a_list_holds_over_all_shards(cli: Cli, buried: dict[str, str]) -> None:
    listed = json.loads(cli("dlq", "list", "--limit", 2, "--json").stdout)
    assert len(listed) == 2


def test_json_lists_the_facts_of_each_but_not_its_attempts_which_are_not_read(
    cli: Cli, queue: Queue
) -> None:
    bury(queue, n=1)
    (found,) = json.loads(cli("dlq", "list", "--json").stdout)
    (letter,) = queue.dead_letters.list()
    facts = letter.to_dict()
    del facts["attempts"]
    assert found == facts
    assert found["payload"] == '{"n":1}'


def test_no_dead_letters_are_told_in_words(cli: Cli, queue: Queue) -> None:
    result = cli("dlq", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "  No dead letters.\n")
    assert json.loads(cli("dlq", "list", "--json").stdout) == []


@bad_filter
def test_what_cannot_be_chosen_by_is_an_error(
    cli: Cli, buried: dict[str, str], options: list[str], code: int, named: str
) -> None:
    for command in (["list"], ["requeue", "--all"], ["discard", "--all"]):
        result = cli("dlq", *command, *options)
        assert (result.exit_code, result.stdout) == (code, "")
        assert named in result.stderr


@pytest.mark.parametrize("limit", ["0", "-1", "many", str(2**70)])
def test_a_bad_limit_is_a_usage_error(cli: Cli, queue: Queue, limit: str) -> None:
    result = cli("dlq", "list", "--limit", limit)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "limit" in result.stderr


def test_a_narrow_terminal_is_shown_whole_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    key = "0-0198c0de-0000-7000-8000-000000000000"
    output.table(("Key", "Failed at", "Error"), [(key, "2026-01-31T08:00:00.000Z", "word " * 12)])
    shown = capsys.readouterr().out
    assert "│" in shown
    assert key in shown


# show


@pytest.fixture
def twice_failed(queue: Queue) -> str:
    """The key of a job that failed twice, for different reasons."""
    handle = queue.enqueue({"n": 1, "text": "ü"}, pagina_id=0, retry_delay=0)
    for worker, message in (("ada", "disk full"), ("bo", "no route\nto host")):
        job = queue.pop_job(worker)
        assert job is not None
        queue.fail_job(job.id, job.shard_id, raised(message), permanent=worker == "bo")
    return handle.key


def blocks(result: Result) -> dict[str, str]:
    """Read what is shown as texts by their titles."""
    found: dict[str, str] = {}
    for part in result.stdout.split("\n\n"):
        title, _, text = part.strip("\n").partition("\n")
        found[title.strip().rstrip(":")] = "\n".join(line[4:] for line in text.splitlines())
    return found


def test_all_that_is_known_of_a_job_is_shown(cli: Cli, queue: Queue, twice_failed: str) -> None:
    result = cli("dlq", "show", twice_failed)
    assert (result.exit_code, result.stderr) == (0, "")
    letter = queue.dead_letters.get(twice_failed)
    facts = dict(line.strip().split("  ", 1) for line in result.stdout.splitlines()[2:8])
    assert {name: value.strip() for name, value in facts.items()} == {
        "Key": twice_failed,
        "Shard": "0",
        "Job ID": "1",
        "Failed at": letter.failed_at,
        "Reason": letter.reason,
        "Error type": "ValueError",
    }
    shown = blocks(result)
    assert shown["Payload"] == '{\n  "n": 1,\n  "text": "ü"\n}'
    assert shown["Error"] == "no route\nto host"
    assert shown["Traceback"].startswith("Traceback (most recent call last):\n  File ")
    assert shown["Traceback"].endswith("ValueError: no route\nto host")


def test_each_attempt_is_shown_in_a_line(cli: Cli, queue: Queue, twice_failed: str) -> None:
    shown = cli("dlq", "show", twice_failed).stdout
    header, _line, *rows = shown.split("\n\n")[-1].splitlines()
    assert header.split() == ["Attempt", "Worker", "Started", "Ended", "Error"]
    first, second = queue.dead_letters.get(twice_failed).attempts
    assert [row.split(maxsplit=4) for row in rows] == [
        ["1", "ada", first.started_at, first.ended_at, "ValueError: disk full"],
        ["2", "bo", second.started_at, second.ended_at, "ValueError: no route"],
    ]


def test_the_tracebacks_of_all_attempts_are_shown_when_they_are_asked_for(
    cli: Cli, twice_failed: str
) -> None:
    assert "Traceback of attempt" not in cli("dlq", "show", twice_failed).stdout
    shown = blocks(cli("dlq", "show", twice_failed, "--traceback"))
    first, second = (text for title, text in shown.items() if "of attempt" in title)
    assert first.endswith("ValueError: disk full")
    assert second.endswith("ValueError: no route\nto host")


def test_a_letter_without_traceback_shows_none(cli: Cli, queue: Queue) -> None:
    assert "Traceback" not in cli("dlq", "show", bury(queue), "--traceback").stdout


def test_json_shows_all_facts_and_attempts(cli: Cli, queue: Queue, twice_failed: str) -> None:
    shown = json.loads(cli("dlq", "show", twice_failed, "--json").stdout)
    assert shown == queue.dead_letters.get(twice_failed).to_dict()
    assert [attempt["number"] for attempt in shown["attempts"]] == [1, 2]


def test_a_job_is_also_named_by_shard_and_id(cli: Cli, queue: Queue) -> None:
    key = bury(queue, shard_id=1)
    assert json.loads(cli("dlq", "show", "1-1", "--json").stdout)["key"] == key


@pytest.mark.parametrize("damaged", ['{"n": ', "[" * 100_000])
def test_a_damaged_payload_is_shown_as_it_is(
    cli: Cli, queue: Queue, data_dir: Path, damaged: str
) -> None:
    key = bury(queue)
    damage_payloads(data_dir, damaged)
    assert f"\n  Payload:\n    {damaged.rstrip()}\n" in cli("dlq", "show", key).stdout


def test_nothing_that_is_shown_steers_a_terminal(cli: Cli, queue: Queue) -> None:
    key = bury(queue, raised("\x1b[31mred\r\x9b"), text="\x9b31m")
    shown = cli("dlq", "show", key, "--traceback").stdout
    assert not {"\x1b", "\r", "\x9b"} & set(shown)
    assert r"\x1b[31mred\r\x9b" in shown


def test_letters_are_shown_whatever_the_encoding_of_stdout(run_anew: Run, queue: Queue) -> None:
    key = bury(queue, "漢" * 100, text="漢\ud800")
    for command in (["list"], ["show", key], ["show", key, "--json"], ["export"]):
        ran = run_anew("dlq", *command, PYTHONIOENCODING="ascii")
        assert (ran.returncode, ran.stderr) == (0, "")


@commands_with_a_key
@pytest.mark.parametrize("key", ["0-9999", "0-0198c0de-0000-7000-8000-000000000000", "9-1"])
def test_a_job_without_dead_letter_is_not_found(
    cli: Cli, buried: dict[str, str], command: str, key: str
) -> None:
    result = cli("dlq", command, key)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "Error: " in result.stderr


def test_a_job_that_lives_has_no_dead_letter(cli: Cli, queue: Queue) -> None:
    key = queue.enqueue({}).key
    result = cli("dlq", "show", key)
    assert result.exit_code == 4
    assert f"job {key} has no dead letter" in result.stderr


@commands_with_a_key
@pytest.mark.parametrize("key", ["", "17", "0_1", "a-1", "0-ü"])
def test_what_is_no_key_is_a_usage_error_that_names_it(
    cli: Cli, buried: dict[str, str], command: str, key: str
) -> None:
    result = cli("dlq", command, key)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"job={key!r}: should be a key" in result.stderr


# requeue


def test_one_job_is_requeued(cli: Cli, queue: Queue, buried: dict[str, str]) -> None:
    result = cli("dlq", "requeue", buried["first"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "  Requeued 1 job(s).\n"
    assert [job.payload for job in queue.list_jobs("pending")] == [{"n": 1}]
    assert set(keys(queue)) == {buried["second"], buried["other shard"]}


def test_a_job_is_requeued_with_another_payload(
    cli: Cli, queue: Queue, buried: dict[str, str]
) -> None:
    assert cli("dlq", "requeue", buried["first"], "--payload", '{"n": 10}').exit_code == 0
    assert [job.payload for job in queue.list_jobs("pending")] == [{"n": 10}]


@every_filter
def test_all_chosen_jobs_are_requeued(
    cli: Cli, queue: Queue, buried: dict[str, str], options: list[str], chosen: set[str]
) -> None:
    result = cli("dlq", "requeue", "--all", *options)
    assert (result.exit_code, result.stdout) == (0, f"  Requeued {len(chosen)} job(s).\n")
    assert set(keys(queue)) == {key for name, key in buried.items() if name not in chosen}
    assert queue.get_pending_count() == len(chosen)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ('{"a": ', "'--payload': not JSON"),
        ("[" * 100_000, "'--payload': not JSON"),
        ("null", "'--payload': should be a JSON object"),
        ("[1]", "'--payload': should be a JSON object"),
        ('{"a": NaN}', "payload['a']"),
    ],
)
def test_a_payload_that_cannot_be_stored_is_a_usage_error_that_names_it(
    cli: Cli, queue: Queue, buried: dict[str, str], payload: str, named: str
) -> None:
    result = cli("dlq", "requeue", buried["first"], "--payload", payload)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
    assert queue.get_pending_count() == 0


def test_a_damaged_payload_needs_another_one(cli: Cli, queue: Queue, data_dir: Path) -> None:
    key = bury(queue)
    damage_payloads(data_dir, "{")
    assert cli("dlq", "requeue", "--all").stdout == "  Requeued 0 job(s).\n"
    refused = cli("dlq", "requeue", key)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "damaged" in refused.stderr
    assert cli("dlq", "requeue", key, "--payload", "{}").exit_code == 0
    assert keys(queue) == []


def test_one_payload_is_not_given_to_many_jobs(
    cli: Cli, queue: Queue, buried: dict[str, str]
) -> None:
    result = cli("dlq", "requeue", "--all", "--payload", "{}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--payload needs KEY" in result.stderr
    assert queue.get_pending_count() == 0


@pytest.mark.parametrize("command", ["requeue", "discard"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "Give either KEY or --all."),
        (["--shard", "0"], "Give either KEY or --all."),
        (["0-1", "--all"], "Give either KEY or --all."),
        (["0-1", "--shard", "0"], "give --all instead"),
        (["0-1", "--error-type", ""], "give --all instead"),
        (["0-1", "--before", LONG_AGO], "give --all instead"),
    ],
)
def test_either_one_job_is_named_or_all_that_options_choose(
    cli: Cli, queue: Queue, buried: dict[str, str], command: str, arguments: list[str], named: str
) -> None:
    result = cli("dlq", command, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
    assert len(keys(queue)) == 3


# discard


def answer(answered: str, *arguments: object) -> Result:
    """Run a command that asks."""
    return CliRunner().invoke(
        commands, [*map(str, arguments)], input=answered, catch_exceptions=False
    )


def test_one_dead_letter_is_discarded_with_its_job_unasked(
    cli: Cli, queue: Queue, buried: dict[str, str]
) -> None:
    result = cli("dlq", "discard", buried["first"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "  Discarded 1 dead letter(s).\n"
    assert set(keys(queue)) == {buried["second"], buried["other shard"]}
    assert sorted(job.payload["n"] for job in queue.list_jobs()) == [2, 3]


@every_filter
def test_all_chosen_dead_letters_are_discarded_with_their_jobs(
    cli: Cli, queue: Queue, buried: dict[str, str], options: list[str], chosen: set[str]
) -> None:
    result = cli("dlq", "discard", "--all", "--yes", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"  Discarded {len(chosen)} dead letter(s).\n"
    assert set(keys(queue)) == {key for name, key in buried.items() if name not in chosen}
    assert len(queue.list_jobs()) == 3 - len(chosen)


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ([], "Delete all dead letters, and their jobs, for good?"),
        (
            ["--shard", "0", "--error-type", "ValueError", "--before", LONG_HENCE],
            f"all dead letters of shard 0 with error type 'ValueError' from before {LONG_HENCE},",
        ),
    ],
)
def test_before_many_are_discarded_it_is_asked_whether_these_are_meant(
    queue: Queue, buried: dict[str, str], options: list[str], meant: str
) -> None:
    result = answer("y\n", "dlq", "discard", "--all", *options)
    assert result.exit_code == 0
    assert meant in result.stderr
    assert result.stdout.endswith("dead letter(s).\n")
    assert len(keys(queue)) < 3


@pytest.mark.parametrize("answered", ["n\n", "\n"])
def test_nothing_is_discarded_unless_the_answer_is_yes(
    queue: Queue, buried: dict[str, str], answered: str
) -> None:
    result = answer(answered, "dlq", "discard", "--all")
    assert result.exit_code == 1
    assert "Nothing was discarded." in result.stderr
    assert len(keys(queue)) == 3


@pytest.mark.parametrize(("stdin", "code"), [("</dev/null", 130), ("<&-", 1)])
def test_nothing_is_discarded_where_nobody_can_answer(
    program: list[str], queue: Queue, buried: dict[str, str], stdin: str, code: int
) -> None:
    command = shlex.join([*program, "dlq", "discard", "--all"])
    ran = subprocess.run(f"{command} {stdin}", shell=True, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert "Traceback" not in ran.stderr
    assert len(keys(queue)) == 3


def test_nothing_is_asked_where_there_is_nothing_to_discard(cli: Cli, queue: Queue) -> None:
    result = cli("dlq", "discard", "--all")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "  Discarded 0 dead letter(s).\n"


# export


def test_letters_are_exported_with_their_attempts_one_a_line(
    cli: Cli, queue: Queue, buried: dict[str, str]
) -> None:
    result = cli("dlq", "export")
    assert (result.exit_code, result.stderr) == (0, "")
    exported = [json.loads(line) for line in result.stdout.splitlines()]
    assert exported == list(queue.dead_letters.export())
    assert [len(letter["attempts"]) for letter in exported] == [1, 1, 1]


def test_one_shard_is_exported(cli: Cli, buried: dict[str, str]) -> None:
    (line,) = cli("dlq", "export", "--shard", 1).stdout.splitlines()
    assert json.loads(line)["key"] == buried["other shard"]


def test_an_export_of_nothing_is_empty(cli: Cli, queue: Queue) -> None:
    result = cli("dlq", "export")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_a_file_of_letters_is_read_by_its_owner_only(
    cli: Cli, queue: Queue, buried: dict[str, str], tmp_path: Path
) -> None:
    bury(queue, "ü漢")
    path = tmp_path / "letters.jsonl"
    result = cli("dlq", "export", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"  Exported 4 dead letter(s) to {path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    exported = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert exported == list(queue.dead_letters.export())


def test_a_file_is_in_utf_8_whatever_the_encoding_of_stdout(
    run_anew: Run, queue: Queue, tmp_path: Path
) -> None:
    bury(queue, "漢")
    assert run_anew("dlq", "export", "letters.jsonl", PYTHONIOENCODING="ascii").returncode == 0
    assert "漢" in (tmp_path / "letters.jsonl").read_text("utf-8")


def test_an_existing_file_is_refused_and_kept(
    cli: Cli, buried: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "letters.jsonl"
    path.write_text("precious")
    result = cli("dlq", "export", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{path} exists; name a new file" in result.stderr
    assert path.read_text() == "precious"


def test_a_link_to_elsewhere_is_not_followed(
    cli: Cli, buried: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert cli("dlq", "export", tmp_path / "link").exit_code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_cannot_be_made_is_told_in_words(
    run: Run, buried: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "lost" / "letters.jsonl"
    ran = run("dlq", "export", path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"Error: {path}: No such file or directory\n"


def test_no_half_of_a_file_is_left_by_a_full_disk(
    cli: Cli, buried: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "letters.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        result = cli("dlq", "export", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {path}: No space left on device\n"
    assert not path.exists()


def test_no_file_is_left_by_a_shard_that_does_not_exist(
    cli: Cli, queue: Queue, tmp_path: Path
) -> None:
    for arguments in ([], [tmp_path / "letters.jsonl"]):
        result = cli("dlq", "export", "--shard", 9, *arguments)
        assert (result.exit_code, result.stdout) == (4, "")
    assert not (tmp_path / "letters.jsonl").exists()


# all of them

ALL = [["list"], ["show", "0-1"], ["requeue", "0-1"], ["discard", "--all"], ["export"]]


@pytest.mark.parametrize("command", ALL)
def test_no_command_on_dead_letters_makes_a_queue(
    cli: Cli, data_dir: Path, command: list[str]
) -> None:
    result = cli("dlq", *command)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "there is no queue" in result.stderr
    assert not data_dir.exists()


@pytest.mark.parametrize("command", [[], *ALL])
def test_every_command_on_dead_letters_has_help(
    cli: Cli, data_dir: Path, command: list[str]
) -> None:
    result = cli("dlq", *command[:1], "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "--data-dir" in result.stdout


@pytest.mark.parametrize("at", [0, 1, 2])
def test_options_of_the_queue_stand_anywhere(
    cli: Cli, make_queue: MakeQueue, tmp_path: Path, at: int
) -> None:
    key = bury(make_queue(data_dir=tmp_path / "other", shards=1))
    words = ["dlq", "list"]
    words[at:at] = ["--data-dir", str(tmp_path / "other")]
    assert key in cli(*words).stdout


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["show", "0-1"], ["export"]])
def test_a_full_disk_beneath_stdout_is_told_in_words(
    start: Callable[..., "subprocess.Popen[str]"], queue: Queue, command: list[str]
) -> None:
    bury(queue)
    with open("/dev/full", "w") as full:
        process = start("dlq", *command, stdout=full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "Error: stdout: No space left on device\n")
