"""A queue as several processes have it: real services on real files, and what lies in them."""

import math
import os
import random
import shutil
import tempfile
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from support.clock import FakeClock

from queue_max.domain.events import EVENTS, Events
from queue_max.domain.leases import LeaseWatch
from queue_max.domain.retention import DaysKept
from queue_max.domain.retry import RetryPolicy
from queue_max.limits.breaker import Terms
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store
from queue_max.services.admission import Admission
from queue_max.services.backlog import BacklogAlarm
from queue_max.services.breaker_rules import BreakerRules
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.dispatch import DispatchService
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService
from queue_max.services.leases import LeaseService
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits
from queue_max.services.recovery import RecoveryService
from queue_max.services.retention import RetentionService
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService
from queue_max.services.shard_watch import ShardWatch
from queue_max.storage import driver
from queue_max.storage.directory import Directory
from queue_max.storage.presence import Presence
from queue_max.storage.room import Room
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

SHARDS = range(2)
LEASE_TIME = 30
MAX_RETRIES = 3

Row = dict[str, Any]


def migrate(folder: Path) -> Path:
    """Make shard files to copy from, which is faster than to migrate new ones; gives the folder."""
    directory = Directory(folder, SqliteOptions(full_sync=False))
    directory.open(len(SHARDS))
    directory.close()
    return folder


class World:
    """The services that all processes have alike, on shards of their own."""

    def __init__(self, migrated: Path) -> None:
        self.folder = folder = Path(tempfile.mkdtemp(dir=migrated.parent))
        files = [Path(shutil.copy(migrated / f"shard_{n}.db", folder)) for n in SHARDS]
        self.wall = FakeClock()
        self.monotonic = FakeClock()
        options, rng = SqliteOptions(full_sync=False), random.Random(7)
        shards = [SqliteDatabase(file, n, options) for n, file in enumerate(files)]
        self.store = store = Store(shards, self.wall)
        self.events = events = Events()
        self.told: Counter[str] = Counter()
        for name in EVENTS:
            events.on(name, partial(self._note, name))
        path = Path(shutil.copy(migrated / "control.db", folder))
        self.control = control = Control(SqliteDatabase(path, None, options), clock=self.wall)
        controls = Controls(control)
        rules = BreakerRules(Terms(math.inf, 60.0))
        admission = Admission(
            controls,
            RateLimits(control, controls),
            Breakers(control, controls, events, rules, 30.0),
            rules,
            Permits(control, controls, store),
        )
        alarm = BacklogAlarm(store, events, 1_000)
        self.intake = IntakeService(
            store, events, alarm, Room(folder), lambda _shard_id: None, rng, MAX_RETRIES
        )
        self.settlement = SettlementService(store, admission, events)
        self.dead_letters = DeadLetterService(store, MAX_RETRIES)
        self.retry = RetryService(store, RetryPolicy(), rng, self.dead_letters, admission, events)
        self.dispatch = DispatchService(
            store, self.retry, admission, rng, events, ShardWatch(events)
        )
        self.retention = RetentionService(store, DaysKept(7))
        self.inspection = InspectionService(store)
        # By the library the package uses: another one would drop its locks on closing.
        self._files = [driver.choose().module.connect(file) for file in files]

    def rows(self, shard_id: int, table: str) -> list[Row]:
        """Read a table as it lies in the file, in the words it has there."""
        cursor = self._files[shard_id].execute(f"SELECT * FROM {table} ORDER BY id")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, values, strict=True)) for values in cursor]

    def everything(self) -> list[list[Row]]:
        """Read all that jobs leave behind."""
        tables = ("fila", "dead_letter_queue", "attempts")
        return [self.rows(shard_id, table) for shard_id in SHARDS for table in tables]

    def close(self) -> None:
        self.store.close()
        self.control.close()
        for file in self._files:
            file.close()
        shutil.rmtree(self.folder)

    def _note(self, event: str, **_: object) -> None:
        self.told[event] += 1


class Process:
    """One of the processes that work on the queue, from its start to its death."""

    def __init__(self, world: World) -> None:
        clock = world.monotonic
        self.presence = Presence(world.folder)
        self.presence.appear()
        self.leases = LeaseService(world.store, self.presence)
        self.recovery = RecoveryService(
            world.store,
            world.retry,
            self.presence,
            LeaseWatch(LEASE_TIME, clock=lambda: clock.now.timestamp()),
            timedelta(seconds=LEASE_TIME),
        )

    @property
    def identity(self) -> str:
        assert self.presence.identity is not None
        return self.presence.identity

    def crash(self) -> None:
        """End without a word, as by SIGKILL: the kernel closes the file."""
        assert self.presence._file is not None
        os.close(self.presence._file)
        self.presence._file = None
