"""Which processes take jobs: signed by each now and then, for others to see."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from queue_max.exceptions import ShardError
from queue_max.repositories.control import Control
from queue_max.repositories.workers import Crew

logger = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two signatures of a process, where nothing is new."""

LIVES_FOR = timedelta(seconds=40)
"""How long a process counts as alive after it has signed."""

PATIENCE = 1.0
"""Seconds to wait for the control database."""

FORGOTTEN_AFTER = timedelta(days=1)


class Roster:
    """Keeps the list of those who work. It is soft: no job depends on it."""

    def __init__(self, control: Control, clock: Callable[[], float] = time.monotonic) -> None:
        self._control = control
        self._clock = clock
        self._signed: Crew | None = None
        self._due_at = float("-inf")

    def sign(self, crew: Crew) -> None:
        """Let others see what a process does; writes only when that is new, or was long ago."""
        if crew == self._signed and self._clock() < self._due_at:
            return
        try:
            with self._control.noting(PATIENCE) as unit:
                unit.workers.see(crew)
                unit.workers.forget_silent(unit.now - FORGOTTEN_AFTER)
        except ShardError as error:
            logger.warning("others do not see what this process does: %s", error)
            return
        self._signed, self._due_at = crew, self._clock() + EVERY

    def leave(self, identity: str) -> None:
        """Let others see that a process takes no jobs any more."""
        self._signed = None
        try:
            with self._control.noting(PATIENCE) as unit:
                unit.workers.forget(identity)
        except ShardError as error:
            logger.warning("others see this process for some seconds more: %s", error)

    def present(self) -> Sequence[Crew]:
        """Read who takes jobs, by identity."""
        with self._control.reading() as unit:
            return unit.workers.seen(unit.now - LIVES_FOR)
