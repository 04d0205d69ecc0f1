"""What a process with workers does beside its jobs: it keeps their leases, and recovers orphans."""

import weakref

from queue_max import forking
from queue_max.queue import Queue
from queue_max.repeater import Repeater

_of_queue: "weakref.WeakKeyDictionary[Queue, Upkeep]" = weakref.WeakKeyDictionary()
_lock = forking.lock()


class Upkeep:
    """Two background loops, shared by all workers of a queue while at least one runs."""

    def __init__(self, queue: Queue) -> None:
        self._services = queue.services
        self._workers = 0
        self._loops: list[Repeater] = []
        forking.in_child(self._forget)

    @classmethod
    def of(cls, queue: Queue) -> "Upkeep":
        """Give the one upkeep of a queue in this process."""
        with _lock:
            return _of_queue.setdefault(queue, cls(queue))

    def join(self) -> None:
        """Note that a worker begins."""
        with _lock:
            self._workers += 1
            if self._workers == 1:
                self._start()

    def leave(self) -> None:
        """Note that a worker has ended."""
        with _lock:
            self._workers -= 1
            loops = self._loops if self._workers == 0 else []
        for loop in loops:
            loop.stop()

    def _forget(self) -> None:
        """Begin without workers, in a child of fork: they run in the parent."""
        self._workers = 0
        self._loops = []

    def _start(self) -> None:
        settings = self._services.settings
        # However the settings are, a lease has three chances to be renewed before it is over.
        heartbeat_ms = min(settings.heartbeat_interval_ms, settings.stuck_timeout_ms / 3)
        self._loops = [
            Repeater(
                "queue-max-heartbeat",
                heartbeat_ms / 1000,
                self._services.leases.renew,
            ),
            Repeater(
                "queue-max-recovery",
                settings.recovery_interval_ms / 1000,
                self._services.recovery.recover,
            ),
        ]
        for loop in self._loops:
            loop.start()
