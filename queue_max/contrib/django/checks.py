"""What `manage.py check` says of `settings.QUEUE_MAX`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.checks import CheckMessage, Error

from queue_max.contrib.django import conf
from queue_max.exceptions import ConfigurationError


def check_settings(**_: Any) -> list[CheckMessage]:
    """Check QUEUE_MAX; no file is made, and none opened."""
    return list(_problems())


def _problems() -> Iterator[CheckMessage]:
    try:
        unknown = conf.unknown_keys()
    except ConfigurationError as error:
        yield Error(str(error), id="queue_max.E001")
        return
    for key, nearest in unknown.items():
        yield Error(
            f"QUEUE_MAX has the key {key!r}, which means nothing.",
            hint=f"Did you mean {nearest}? There are {', '.join(conf.KEYS)}.",
            id="queue_max.E002",
        )
    if unknown:
        return
    try:
        folder = conf.load_settings().data_dir
    except ConfigurationError as error:
        yield Error(f"QUEUE_MAX: {error}", id="queue_max.E003")
        return
    if obstacle := _obstacle(folder):
        yield Error(
            f"QUEUE_MAX: DATA_DIR={str(folder)!r} cannot be written: {obstacle}",
            hint="Name a folder that this user may write to, or make.",
            id="queue_max.E004",
        )


def _obstacle(folder: Path) -> str | None:
    """Tell what keeps this user from writing to a folder, or from making it."""
    place = folder.expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is no folder"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"this user may not write to {place}"
    return None
