import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from pydantic import ValidationError

from queue_max.checks import LARGEST
from queue_max.exceptions import ConfigurationError
from queue_max.settings import Settings, misspelt, names_of
from queue_max.storage.directory import DEFAULT_SHARDS

EXAMPLE = Path(__file__).parents[1] / ".env.example"


@dataclass(frozen=True)
class Variable:
    """A row of the contract's table of variables, with two values that it may have."""

    name: str
    field: str
    default: Any
    values: tuple[tuple[str, Any], tuple[str, Any]]
    zero_is_allowed: bool = False

    @property
    def winning_name(self) -> str:
        return self.name if self.name.startswith("QUEUE_") else f"QUEUE_MAX_{self.name}"

    @property
    def value(self) -> Any:
        return self.values[0][1]


VARIABLES = [
    Variable("NUM_SHARDS", "shards", None, (("3", 3), ("1024", 1024))),
    Variable("RATE_LIMIT_MAX", "rate_limit", 160, (("1", 1), ("none", math.inf))),
    Variable("QUEUE_MAX_RETRIES", "max_retries", 3, (("0", 0), ("1000", 1000)), True),
    Variable(
        "CIRCUIT_FAILURE_THRESHOLD",
        "circuit_breaker_threshold",
        5,
        (("1", 1), ("none", math.inf)),
    ),
    Variable("CIRCUIT_TIMEOUT", "circuit_breaker_timeout", 60.0, (("0.5", 0.5), ("90", 90.0))),
    Variable("DB_BUSY_TIMEOUT", "busy_timeout_ms", 30_000, (("1", 1), ("500", 500))),
    Variable("DATA_DIR", "data_dir", Path("data"), (("/srv/q", Path("/srv/q")), ("q", Path("q")))),
    Variable("CACHE_SIZE", "cache_size", 500, (("1", 1), ("10000", 10_000))),
    Variable("MMAP_SIZE", "mmap_size", 0, (("268435456", 268_435_456), ("1", 1)), True),
    Variable("HEARTBEAT_INTERVAL", "heartbeat_interval_ms", 5_000, (("1", 1), ("100", 100))),
    Variable("STUCK_TIMEOUT", "stuck_timeout_ms", 30_000, (("1", 1), ("100", 100))),
    Variable("RECOVERY_INTERVAL", "recovery_interval_ms", 10_000, (("1", 1), ("100", 100))),
    Variable("CLEANUP_DAYS", "cleanup_days", 7, (("0", 0), ("30", 30)), True),
    Variable(
        "CLEANUP_DAYS_COMPLETED", "cleanup_days_completed", None, (("0", 0), ("30", 30)), True
    ),
    Variable("CLEANUP_DAYS_FAILED", "cleanup_days_failed", None, (("0", 0), ("30", 30)), True),
    Variable(
        "CLEANUP_DAYS_CANCELLED", "cleanup_days_cancelled", None, (("0", 0), ("30", 30)), True
    ),
    Variable(
        "CLEANUP_DAYS_DEAD_LETTERS", "cleanup_days_dead_letters", None, (("0", 0), ("30", 30)), True
    ),
    Variable("QUEUE_ALERT_THRESHOLD", "alert_threshold", 1_000, (("1", 1), ("50", 50))),
    Variable("STRICT_PRIORITY", "strict_priority", False, (("true", True), ("0", False))),
    Variable(
        "MAX_PENDING",
        "max_pending",
        None,
        (("1000", 1000), ("mail=100, default=none, slow=7", {"mail": 100, "slow": 7})),
    ),
    Variable(
        "WHEN_FULL", "when_full", "raise", (("block", "block"), ("drop_oldest", "drop_oldest"))
    ),
    Variable("QUEUE_MAX_EVENT_LOG", "event_log", 0, (("10000", 10_000), ("none", 0)), True),
    Variable("QUEUE_MAX_LOG_LEVEL", "log_level", "WARNING", (("debug", "DEBUG"), ("INFO", "INFO"))),
    Variable(
        "QUEUE_MAX_DURABILITY", "durability", "full", (("normal", "normal"), ("full", "full"))
    ),
]
LIMITS = [each for each in VARIABLES if each.default in (160, 5)]
COUNTS = [
    each
    for each in VARIABLES
    if each not in LIMITS
    and isinstance(each.value, int)
    and each.field not in {"max_pending", "strict_priority"}
]
TIMES = ["DB_BUSY_TIMEOUT", "HEARTBEAT_INTERVAL", "STUCK_TIMEOUT", "RECOVERY_INTERVAL"]

