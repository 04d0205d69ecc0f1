"""A supervisor: starts worker processes, replaces those that die, and ends with them.

It asks for little: any program will do as a child, and the time is handed in.
"""

import math
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from queue_max.cli.base import USAGE
from queue_max.cli.lifeline import AT_LIMIT, BEGUN
from queue_max.cli.signals import LOOK_EVERY, Signals

FIRST_PAUSE = 0.5
"""Seconds before a child that died is replaced; each time it dies soon again, twice as long."""

LONGEST_PAUSE = 30.0

LIVED_WELL = 30.0
"""Seconds after which a death counts as the first one."""

TAKEN_BACK = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of children that left at a second signal."""


class Backoff:
    """How long to wait before a child is replaced: the longer, the sooner the last ones died."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def after(self, lived: float) -> float:
        """Tell how many seconds to wait after a child that lived for so many."""
        pause = FIRST_PAUSE if lived >= LIVED_WELL else self._next
        self._next = min(pause * 2, LONGEST_PAUSE)
        return pause


@dataclass(slots=True)
class _Running:
    """A child process, and our end of the line to it."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket
    since: float
    is_asked: bool = False
    """It was asked to stop; a second signal would have it leave at once."""
    is_outdated: bool = False
    """Another one is to take its place."""

    def ask(self) -> None:
        if not self.is_asked:
            self.is_asked = True
            self.process.send_signal(signal.SIGTERM)

    def words(self) -> bytes:
        """Read all that it has told."""
        with self.line, suppress(BlockingIOError):
            return self.line.recv(64)
        return b""


@dataclass(slots=True)
class _Place:
    """Where one child runs at a time."""

    due_at: float
    """When the next one is to start; never, where that is infinite."""
    running: _Running | None = None
    backoff: Backoff = field(default_factory=Backoff)
    code: int = 0
    """The exit code of the last child, once no other one follows."""


class Supervisor:
    """Keeps as many child processes running as it has places.

    - `command(descriptor)` gives a child's command line; under that number it inherits its end
      of the line (`lifeline`), and may find out there that the supervisor is no more.
    - `say` tells people what happened.
    - `until_done`: a child that ends with 0 has done all there was to do, and is not replaced.
    - `has_changed` tells whether the children's program has since it was last asked: then all are
      replaced, and where none can run, one that can may follow.

    A child that ends with a usage error before it has begun is not replaced: the next one would
    fail alike. Children have a session of their own: what is typed at the terminal is heard by
    the supervisor alone, which passes it on.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        places: int,
        *,
        say: Callable[[str], object],
        until_done: bool = False,
        has_changed: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._say = say
        self._until_done = until_done
        self._has_changed = has_changed
        self._clock = clock
        self._is_stopping = False
        self._places = [_Place(due_at=-math.inf) for _ in range(places)]

    @property
    def is_over(self) -> bool:
        """Whether no child runs, and none will."""
        is_final = self._is_stopping or self._has_changed is None
        return is_final and not any(
            place.running or place.due_at < math.inf for place in self._places
        )

    @property
    def exit_code(self) -> int:
        """The highest exit code among the last children; of one that a signal killed, 128 more."""
        return max(place.code for place in self._places)

    def run(self, signals: Signals) -> int:
        """Tend the children until all is over; gives the exit code.

        The first signal asks them to end, the second one to leave at once.
        """
        heard = 0
        while True:
            self.tend()
            if self.is_over:
                break
            signals.wait_for(heard + 1, LOOK_EVERY)
            for _ in signals.received[heard:]:
                heard += 1
                self._pass_on(heard)
            if self._has_changed is not None and self._has_changed():
                self.replace_all()
        code = self.exit_code
        return 128 + signals.received[-1] if code in TAKEN_BACK else code

    def tend(self) -> None:
        """See which children have ended, and start those that are due."""
        for place in self._places:
            if place.running is not None and place.running.process.poll() is not None:
                self._has_ended(place, place.running)
            if place.running is None and place.due_at <= self._clock():
                self._start(place)

    def stop(self) -> None:
        """Ask all children to end, and start no other."""
        self._is_stopping = True
        for place in self._places:
            place.due_at = math.inf
            if place.running is not None:
                place.running.ask()

    def hurry(self) -> None:
        """Have the children leave at once, after they were asked to end."""
        for place in self._places:
            if place.running is not None:
                # Another signal than before: of two alike, one is lost while none was looked at.
                place.running.process.send_signal(signal.SIGINT)

    def replace_all(self) -> None:
        """Have another child in each place, once the one there has ended."""
        if self._is_stopping:
            return
        for place in self._places:
            place.backoff = Backoff()
            if place.running is None:
                place.due_at = self._clock()
            else:
                place.running.is_outdated = True
                place.running.ask()

    def _pass_on(self, heard: int) -> None:
        if heard == 1:
            self.stop()
        elif heard == 2:
            self.hurry()

    def _start(self, place: _Place) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - it is for the caller to say what runs
                    self._command(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:  # no memory, or too many processes
            ours.close()
            self._say(f"No process can be started: {error}")
            place.due_at = self._clock() + place.backoff.after(lived=0.0)
            return
        place.running = _Running(process, ours, self._clock())

    def _has_ended(self, place: _Place, child: _Running) -> None:
        code, words = child.process.returncode, child.words()
        place.running = None
        place.due_at = self._next_start(place, child, words)
        is_last = place.due_at == math.inf
        place.code = _as_exit_code(code, has_begun=BEGUN in words) if is_last else 0

    def _next_start(self, place: _Place, child: _Running, words: bytes) -> float:
        code, now = child.process.returncode, self._clock()
        is_at_limit = code == 0 and AT_LIMIT in words
        is_done = code == 0 and self._until_done and not is_at_limit
        if self._is_stopping or is_done:
            return math.inf
        if child.is_outdated or is_at_limit:
            return now
        died = f"Process {child.process.pid} {_how(code)}"
        if code == USAGE and BEGUN not in words:
            self._say(f"{died} before it began; {self._chance()}.")
            return math.inf
        pause = place.backoff.after(now - child.since)
        self._say(f"{died}; another one starts in {pause:g} s.")
        return now + pause

    def _chance(self) -> str:
        if self._has_changed is None:
            return "it is not started again"
        return "another one starts when a file has changed"


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _as_exit_code(code: int, *, has_begun: bool) -> int:
    if code == -signal.SIGTERM and not has_begun:  # it was asked to stop, and had nothing to end
        return 0
    return 128 - code if code < 0 else code
