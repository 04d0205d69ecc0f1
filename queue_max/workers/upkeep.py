"""What a process with workers does beside its jobs.

It shows that it lives, keeps the leases of its jobs, recovers the jobs of others that died, and
stores those of schedules.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from queue_max import forking
from queue_max.domain.queues import QueueChoice
from queue_max.exceptions import QueueClosedError, QueueError, ShardError
from queue_max.queue import Queue
from queue_max.repeater import Repeater
from queue_max.repositories.workers import Crew
from queue_max.services.dispatcher import Dispatcher
from queue_max.storage import bells
from queue_max.storage.bells import Bell
from queue_max.workers.overseer import Employer, Overseer
from queue_max.workers.repertoire import Repertoire, tasks
from queue_max.workers.telling import Teller

logger = logging.getLogger(__name__)

LOOK_FOR_DEAD = 0.5
"""Seconds between two looks for processes of this host that are no more."""

HEAR_FOR = 60.0
"""Seconds for which a bell is listened to at a stretch."""

BETWEEN_RINGS = 0.002
"""Seconds for which rings are gathered: a busy process is not to spend its time on hearing them."""

HELD_EVERY = 0.5
"""Seconds between two looks for jobs that were set aside, and may run by now."""

DECLARE_EVERY = 1.0
"""Seconds between two tries to store the schedules of tasks."""

TIDY = 60.0
"""Seconds between two rounds of deleting what is no longer needed."""

_of_queue: "weakref.WeakKeyDictionary[Queue, Upkeep]" = weakref.WeakKeyDictionary()
_lock = forking.lock()


class Member(Employer, Protocol):
    """A worker, as far as it is looked after."""

    @property
    def repertoire(self) -> Repertoire:
        """What it can run."""

    @property
    def dispatcher(self) -> Dispatcher:
        """What gives it jobs."""

    @property
    def places(self) -> int:
        """How many jobs it runs at once."""

    def chosen_queues(self) -> QueueChoice:
        """Tell which queues it takes jobs from."""


class Upkeep:
    """Background loops, shared by all workers of a queue while at least one runs."""

    def __init__(self, queue: Queue) -> None:
        self._queue = weakref.ref(queue)
        self._services = queue.services
        self.overseer = Overseer(queue.services.leases)
        self._crew: list[Member] = []
        self._loops: list[Repeater] = []
        self._threads: list[threading.Thread] = []
        self._tended: set[Dispatcher] = set()
        self._bell: Bell | None = None
        self._teller = Teller()
        self._stopping = threading.Event()
        forking.in_child(self._forget)

    @classmethod
    def of(cls, queue: Queue) -> "Upkeep":
        """Give the one upkeep of a queue in this process."""
        with _lock:
            return _of_queue.setdefault(queue, cls(queue))

    def join(self, worker: Member) -> None:
        """Note that a worker begins."""
        self._services.controls.declare(limit for limit in tasks.limits() if limit.says_something)
        with _lock:
            worker.dispatcher.join(worker.repertoire, worker.places)
            self._crew.append(worker)
            self.overseer.watch(worker)
            if len(self._crew) == 1:
                self._start()
            if worker.dispatcher not in self._tended:
                self._tended.add(worker.dispatcher)
                self._start_thread("queue-max-settling", self._heedless(worker.dispatcher.tend))

    def leave(self, worker: Member) -> None:
        """Note that a worker has ended."""
        with _lock:
            worker.dispatcher.leave(worker.repertoire, worker.places)
            self._crew.remove(worker)
            self.overseer.forget(worker)
            if self._crew:
                return
            loops, threads, bell, teller = self._loops, self._threads, self._bell, self._teller
            self._stopping.set()
            self._services.dispatchers.wake()
            self.overseer.wake()
            if bell is not None:
                bell.ring()
            # Within the lock: a worker that begins just now is to keep its new identity.
            self._let_go()
            self._sign_off()
            self._services.presence.vanish()
        for loop in loops:
            loop.stop()
        for thread in threads:
            thread.join()
        teller.stop()
        if bell is not None:
            bell.take_down()

    def _let_go(self) -> None:
        """Leave nothing behind that was claimed and not begun."""
        try:
            self._services.dispatchers.give_all_back()
        except QueueClosedError:
            return

    def _forget(self) -> None:
        """Begin without workers, in a child of fork: they run in the parent."""
        self.overseer = Overseer(self._services.leases)
        self._crew = []
        self._loops = []
        self._threads = []
        self._tended = set()
        self._bell = None

    def _tidy(self) -> None:
        self._services.retention.tidy()
        self._services.limits.balance_keys()

    def _show(self) -> None:
        """Show in the control database that this process lives; leases must not wait for that."""
        self._services.breakers.renew()
        self._sign()

    def _sign(self) -> None:
        """Let others see which jobs this process takes."""
        identity = self._services.presence.identity
        with _lock:
            crew = list(self._crew)
        if identity is None or not crew:
            return
        queues = sorted({name for each in crew for name in each.chosen_queues().names})
        abilities = sorted({gate for each in crew for gate in each.repertoire.gates()})
        places = sum(each.places for each in crew)
        self._services.roster.sign(Crew(identity, queues, abilities, places))

    def _sign_off(self) -> None:
        identity = self._services.presence.identity
        if identity is None:
            return
        try:
            self._services.roster.leave(identity)
        except QueueClosedError:
            return
        except Exception:
            logger.exception("others see for some seconds more that this process works")

    def _release_held(self) -> None:
        """Let jobs run that were set aside, where nothing holds them any more."""
        for shard_id in self._services.store.shard_ids:
            with suppress(ShardError):  # another try follows
                while self._services.dispatchers.release_held(shard_id):
                    self._services.dispatchers.hint(shard_id)

    def _start(self) -> None:
        settings, presence = self._services.settings, self._services.presence
        self._bell = None
        try:
            presence.appear()
            if presence.identity is not None and bells.ARE_POSSIBLE:
                self._bell = Bell(self._services.folder, presence.identity)
        except OSError as error:
            logger.warning("others see by its leases alone whether this process lives: %s", error)
        self._teller = Teller()
        self._teller.start()
        # However the settings are, a lease has three chances to be renewed before it is over.
        heartbeat_ms = min(settings.heartbeat_interval_ms, settings.stuck_timeout_ms / 3)
        self._loops = [
            Repeater(
                "queue-max-heartbeat",
                heartbeat_ms / 1000,
                self._services.leases.renew,
            ),
            Repeater("queue-max-roster", heartbeat_ms / 1000, self._show, at_once=True),
            Repeater(
                "queue-max-recovery",
                settings.recovery_interval_ms / 1000,
                self._heedless(self._services.recovery.recover_silent),
            ),
            Repeater("queue-max-retention", TIDY, self._tidy),
            Repeater("queue-max-held", HELD_EVERY, self._release_held, at_once=True),
            Repeater(
                "queue-max-orphans",
                LOOK_FOR_DEAD,
                self._heedless(self._services.recovery.recover_dead),
            ),
        ]
        for loop in self._loops:
            loop.start()
        self._stopping = threading.Event()
        self._threads = []
        self._tended = set()
        for name, work, *more in self._works():
            self._start_thread(name, work, *more)

    def _start_thread(self, name: str, work: Callable[..., None], *more: Any) -> None:
        thread = threading.Thread(target=work, args=(self._stopping, *more), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _heedless(self, work: Callable[..., object]) -> Callable[..., None]:
        """Have the callbacks for what is published there called elsewhere: it waits for none."""
        tell = self._teller.tell

        def run(*arguments: Any) -> None:
            with self._services.events.told_elsewhere(tell):
                work(*arguments)

        return run

    def _works(self) -> Iterator[tuple[Any, ...]]:
        """Give what threads do until they are told to stop: a name, a function, its arguments."""
        yield "queue-max-overseer", self.overseer.oversee
        yield "queue-max-schedules", self._heedless(self._tend_schedules)
        if self._bell is not None:
            yield "queue-max-hearing", self._hear, self._bell

    def _tend_schedules(self, stopping: threading.Event) -> None:
        """See to all schedules; first store what the tasks of this process declare."""
        while not self._declare() and not stopping.wait(DECLARE_EVERY):
            continue
        self._services.schedules.tend(stopping)

    def _declare(self) -> bool:
        """Store limits and schedules of tasks; False when that is worth another try."""
        if (queue := self._queue()) is None:
            return True
        try:
            tasks.declare(queue)
        except ShardError as error:
            logger.warning(
                "limits and schedules of tasks were not declared, another try follows: %s", error
            )
            return False
        except QueueError as error:
            logger.error("limits and schedules of tasks were not declared: %s", error)
        return True

    def _hear(self, stopping: threading.Event, bell: Bell) -> None:
        """Hear from other processes where there are new jobs."""
        services = self._services
        while not stopping.is_set():
            for shard_id in bell.heard(HEAR_FOR):
                if shard_id in services.store.shard_ids:
                    services.dispatchers.hint(shard_id)
            stopping.wait(BETWEEN_RINGS)
