"""Settings: the only reader of the environment."""

import math
import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from queue_max.checks import LARGEST, shown
from queue_max.exceptions import ConfigurationError

PREFIX = "QUEUE_MAX_"
ENV_FILE = ".env"


class Durability(StrEnum):
    """What an acknowledged job survives."""

    FULL = "full"
    """Power cuts too: every commit is flushed to the disk."""

    NORMAL = "normal"
    """Any death of the process; a power cut may take the last moments."""


class WhenFull(StrEnum):
    """What becomes of a new job when as many wait as may."""

    RAISE = "raise"
    """It is refused."""

    BLOCK = "block"
    """It waits for room, and is refused when that takes too long."""

    DROP_OLDEST = "drop_oldest"
    """The least urgent of those that wait is cancelled, of these the oldest."""


class LogLevel(StrEnum):
    """The levels of the standard library's logging."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


def _whole_or_infinite(value: object) -> object:
    """Read a limit: a whole number from 1; "none" or infinity switch it off."""
    if isinstance(value, str) and value.strip().lower() in {"none", "inf"}:
        return math.inf
    if value == math.inf:
        return math.inf
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= LARGEST:
        raise ValueError(
            f"Input should be a whole number from 1 to {LARGEST}, or none for no limit"
        )
    return number


def _bounds(value: object) -> object:
    """Read a bound, or one for each of some names; "none" or infinity for none."""
    if isinstance(value, str) and "=" in value:
        pairs = [part.partition("=") for part in value.split(",")]
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("Input should name no queue twice")
        value = dict(zip(names, (number.strip() for _, _, number in pairs), strict=True))
    if value is None:  # what pydantic-settings finds for a dict that is not set
        return None
    if not isinstance(value, Mapping):
        try:
            number = _whole_or_infinite(value)
        except ValueError as error:
            raise ValueError(f"{error}, or as mail=100,default=1000") from None
        return None if number == math.inf else number
    if not value:
        raise ValueError("Input should name at least one queue")
    numbers = {name: _whole_or_infinite(number) for name, number in value.items()}
    return {name: number for name, number in numbers.items() if number != math.inf}


def _none_or_days(value: object) -> object:
    """Read a number of days, or "none" for no such number."""
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    return value


def _none_or_number(value: object) -> object:
    """Read a number, or "none" for 0."""
    return 0 if _none_or_days(value) is None else value


def _upper(value: object) -> object:
    """Read a level in any case; leave alone what is none, so that an error quotes it as it is."""
    if isinstance(value, str) and value.upper() in tuple(LogLevel):
        return value.upper()
    return value


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not a bool")
    return value


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("Input should name a folder")
    return value


def _folder(path: Path) -> Path:
    """Refuse what cannot be a folder of files; the path stays as it was given."""
    try:
        place = str(path.expanduser().absolute())
        place.encode()
    except RuntimeError:
        user = path.parts[0]
        raise ValueError(
            f"Input should not begin with {user}: that user has no home folder here"
        ) from None
    except FileNotFoundError:
        raise ValueError(
            "Input should be an absolute path, for the current folder is gone"
        ) from None
    except UnicodeEncodeError:
        raise ValueError("Input should be UTF-8") from None
    if "\0" in place:
        raise ValueError("Input should hold no NUL")
    if os.path.exists(place) and not os.path.isdir(place):
        raise ValueError("Input should be a folder, and is a file")
    return path


LONGEST_MS = 2**31 - 1  # 24 days: what SQLite takes as a busy timeout
MOST_PAGES = 2**31 - 1  # what SQLite takes as the size of a cache
MOST_MAPPED = 0x7FFF0000  # bytes; SQLite maps no more of a file

Limit = Annotated[int | float, BeforeValidator(_whole_or_infinite)]
Whole = Annotated[int, BeforeValidator(_not_bool)]
Bounds = Annotated[int | dict[str, int] | None, NoDecode, BeforeValidator(_bounds)]
Milliseconds = Annotated[Whole, Field(ge=1, le=LONGEST_MS)]
Days = Annotated[Whole, Field(ge=0, le=36_500)]
DaysOrNone = Annotated[Days | None, BeforeValidator(_none_or_days)]
Seconds = Annotated[float, BeforeValidator(_not_bool)]
LogLength = Annotated[Whole, Field(ge=0, le=10_000_000), BeforeValidator(_none_or_number)]
Folder = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_folder)]


def _named(name: str, *, default: Any, **constraints: Any) -> Any:
    """Declare a setting under its bare name and, first, under the prefixed one."""
    if name.startswith("QUEUE_"):
        return Field(default, validation_alias=AliasChoices(name), **constraints)
    return Field(default, validation_alias=AliasChoices(PREFIX + name, name), **constraints)


class Settings(BaseSettings):
    """All settings; an argument beats the environment, that beats `.env`, that the default."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=True,
        env_ignore_empty=True,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
    )

    shards: Whole | None = _named("NUM_SHARDS", default=None, ge=1, le=1024)
    """Number of shards; None: the stored number, 6 for a new queue."""
    rate_limit: Limit = _named("RATE_LIMIT_MAX", default=160)
    """Jobs started a minute, or infinity."""
    max_retries: Whole = _named("QUEUE_MAX_RETRIES", default=3, ge=0, le=1000)
    circuit_breaker_threshold: Limit = _named("CIRCUIT_FAILURE_THRESHOLD", default=5)
    circuit_breaker_timeout: Seconds = _named(
        "CIRCUIT_TIMEOUT", default=60.0, gt=0, allow_inf_nan=False
    )
    """Seconds before an open circuit lets a probe pass."""
    busy_timeout_ms: Milliseconds = _named("DB_BUSY_TIMEOUT", default=30_000)
    data_dir: Folder = _named("DATA_DIR", default="data", validate_default=True)
    cache_size: Whole = _named("CACHE_SIZE", default=500, ge=1, le=MOST_PAGES)
    """SQLite's page cache for each connection, in pages of 4 KiB."""
    mmap_size: Whole = _named("MMAP_SIZE", default=0, ge=0, le=MOST_MAPPED)
    heartbeat_interval_ms: Milliseconds = _named("HEARTBEAT_INTERVAL", default=5_000)
    stuck_timeout_ms: Milliseconds = _named("STUCK_TIMEOUT", default=30_000)
    recovery_interval_ms: Milliseconds = _named("RECOVERY_INTERVAL", default=10_000)
    cleanup_days: Days = _named("CLEANUP_DAYS", default=7)
    """Days that jobs are kept after their end, if their kind has none of its own."""
    cleanup_days_completed: DaysOrNone = _named("CLEANUP_DAYS_COMPLETED", default=None)
    cleanup_days_failed: DaysOrNone = _named("CLEANUP_DAYS_FAILED", default=None)
    cleanup_days_cancelled: DaysOrNone = _named("CLEANUP_DAYS_CANCELLED", default=None)
    cleanup_days_dead_letters: DaysOrNone = _named("CLEANUP_DAYS_DEAD_LETTERS", default=None)
    """Days that dead letters are kept, and their jobs; None: for ever."""
    alert_threshold: Whole = _named("QUEUE_ALERT_THRESHOLD", default=1_000, ge=1)
    max_pending: Bounds = _named("MAX_PENDING", default=None)
    """Jobs that may wait, in all or by the name of their queue; None: any number."""
    strict_priority: bool = _named("STRICT_PRIORITY", default=False)
    """Whether priorities order the jobs of all shards, and not of each by itself."""
    when_full: WhenFull = _named("WHEN_FULL", default=WhenFull.RAISE)
    event_log: LogLength = _named("QUEUE_MAX_EVENT_LOG", default=0)
    """Events kept in the log; 0: none is kept, nor written by this process."""
    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = _named(
        "QUEUE_MAX_LOG_LEVEL", default=LogLevel.WARNING
    )
    durability: Durability = Field(
        Durability.FULL, validation_alias=AliasChoices("QUEUE_MAX_DURABILITY")
    )

    @classmethod
    def load(cls, **given: object) -> Self:
        """Read the environment and `.env` beneath the arguments that are not None.

        Raises ConfigurationError, which names the variable or argument that was really set,
        its value and what is allowed.
        """
        arguments = {
            names_of(cls.model_fields[name])[0]: value
            for name, value in given.items()
            if value is not None
        }
        try:
            return cls(**arguments)  # type: ignore[arg-type]
        except ValidationError as error:
            raise ConfigurationError(_explain(error, arguments.keys())) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{ENV_FILE} is not UTF-8: {error}") from error
        except OSError as error:
            raise ConfigurationError(f"{ENV_FILE} cannot be read: {error.strerror}") from error