each_variable = pytest.mark.parametrize("variable", VARIABLES, ids=lambda each: each.name)
each_count = pytest.mark.parametrize("variable", COUNTS, ids=lambda each: each.name)
each_limit = pytest.mark.parametrize("variable", LIMITS, ids=lambda each: each.name)
each_prefixable = pytest.mark.parametrize(
    "variable",
    [each for each in VARIABLES if each.winning_name != each.name],
    ids=lambda each: each.name,
)

each_that_can_be_bad = pytest.mark.parametrize(
    "variable",
    [each for each in VARIABLES if each.field != "data_dir"],  # almost any text is a path
    ids=lambda each: each.name,
)


def write_env_file(**variables: str) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))


def refusal(**arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(**arguments)
    return str(caught.value)


def test_every_variable_is_in_the_table_of_this_file() -> None:
    assert {each.field: [each.winning_name, each.name] for each in VARIABLES} == {
        name: [names_of(field)[0], names_of(field)[-1]]
        for name, field in Settings.model_fields.items()
    }


@each_variable
def test_what_is_not_set_has_the_default_of_the_table(variable: Variable) -> None:
    assert getattr(Settings.load(), variable.field) == variable.default


@each_variable
def test_a_variable_is_read_under_its_bare_name(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, value in variable.values:
        monkeypatch.setenv(variable.name, text)
        assert getattr(Settings.load(), variable.field) == value


@each_prefixable
def test_a_variable_is_read_under_its_prefixed_name(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, value in variable.values:
        monkeypatch.setenv(f"QUEUE_MAX_{variable.name}", text)
        assert getattr(Settings.load(), variable.field) == value


@each_prefixable
def test_the_prefixed_name_wins(variable: Variable, monkeypatch: pytest.MonkeyPatch) -> None:
    (text, value), (other, _) = variable.values
    monkeypatch.setenv(f"QUEUE_MAX_{variable.name}", text)
    monkeypatch.setenv(variable.name, other)
    assert getattr(Settings.load(), variable.field) == value


@pytest.mark.parametrize(
    ("name", "field", "default"),
    [
        ("QUEUE_MAX_QUEUE_MAX_RETRIES", "max_retries", 3),
        ("QUEUE_MAX_QUEUE_ALERT_THRESHOLD", "alert_threshold", 1_000),
        ("QUEUE_MAX_QUEUE_MAX_LOG_LEVEL", "log_level", "WARNING"),
        ("LOG_LEVEL", "log_level", "WARNING"),
        ("DURABILITY", "durability", "full"),
        ("num_shards", "shards", None),
        ("queue_max_num_shards", "shards", None),
        ("shards", "shards", None),
        ("rate_limit", "rate_limit", 160),
        ("data_dir", "data_dir", Path("data")),
        ("log_level", "log_level", "WARNING"),
    ],
)
def test_no_other_name_is_a_variable(
    name: str, field: str, default: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "9")
    write_env_file(**{name: "9"})
    assert getattr(Settings.load(), field) == default


@each_variable
def test_an_argument_beats_the_environment(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text, _), (_, value) = variable.values
    monkeypatch.setenv(variable.winning_name, text)
    monkeypatch.setenv(variable.name, text)
    assert getattr(Settings.load(**{variable.field: value}), variable.field) == value


@each_variable
def test_the_environment_beats_the_env_file(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text, value), (other, _) = variable.values
    monkeypatch.setenv(variable.name, text)
    write_env_file(**{variable.winning_name: other, variable.name: other})
    assert getattr(Settings.load(), variable.field) == value


@each_variable
def test_the_env_file_beats_the_default(variable: Variable) -> None:
    for text, value in variable.values:
        write_env_file(**{variable.name: text})
        assert getattr(Settings.load(), variable.field) == value


@each_prefixable
def test_the_prefixed_name_wins_in_the_env_file_too(variable: Variable) -> None:
    (text, value), (other, _) = variable.values
    write_env_file(**{variable.name: other, f"QUEUE_MAX_{variable.name}": text})
    assert getattr(Settings.load(), variable.field) == value


def test_an_argument_of_none_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_SHARDS", "3")
    settings = Settings.load(shards=None, max_retries=None)
    assert (settings.shards, settings.max_retries) == (3, 3)


@each_variable
def test_an_empty_variable_counts_as_not_set(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text, value), _ = variable.values
    monkeypatch.setenv(variable.winning_name, "")
    monkeypatch.setenv(variable.name, "")
    assert getattr(Settings.load(), variable.field) == variable.default
    write_env_file(**{variable.winning_name: "", variable.name: text})
    if variable.winning_name != variable.name:
        assert getattr(Settings.load(), variable.field) == value
    write_env_file(**{variable.winning_name: ""})
    assert getattr(Settings.load(), variable.field) == variable.default


@each_prefixable
def test_an_empty_prefixed_variable_gives_way_to_the_bare_one(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text, value), _ = variable.values
    monkeypatch.setenv(f"QUEUE_MAX_{variable.name}", "")
    monkeypatch.setenv(variable.name, text)
    assert getattr(Settings.load(), variable.field) == value


@each_count
@pytest.mark.parametrize("value", [0, -1])
def test_zero_and_negative_numbers_are_never_replaced(
    variable: Variable, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable.name, str(value))
    if value == 0 and variable.zero_is_allowed:
        assert getattr(Settings.load(), variable.field) == 0
        assert getattr(Settings.load(**{variable.field: 0}), variable.field) == 0
    else:
        assert refusal().startswith(f"{variable.name}='{value}': ")
        assert refusal(**{variable.field: value}).startswith(f"{variable.field}={value}: ")


@each_limit
@pytest.mark.parametrize("value", [0, -1, 1.5, True, False, -math.inf, math.nan, LARGEST + 1])
def test_a_limit_is_a_whole_number_within_bounds(
    variable: Variable, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = f"should be a whole number from 1 to {LARGEST}, or none for no limit"
    assert refusal(**{variable.field: value}) == f"{variable.field}={value}: {allowed}"
    monkeypatch.setenv(variable.name, str(value))
    assert refusal() == f"{variable.name}='{value}': {allowed}"


@each_limit
@pytest.mark.parametrize("digits", [400, 10_000])
def test_a_limit_of_very_many_digits_is_refused(
    variable: Variable, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable.name, "9" * digits)
    assert refusal().startswith(f"{variable.name}='999")
    assert refusal().endswith(
        f"…: should be a whole number from 1 to {LARGEST}, or none for no limit"
    )


@each_limit
@pytest.mark.parametrize("text", ["none", "None", "NONE", " none ", "inf", "Inf"])
def test_a_limit_is_switched_off_by_a_word(
    variable: Variable, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable.name, text)
    assert getattr(Settings.load(), variable.field) == math.inf


@each_limit
def test_a_limit_is_switched_off_by_an_argument(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable.name, "7")
    assert getattr(Settings.load(**{variable.field: math.inf}), variable.field) == math.inf


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True])
def test_the_circuits_timeout_is_a_finite_number_above_0(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(circuit_breaker_timeout=value).startswith(f"circuit_breaker_timeout={value}: ")
    monkeypatch.setenv("CIRCUIT_TIMEOUT", str(value))
    assert refusal().startswith(f"CIRCUIT_TIMEOUT='{value}': ")


@each_count
@pytest.mark.parametrize("text", ["abc", "1.5", "nan", "inf", "0x10", "1e3", "3;", "-"])
def test_a_text_that_is_no_whole_number_is_refused(
    variable: Variable, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable.name, text)
    assert re.match(rf"{variable.name}='{re.escape(text)}': should be a valid integer", refusal())


@each_count
@pytest.mark.parametrize("text", ["none", "None", " NONE "])
def test_no_number_can_be_none_but_the_days_of_a_kind_and_the_length_of_the_log(
    variable: Variable, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_env_file(**{variable.name: variable.values[0][0]})
    monkeypatch.setenv(variable.name, text)
    if variable.name.startswith("CLEANUP_DAYS_"):
        assert getattr(Settings.load(), variable.field) is None
    elif variable.field == "event_log":
        assert Settings.load().event_log == 0
    else:
        assert refusal().startswith(f"{variable.name}='{text}': should be a valid integer")


@each_count
@pytest.mark.parametrize("value", [True, False, 1.5, "abc", [1], math.nan], ids=repr)
def test_an_argument_that_is_no_whole_number_is_refused(variable: Variable, value: object) -> None:
    assert refusal(**{variable.field: value}).startswith(f"{variable.field}={value!r}: should be ")


@pytest.mark.parametrize("text", ["none", "inf", " NONE "])
def test_any_number_of_jobs_may_wait_where_that_is_said(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_PENDING", "7")
    assert Settings.load(max_pending=math.inf).max_pending is None
    monkeypatch.setenv("QUEUE_MAX_MAX_PENDING", text)
    assert Settings.load().max_pending is None


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "1.5", "many", "mail", "mail=", "mail=0", "mail=x", "mail=5,mail=6", "5,6", "="],
)
def test_a_text_that_is_no_bound_is_refused_by_name(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_MAX_MAX_PENDING", text)
    assert refusal().startswith(f"QUEUE_MAX_MAX_PENDING='{text}': should ")


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, True, "x", [1], {}, {"mail": 0}, {"mail": True}, {"mail": {}}], ids=repr
)
def test_an_argument_that_is_no_bound_is_refused_by_name(value: object) -> None:
    assert refusal(max_pending=value).startswith(f"max_pending={value!r}: should ")


@pytest.mark.parametrize(
    ("name", "too_much", "most"),
    [
        ("NUM_SHARDS", "1025", 1024),
        ("QUEUE_MAX_RETRIES", "1001", 1000),
        ("CACHE_SIZE", "2147483648", 2_147_483_647),
        ("MMAP_SIZE", "2147418113", 2_147_418_112),
    ],
)
def test_a_number_beyond_the_most_is_refused(
    name: str, too_much: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, too_much)
    assert refusal() == f"{name}='{too_much}': should be less than or equal to {most}"


@pytest.mark.parametrize("name", [*TIMES, "CLEANUP_DAYS", "CLEANUP_DAYS_FAILED"])
def test_a_time_too_long_to_be_counted_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(10**18))
    assert refusal().startswith(f"{name}='{10**18}': ")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("QUEUE_MAX_LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("QUEUE_MAX_DURABILITY", "half", "'full' or 'normal'"),
        ("NUM_SHARDS", "0", "greater than or equal to 1"),
        ("CIRCUIT_TIMEOUT", "0", "greater than 0"),
    ],
)
def test_a_refusal_names_variable_value_and_what_is_allowed(
    name: str, text: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    assert refusal() == f"{name}='{text}': should be {allowed}"


@each_that_can_be_bad
def test_a_refusal_names_the_name_that_was_really_set(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {variable.name, variable.winning_name}:
        with monkeypatch.context() as patch:
            patch.setenv(name, "?")
            assert refusal().startswith(f"{name}='?': ")


@each_that_can_be_bad
def test_a_refusal_names_the_prefixed_variable_when_both_are_set(
    variable: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable.name, variable.values[0][0])
    monkeypatch.setenv(variable.winning_name, "?")
    assert refusal().startswith(f"{variable.winning_name}='?': ")


@pytest.mark.parametrize("name", ["NUM_SHARDS", "QUEUE_MAX_NUM_SHARDS"])
@pytest.mark.parametrize("empty", ["NUM_SHARDS", "QUEUE_MAX_NUM_SHARDS", "UNRELATED"])
def test_a_refusal_names_the_line_of_the_env_file(
    name: str, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(empty, "")
    write_env_file(**{name: "abc"})
    assert refusal().startswith(f"{name} (in .env)='abc': ")


def test_a_refusal_does_not_name_an_empty_line_of_the_env_file() -> None:
    write_env_file(QUEUE_MAX_NUM_SHARDS="", NUM_SHARDS="abc")
    assert refusal().startswith("NUM_SHARDS (in .env)='abc': ")


def test_a_bad_line_of_the_env_file_that_is_overruled_is_no_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_env_file(NUM_SHARDS="abc", DB_BUSY_TIMEOUT="abc")
    monkeypatch.setenv("NUM_SHARDS", "3")
    settings = Settings.load(busy_timeout_ms=5)
    assert (settings.shards, settings.busy_timeout_ms) == (3, 5)


def test_a_refusal_names_the_argument_and_not_a_variable_beneath_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NUM_SHARDS", "3")
    assert refusal(shards="many").startswith("shards='many': ")
    assert refusal(data_dir=b"x").startswith("data_dir=b'x': ")


def test_a_refusal_names_all_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_SHARDS", "abc")
    monkeypatch.setenv("QUEUE_MAX_CACHE_SIZE", "0")
    write_env_file(STUCK_TIMEOUT="-5")
    text = refusal(max_retries=-1)
    assert text.count("; ") == 3
    for source in ("NUM_SHARDS='abc'", "QUEUE_MAX_CACHE_SIZE='0'", "max_retries=-1"):
        assert f"{source}: should be" in text
    assert "STUCK_TIMEOUT (in .env)='-5': should be" in text


def test_a_refusal_is_a_value_error_that_keeps_its_cause() -> None:
    with pytest.raises(ValueError, match=r"^shards=0: ") as caught:
        Settings.load(shards=0)
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value.__cause__, ValidationError)


def test_an_env_file_that_is_not_utf_8_is_refused_by_name() -> None:
    Path(".env").write_bytes("OWNER=Müller\n".encode("latin-1"))
    assert ".env" in refusal()


def test_lines_of_the_env_file_that_are_not_ours_are_left_alone() -> None:
    Path(".env").write_text("# a comment\n\nSECRET_KEY='x y'\nexport NUM_SHARDS=3\nno line\n")
    assert Settings.load().shards == 3


@pytest.mark.parametrize(
    ("data_dir", "allowed"),
    [
        ("", "should name a folder"),
        ("a\0b", "should hold no NUL"),
        ("\udcff", "should be UTF-8"),
        ("~nosuch/data", "should not begin with ~nosuch: that user has no home folder here"),
        ("file", "should be a folder, and is a file"),
        ("./link", "should be a folder, and is a file"),
    ],
)
def test_a_data_dir_that_can_be_none_is_refused(data_dir: str, allowed: str) -> None:
    Path("file").touch()
    Path("link").symlink_to("file")
    assert refusal(data_dir=data_dir) == f"data_dir={data_dir!r}: {allowed}"


def test_a_data_dir_stays_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder").mkdir()
    for text in (".", "folder", "new/../folder", "~/data", "~root"):
        monkeypatch.setenv("DATA_DIR", text)
        assert Settings.load().data_dir == Path(text)
        assert Settings.load(data_dir=Path(text)).data_dir == Path(text)


def test_a_relative_data_dir_is_refused_where_the_current_folder_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    allowed = "should be an absolute path, for the current folder is gone"
    assert refusal() == f"QUEUE_MAX_DATA_DIR='data': {allowed}"
    assert refusal(data_dir="mine") == f"data_dir='mine': {allowed}"
    assert Settings.load(data_dir=tmp_path).data_dir == tmp_path


def test_the_nearest_name_of_a_misspelt_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert misspelt() == {}
    monkeypatch.setenv("QUEUE_MAX_RETRYS", "9")
    monkeypatch.setenv("QUEUE_MAX_RATE_LIMIT", "9")
    monkeypatch.setenv("QUEUE_MAX_RETRIES", "9")
    monkeypatch.setenv("MAX_RETRIES", "9")
    write_env_file(QUEUE_MAX_DATADIR="x", QUEUE_MAX_DATA_DIR="x")
    assert misspelt() == {
        "QUEUE_MAX_DATADIR": "QUEUE_MAX_DATA_DIR",
        "QUEUE_MAX_RATE_LIMIT": "QUEUE_MAX_RATE_LIMIT_MAX",
        "QUEUE_MAX_RETRYS": "QUEUE_MAX_RETRIES",
    }


def test_settings_cannot_be_changed() -> None:
    settings = Settings.load(shards=3)
    with pytest.raises(ValidationError, match="frozen"):
        settings.shards = 4
    assert settings.shards == 3


def test_the_example_lists_every_variable_once_with_one_line_of_comment() -> None:
    head, *lines = re.split(r"\n\n+", EXAMPLE.read_text(), maxsplit=1)
    assert all(line.startswith("# ") for line in head.splitlines())
    assert len(lines) == 1
    pairs = re.findall(r"# \S.*\n([A-Z_]+)=.*\n", lines[0])
    assert lines[0].count("\n") == 2 * len(pairs)
    assert sorted(pairs) == sorted(each.name for each in VARIABLES)


def test_the_example_holds_the_defaults() -> None:
    written = dotenv_values(EXAMPLE)
    assert all(written.values())
    defaults = Settings.load(shards=DEFAULT_SHARDS)
    Path(".env").write_text(EXAMPLE.read_text())
    assert Settings.load() == defaults
