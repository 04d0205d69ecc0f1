import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import Result

import queue_max
from queue_max import Queue
from queue_max.cli import main
from queue_max.storage import driver

MakeQueue = Callable[..., Queue]
Cli = Callable[..., Result]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

READING = [["stats"], ["list"], ["retry"], ["purge"], ["db", "current"], ["db", "check"]]
ENQUEUE = ["enqueue", "--payload", "{}"]
WORKER = ["worker", "--function", "json:dumps"]

COMMANDS = [["stats"], ["worker"], ["enqueue"], ["list"], ["retry"], ["purge"], ["db"]]


@pytest.fixture
def _no_power(program: list[str]) -> None:
    """Let permissions stop the program, although it may be root who runs the tests."""
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root needs setpriv to give up its power over permissions")
        program[:0] = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]


def assert_fault(ran: Any, code: int, *words: str) -> None:
    """Hold that a program ended by an expected fault: told in words, with nothing on stdout."""
    assert (ran.returncode, ran.stdout) == (code, "")
    assert "Traceback" not in ran.stderr
    assert "Error: " in ran.stderr
    assert all(word in ran.stderr for word in words)


@contextmanager
def written_by_another(data_dir: Path) -> Iterator[None]:
    connection = driver.choose().module.connect(data_dir / "shard_0.db", isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


# Without a command


def test_the_program_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="queue-max")
    assert script.load() is main


def test_the_version_is_told(cli: Cli) -> None:
    result = cli("--version")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"queue-max, version {queue_max.__version__}\n"


def test_without_a_command_help_is_printed(run: Run) -> None:
    ran = run()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Usage:" in ran.stdout
    assert all(f"\n  {name} " in ran.stdout for (name,) in COMMANDS)


@pytest.mark.parametrize("command", [[], *COMMANDS, ["db", "upgrade"], ["db", "check"]])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(cli: Cli, data_dir: Path, command: list[str], option: str) -> None:
    result = cli(*command, option)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "--data-dir" in result.stdout
    assert not data_dir.exists()


@pytest.mark.parametrize(
    "arguments", [["lost"], ["stats", "--lost"], ["stats", "lost"], ["--lost"]]
)
def test_what_is_unknown_is_a_usage_error(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "lost" in result.stderr


# The options of the queue


@pytest.mark.parametrize("at", ["before", "after"])
def test_options_of_the_queue_stand_before_the_command_or_after_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: str
) -> None:
    opened: list[dict[str, Any]] = []
    make = Queue.__init__
    monkeypatch.setattr(
        Queue,
        "__init__",
        lambda self, **options: (opened.append(options), make(self, **options))[1],
    )
    options = ["--data-dir", str(tmp_path / "other"), "--shards", "2", "--rate-limit", "7"]
    command = ENQUEUE
    result = cli(*options, *command) if at == "before" else cli(*command, *options)
    assert result.exit_code == 0
    assert opened == [
        {"data_dir": str(tmp_path / "other"), "shards": 2, "rate_limit": "7", "create": True}
    ]
    assert len(list((tmp_path / "other").glob("shard_*.db"))) == 2


@pytest.mark.parametrize("command", [*READING, ["stats", "--json"], ["db", "upgrade"]])
def test_every_command_takes_them_in_both_places(
    cli: Cli, make_queue: MakeQueue, tmp_path: Path, command: list[str]
) -> None:
    make_queue(data_dir=tmp_path / "other", shards=2)
    options = ["--data-dir", tmp_path / "other", "--shards", 2, "--rate-limit", "none"]
    for arguments in ([*options, *command], [*command, *options]):
        assert cli(*arguments).exit_code == 0


def test_a_group_takes_them_in_between(cli: Cli, make_queue: MakeQueue, tmp_path: Path) -> None:
    make_queue(data_dir=tmp_path / "other", shards=2)
    assert "shard 1" in cli("db", "--data-dir", tmp_path / "other", "current").stdout


def test_an_option_further_right_wins(cli: Cli, make_queue: MakeQueue, tmp_path: Path) -> None:
    make_queue(data_dir=tmp_path / "other", shards=1).enqueue({})
    result = cli("--data-dir", tmp_path / "lost", "list", "--data-dir", tmp_path / "other")
    assert result.exit_code == 0
    assert not (tmp_path / "lost").exists()


