"""The line between a supervisor and a worker process, by which each hears of the other.

It is a pair of sockets. The kernel closes the supervisor's end when the supervisor dies, whatever
killed it, and the worker process reads the end of the line. That needs neither polling, as asking
for the parent does, nor Linux and ctypes, as PR_SET_PDEATHSIG does, which moreover strikes when
the *thread* ends that started the child. The other way go single bytes, which tell what an exit
code alone would not: a job can end its process with any of them.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress

BEGUN = b"b"
"""The worker process takes jobs: what was wrong with its options would have shown before."""

AT_LIMIT = b"l"
"""It has done or taken as much as it may, and ends for another one to take its place."""


class Lifeline:
    """A worker process's end of the line, by the number under which it was inherited."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # what jobs start is not to have it
        self._descriptor = descriptor

    def when_it_ends(self, action: Callable[[], object]) -> None:
        """Call that when the supervisor is no more, on a thread of its own."""

        def wait() -> None:
            with suppress(OSError):
                os.read(self._descriptor, 1)  # nothing is ever sent this way
            action()

        threading.Thread(target=wait, name="queue-max-supervisor", daemon=True).start()

    def tell(self, word: bytes) -> None:
        """Tell the supervisor; it may be gone."""
        with suppress(OSError):
            os.write(self._descriptor, word)