def names_of(field: FieldInfo) -> list[str]:
    """Tell the environment variables a setting is read from, the winning one first."""
    assert isinstance(field.validation_alias, AliasChoices)  # noqa: S101 - for the type checker
    return [str(choice) for choice in field.validation_alias.choices]


def misspelt() -> dict[str, str]:
    """Find variables that begin as ours do and are none, each with the nearest name of ours."""
    known = [name for field in Settings.model_fields.values() for name in names_of(field)]
    found = os.environ.keys() | dotenv_values(ENV_FILE).keys()  # noqa: TID251 - as below
    return {
        name: get_close_matches(name, known, n=1, cutoff=0)[0]
        for name in sorted(found)
        if name.startswith(PREFIX) and name not in known
    }


def _explain(error: ValidationError, arguments: Collection[str]) -> str:
    return "; ".join(
        f"{_source(str(problem['loc'][0]), arguments)}={shown(problem['input'])}: "
        f"{problem['msg'].removeprefix('Value error, ').removeprefix('Input ')}"
        for problem in error.errors(include_url=False)
    )


def _source(variable: str, arguments: Collection[str]) -> str:
    """Name what was really set: an argument, a variable, or a line of `.env`."""
    field, names = next(
        (field, names)
        for field, info in Settings.model_fields.items()
        if variable in (field, *(names := names_of(info)))  # a default goes by the field
    )
    if variable in arguments:
        return field
    for name in names:
        if os.environ.get(name):  # noqa: TID251 - this module is the edge
            return name
    written = dotenv_values(ENV_FILE)
    return next((f"{name} (in {ENV_FILE})" for name in names if written.get(name)), names[0])