def test_an_option_beats_the_environment(
    cli: Cli, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_queue(shards=1)
    monkeypatch.setenv("RATE_LIMIT_MAX", "3")
    assert "3.0" in cli("stats").stdout
    assert "9.0" in cli("stats", "--rate-limit", 9).stdout


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--shards", "0", "shards=0"),
        ("--shards", "-1", "shards=-1"),
        ("--shards", "two", "--shards"),
        ("--shards", "5", "holds 1 shards"),
        ("--rate-limit", "0", "rate_limit='0'"),
        ("--rate-limit", "fast", "rate_limit='fast'"),
    ],
)
def test_a_bad_option_is_a_usage_error_that_names_it(
    cli: Cli, make_queue: MakeQueue, option: str, value: str, named: str
) -> None:
    make_queue(shards=1)
    result = cli("stats", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr


# Faults that are to be expected


@pytest.mark.parametrize("command", [["stats"], ["db", "check"]])
def test_a_data_dir_with_a_typo_is_not_found_and_not_made(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    assert_fault(run(*command, "--data-dir", tmp_path / "dtaa"), 4, str(tmp_path / "dtaa"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE_LIMIT_MAX", "fast"),
        ("RATE_LIMIT_MAX", "0"),
        ("QUEUE_MAX_NUM_SHARDS", "0"),
        ("QUEUE_MAX_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_variable_is_a_usage_error_that_names_it(
    run: Run, make_queue: MakeQueue, name: str, value: str
) -> None:
    make_queue(shards=1)
    assert_fault(run("stats", **{name: value}), 2, f"{name}='{value}'")


def test_a_bad_variable_keeps_enqueue_from_making_anything(run: Run, data_dir: Path) -> None:
    assert_fault(run(*ENQUEUE, RATE_LIMIT_MAX="fast"), 2, "RATE_LIMIT_MAX")
    assert not data_dir.exists()


def test_a_bad_line_of_the_env_file_is_a_usage_error_that_names_it(
    run: Run, make_queue: MakeQueue
) -> None:
    make_queue(shards=1)
    Path(".env").write_text("CLEANUP_DAYS=soon\n")
    assert_fault(run("stats"), 2, "CLEANUP_DAYS", ".env")


def test_an_env_file_that_is_no_text_is_a_usage_error(run: Run, make_queue: MakeQueue) -> None:
    make_queue(shards=1)
    Path(".env").write_bytes(b"\xff\xfeA=1\n")
    assert_fault(run("stats"), 2, ".env")


@pytest.mark.parametrize("command", [["stats"], ENQUEUE, WORKER])
def test_a_damaged_shard_is_an_error_of_the_database(
    run: Run, make_queue: MakeQueue, data_dir: Path, command: list[str]
) -> None:
    make_queue(shards=1).close()
    (data_dir / "shard_0.db").write_bytes(b"no database " * 1000)
    assert_fault(run(*command), 3, "shard 0", "damaged")


def test_a_missing_shard_is_an_error_of_the_database_and_is_not_made_anew(
    run: Run, make_queue: MakeQueue, data_dir: Path
) -> None:
    make_queue(shards=1).close()
    (data_dir / "shard_0.db").unlink()
    assert_fault(run(*ENQUEUE), 3, "shard 0", "missing")
    assert not (data_dir / "shard_0.db").exists()


def test_a_locked_shard_is_an_error_of_the_database_and_can_still_be_read(
    run: Run, make_queue: MakeQueue, data_dir: Path
) -> None:
    make_queue(shards=1).enqueue({})
    with written_by_another(data_dir):
        refused = run(*ENQUEUE, DB_BUSY_TIMEOUT="100")
        assert_fault(refused, 3, "shard 0", "writing for too long")
        assert run("stats", DB_BUSY_TIMEOUT="100").returncode == 0


@pytest.mark.usefixtures("_no_power")
def test_a_folder_where_nothing_may_be_made_is_an_error_of_the_database(
    run_anew: Run, tmp_path: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    new = tmp_path / "closed" / "data"
    assert_fault(run_anew(*ENQUEUE, "--data-dir", new), 3, str(new))
    assert not new.exists()


@pytest.mark.usefixtures("_no_power")
@pytest.mark.parametrize("command", [ENQUEUE, WORKER, ["retry"]])
def test_files_that_may_not_be_written_are_an_error_of_the_database(
    run_anew: Run, make_queue: MakeQueue, data_dir: Path, command: list[str]
) -> None:
    make_queue(shards=1).close()
    for path in data_dir.iterdir():
        path.chmod(0o444)
    data_dir.chmod(0o555)
    assert_fault(run_anew(*command), 3, str(data_dir))


@pytest.mark.usefixtures("_no_power")
@pytest.mark.parametrize("command", [["stats"], ENQUEUE, ["db", "check"], ["db", "upgrade"]])
def test_a_data_dir_that_may_not_be_looked_into_is_an_error_of_the_database(
    run_anew: Run, make_queue: MakeQueue, data_dir: Path, command: list[str]
) -> None:
    make_queue(shards=1).close()
    data_dir.chmod(0o000)
    assert_fault(run_anew(*command), 3, str(data_dir))


@pytest.mark.usefixtures("_no_power")
def test_an_env_file_that_may_not_be_read_is_a_usage_error(
    run_anew: Run, make_queue: MakeQueue
) -> None:
    make_queue(shards=1)
    Path(".env").touch(mode=0o000)
    assert_fault(run_anew("stats"), 2, ".env")


@pytest.mark.parametrize(
    ("command", "data_dir", "allowed"),
    [
        (["stats"], "", "should name a folder"),
        (["stats"], "file", "should be a folder, and is a file"),
        (["stats"], "~nosuch/data", "should not begin with ~nosuch"),
        (["stats"], b"\xff", "should be UTF-8"),
        (ENQUEUE, "file", "should be a folder, and is a file"),
        (WORKER, "file", "should be a folder, and is a file"),
        (["db", "check"], "file", "should be a folder, and is a file"),
        (["db", "upgrade"], "file", "should be a folder, and is a file"),
    ],
)
def test_a_data_dir_that_can_be_none_is_a_usage_error_that_says_why(
    run: Run, tmp_path: Path, command: list[str], data_dir: str | bytes, allowed: str
) -> None:
    (tmp_path / "file").touch()
    text = os.fsdecode(data_dir)
    assert_fault(run(*command, "--data-dir", text), 2, f"data_dir={text!r}: {allowed}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_data_dir_beneath_a_file_is_an_error_of_the_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    new = tmp_path / "file" / "data"
    assert_fault(run(*ENQUEUE, "--data-dir", new), 3, str(new), "Not a directory")


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    """A current folder that has been deleted."""
    folder = tmp_path / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    return folder


@pytest.mark.usefixtures("gone")
@pytest.mark.parametrize("command", [["stats"], ENQUEUE, WORKER, ["db", "check"]])
def test_a_relative_data_dir_needs_a_current_folder(run_anew: Run, command: list[str]) -> None:
    ran = run_anew(*command, DATA_DIR="mine")
    assert_fault(ran, 2, "DATA_DIR='mine': should be an absolute path", "current folder")
    assert_fault(run_anew(*command, DATA_DIR=""), 2, "DATA_DIR='data': should be an absolute path")


def test_an_absolute_data_dir_needs_no_current_folder(
    run_anew: Run, make_queue: MakeQueue, gone: Path
) -> None:
    make_queue(shards=1)
    assert run_anew("stats").returncode == 0


# Where it prints


ESCAPE = re.compile(r"\x1b")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")


@pytest.fixture
def in_terminal(program: list[str]) -> Callable[..., str]:
    """Run the program in a pseudo terminal; gives what is on it."""

    def run(*arguments: str, **variables: str) -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*program, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"} | variables,
        )
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal:
            shown = b"".join(iter(lambda: read_some(terminal), b""))
        assert process.wait(60) == 0
        return shown.decode()

    return run


def read_some(terminal: IO[bytes]) -> bytes:
    try:
        return terminal.read(65536)
    except OSError:  # so Linux tells that the other side is closed
        return b""


@pytest.mark.parametrize("command", [["list", "--status", "pending"], ["stats"]])
def test_a_terminal_is_shown_a_drawn_table(
    in_terminal: Callable[..., str], make_queue: MakeQueue, command: list[str]
) -> None:
    make_queue(shards=1).enqueue({"text": "[red]x[/red] [link=http://x.org]y"})
    shown = in_terminal(*command)
    assert "│" in shown
    assert "┃" in shown
    if command[0] == "list":
        assert '{"text": "[red]x[/red] [link=http://x.org]y"}' in shown


def test_a_terminal_is_shown_no_colour_when_none_is_wanted(
    in_terminal: Callable[..., str], make_queue: MakeQueue
) -> None:
    make_queue(shards=1).enqueue({"text": "[red]x[/red]"})
    shown = in_terminal("list", "--status", "pending", NO_COLOR="1")
    assert "│" in shown
    assert not COLOUR.search(shown)


def test_a_terminal_is_given_plain_json(
    in_terminal: Callable[..., str], make_queue: MakeQueue
) -> None:
    make_queue(shards=1).enqueue({"n": 1})
    shown = in_terminal("list", "--status", "pending", "--json")
    assert not ESCAPE.search(shown)
    assert '"n": 1' in shown


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        (["list", "--status", "pending"], {}),
        (["list", "--status", "pending"], {"FORCE_COLOR": "1"}),
        (["stats"], {"FORCE_COLOR": "1"}),
        (["stats", "--lost"], {"FORCE_COLOR": "1"}),
    ],
)
def test_a_pipe_is_given_no_escape_codes(
    run: Run, make_queue: MakeQueue, command: list[str], variables: dict[str, str]
) -> None:
    make_queue(shards=1).enqueue({"text": "[red]x[/red]"})
    ran = run(*command, TERM="xterm-256color", **variables)
    assert not ESCAPE.search(ran.stdout + ran.stderr)
    assert "│" not in ran.stdout


def test_a_reader_that_has_seen_enough_is_no_error(start: Start, make_queue: MakeQueue) -> None:
    queue = make_queue(shards=1)
    queue.enqueue_batch([{"payload": {"text": "x" * 200}}] * 1000)
    process = start("list", "--status", "pending", "--limit", 1000, "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "[\n"
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(60)


@pytest.mark.parametrize(
    "command",
    [
        ["list", "--status", "all"],
        ["list", "--status", "all", "--json"],
        ["stats"],
        ["stats", "--json"],
        ["retry"],
        ["db", "check"],
        ["--help"],
        ["stats", "--help"],
        ["--version"],
    ],
)
def test_a_full_disk_beneath_stdout_is_told_in_words(
    start: Start, make_queue: MakeQueue, command: list[str]
) -> None:
    make_queue(shards=1).enqueue({})
    with open("/dev/full", "w") as full:
        process = start(*command, stdout=full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "Error: stdout: No space left on device\n")


def test_what_was_buffered_is_written_at_the_end_or_told_in_words(
    start: Start, make_queue: MakeQueue, tmp_path: Path
) -> None:
    make_queue(shards=1)
    (tmp_path / "printing.py").write_text("print('loaded')\ndef work(payload): ...\n")
    with open("/dev/full", "w") as full:
        buffering = os.environ | {"PYTHONUNBUFFERED": ""}
        process = start("worker", "--function", "printing:work", stdout=full, env=buffering)
        assert process.stderr is not None
        assert any("Ctrl+C" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "Error: stdout: No space left on device"


def test_an_exit_code_needs_nobody_to_read_its_words(start: Start) -> None:
    with open("/dev/full", "w") as full:
        assert start("stats", stderr=full).wait(60) == 4


def test_the_program_runs_without_stdout(program: list[str], make_queue: MakeQueue) -> None:
    make_queue(shards=1)
    command = shlex.join([*program, "list"])
    closed = subprocess.run(f"{command} >&-", shell=True, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "  No jobs with status 'failed'.\n")


# Interrupted


def test_ctrl_c_ends_a_command_quietly(
    program: list[str], run_anew: Run, make_queue: MakeQueue
) -> None:
    make_queue(shards=1)
    program[-1] = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "from queue_max import Queue\n"
        "Queue.get_stats = lambda self: os.kill(os.getpid(), signal.SIGINT)\n"
        f"{program[-1]}"
    )
    ran = run_anew("stats")
    assert (ran.returncode, ran.stdout, ran.stderr.strip()) == (130, "", "")


# Misspelt variables


@pytest.mark.parametrize("command", [["stats"], ["db", "check"], ["db", "upgrade"]])
def test_a_misspelt_variable_is_warned_of_once_and_the_nearest_is_named(
    run: Run, make_queue: MakeQueue, command: list[str]
) -> None:
    make_queue(shards=1)
    ran = run(*command, QUEUE_MAX_RETRYS="9")
    assert ran.returncode == 0
    assert ran.stderr == (
        "WARNING queue_max.cli.base: QUEUE_MAX_RETRYS is no setting; did you mean "
        "QUEUE_MAX_RETRIES?\n"
    )


def test_a_misspelt_variable_is_not_warned_of_where_only_errors_are_logged(
    run: Run, make_queue: MakeQueue
) -> None:
    make_queue(shards=1)
    assert run("stats", QUEUE_MAX_RETRYS="9", QUEUE_MAX_LOG_LEVEL="ERROR").stderr == ""


def test_variables_that_are_none_of_ours_are_not_warned_of(run: Run, make_queue: MakeQueue) -> None:
    make_queue(shards=1)
    ours = {"QUEUE_MAX_NUM_SHARDS": "1", "QUEUE_MAX_LOG_LEVEL": "WARNING"}
    assert run("stats", MAX_RETRYS="9", queue_max_retrys="9", **ours).stderr == ""
