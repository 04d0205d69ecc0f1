"""The queue of one app, as its configuration describes it."""

from collections.abc import Mapping, MutableMapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flask import Flask

from queue_max import checks, forking
from queue_max.assembly import open_directory
from queue_max.exceptions import ConfigurationError
from queue_max.queue import Queue
from queue_max.settings import Settings

NAME = "queue_max"
"""Under which it is in `app.extensions`."""

_PREFIX = "QUEUE_MAX_"

_SETTINGS = (
    *("data_dir", "shards", "rate_limit", "max_retries", "durability"),
    *("circuit_breaker_threshold", "circuit_breaker_timeout", "strict_priority"),
    *("max_pending", "when_full", "event_log"),
)

DEFAULTS: Mapping[str, Any] = {
    **{_PREFIX + name.upper(): None for name in _SETTINGS},
    f"{_PREFIX}IMMEDIATE": False,
}
"""Keys of an app's configuration; the arguments of `Queue`, for which the environment is asked
where they are None."""


class AppQueue:
    """Opens the queue of an app when it is first used; a server may fork before, or after.

    A queue that was `given` is used as it is, and stays open.
    """

    def __init__(self, config: MutableMapping[str, Any], given: Queue | None = None) -> None:
        for key, default in DEFAULTS.items():
            config.setdefault(key, default)
        self._config = config
        self._given = given
        self._opened: Queue | None = None
        self._lock = forking.lock()
        self._refuse_unknown()
        self.load_settings()

    @property
    def queue(self) -> Queue:
        """The queue; opened now if it was not before."""
        return self.open()

    def open(self, *, create: bool = True) -> Queue:
        """Give the queue; QueueNotFoundError where there is none, and none is to be made."""
        if self._given is not None:
            return self._given
        with self._lock:
            if self._opened is None:
                immediate = bool(self._config[f"{_PREFIX}IMMEDIATE"])
                self._opened = Queue(**self._options(), immediate=immediate, create=create)
            return self._opened

    def close(self) -> None:
        """Close what was opened here; it is opened anew when it is used again."""
        with self._lock:
            queue, self._opened = self._opened, None
        if queue is not None:
            queue.close()

    def load_settings(self) -> Settings:
        """Read the settings; raises ConfigurationError for bad ones."""
        return Settings.load(**self._options())

    @property
    def folder(self) -> Path:
        """Where the files lie; nothing is opened to tell that."""
        if self._given is not None:
            return self._given.services.folder
        return open_directory(self.load_settings()).path

    def get_stats(self) -> dict[str, Any]:
        """Tell how the queue is, as `Queue.get_stats` does."""
        return self.queue.get_stats()

    def _options(self) -> dict[str, Any]:
        if self._given is not None:
            return {"data_dir": self._given.services.folder, "shards": self._given.num_shards}
        return {name: self._config[_PREFIX + name.upper()] for name in _SETTINGS}

    def _refuse_unknown(self) -> None:
        for key in self._config:
            if key.startswith(_PREFIX) and key not in DEFAULTS:
                (nearest,) = get_close_matches(key, DEFAULTS, n=1, cutoff=0)
                raise ConfigurationError(
                    f"{key}={checks.shown(self._config[key])}: there is no such key in an app's "
                    f"configuration; did you mean {nearest}?"
                )


def queue_of(app: Flask) -> AppQueue:
    """Give the queue of an app; ConfigurationError where it has none."""
    found = app.extensions.get(NAME)
    if not isinstance(found, AppQueue):
        raise ConfigurationError(
            f"the app {app.name!r} has no queue: call init_app(app) of a QueueExtension"
        )
    return found
