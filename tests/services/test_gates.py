"""Jobs behind gates that open and close by chance, in two processes: each ends exactly once."""

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.clock import FakeClock
from support.jobs import a_new_job

from queue_max.domain.events import Events
from queue_max.domain.job import Job
from queue_max.domain.queues import QueueChoice
from queue_max.domain.retry import RetryPolicy
from queue_max.domain.tasks import Abilities
from queue_max.limits.breaker import Terms
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.admission import Admission
from queue_max.services.breaker_rules import BreakerRules
from queue_max.services.breaker_service import BreakerService
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.dispatcher import Dispatcher
from queue_max.services.exchange import Ended, Exchange
from queue_max.services.leases import LeaseService
from queue_max.services.limits import LimitService
from queue_max.services.pace import Pace
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits
from queue_max.services.retry import RetryService
from queue_max.services.settlement import SettlementService
from queue_max.services.shard_watch import ShardWatch
from queue_max.services.unknown_tasks import UnknownTasks
from queue_max.storage.presence import Presence
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

SHARDS = range(2)
AT_ONCE = {"key:one": 1, "key:two": 2, "task:narrow": 2}
"""How many jobs run at once of those scopes."""
RATES = {"key:slow": "20/s burst 3", "task:rated": "5/s burst 1", "queue:mail": "50/s burst 10"}


class RunsAll:
    def can_run(self, _job: Job) -> bool:
        return True

    def gates(self) -> set[str]:
        return set()


class Done(Ended):
    is_simply_done = True

    def __init__(self, job: Job, tell: Callable[[Job, bool], None]) -> None:
        super().__init__(job)
        self._tell = tell

    def write(self, unit: UnitOfWork) -> bool:
        raise NotImplementedError

    def tell(self, is_written: bool) -> None:
        self._tell(self.job, is_written)


class Process:
    """The services of one process, with jobs that run in it."""

    def __init__(self, world: "World", number: int) -> None:
        clock, control, store = world.clock, world.control, world.store
        self._world = world
        self.number = number
        events, rng = Events(), random.Random(number)
        self.controls = Controls(control, clock=world.seconds)
        rates = RateLimits(control, self.controls, clock=world.ticks)
        rules = BreakerRules(Terms(3, 5.0))
        self._breakers = Breakers(control, self.controls, events, rules, 30.0, clock=world.ticks)
        self.breakers = BreakerService(control, self._breakers, rules)
        permits = Permits(control, self.controls, store, clock=world.seconds)
        self.limits = LimitService(control, self.controls, store, rates, permits)
        self._admission = Admission(self.controls, rates, self._breakers, rules, permits)
        self._leases = LeaseService(store, Presence(world.folder))
        letters = DeadLetterService(store, 3)
        self.retry = RetryService(store, RetryPolicy(), rng, letters, self._admission, events)
        self._settlement = SettlementService(store, self._admission, events)
        abilities = Abilities()
        self._exchange = Exchange(
            store, self._settlement, self.retry, self._leases, self._admission, abilities
        )
        self.dispatcher = Dispatcher(
            store.shard_ids,
            QueueChoice(("default", "mail")),
            self._exchange,
            abilities,
            UnknownTasks(events),
            self.retry,
            self._admission,
            self._leases,
            rng,
            ShardWatch(events),
            clock=lambda: clock.now.timestamp(),
        )
        self.dispatcher.join(RunsAll(), places=4)
        self.running: list[Job] = []

    def take(self, number: int) -> None:
        """Begin so many jobs, if there are any."""
        for _ in range(number):
            job = self.dispatcher.take(f"worker-{self.number}", 1.0)
            if job is None:
                return
            self.running.append(job)
            self._world.has_begun(job)

    def end(self, number: int, *, well: bool) -> None:
        """End so many of those that run."""
        for _ in range(min(number, len(self.running))):
            job = self.running.pop(0)
            self._world.running.remove(job)
            if well:
                self.dispatcher.finish(Done(job, self._is_done))
            else:
                self.retry.settle_job(job, "it is down")
                self._leases.drop(job.lease)

    def _is_done(self, job: Job, is_written: bool) -> None:
        assert is_written
        self._settlement.tell(job.lease, job.breaker)
        self._world.ended[job.key] += 1

    def look_after(self) -> None:
        """Do what is done beside the jobs, several times a second."""
        self.dispatcher.flush()
        self.dispatcher._tend()
        for shard_id in SHARDS:
            while self._exchange.release_held(shard_id):
                self.dispatcher.hint(shard_id)
            if lines := self._exchange.lines(shard_id):
                self.dispatcher.hint(shard_id, lines)


class World:
    """Two processes on two shards; and what they may not do."""

    def __init__(self, migrated: Path, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        options = SqliteOptions(full_sync=False)
        path = Path(shutil.copy(migrated / "control.db", folder))
        self.control = Control(SqliteDatabase(path, None, options), clock=self.clock)
        files = [Path(shutil.copy(migrated / f"shard_{n}.db", folder)) for n in SHARDS]
        shards = [SqliteDatabase(file, n, options) for n, file in enumerate(files)]
        self.store = Store(shards, self.clock, lambda key: AT_ONCE.get(f"key:{key}", 1))
        self.running: list[Job] = []
        self.ended: Counter[str] = Counter()
        self.crew = [Process(self, number) for number in range(2)]
        self.store.on_release = self._hint
        for scope, number in AT_ONCE.items():
            self.crew[0].limits.set(scope, concurrency=number)
        for scope, rate in RATES.items():
            self.crew[0].limits.set(scope, rate=rate)
        self.clock.advance(1)

    def seconds(self) -> float:
        return self.clock.now.timestamp()

    def ticks(self) -> int:
        return round(self.clock.now.timestamp() * 1_000) * 1_000_000

    def _hint(self, shard_id: int) -> None:
        for process in getattr(self, "crew", ()):
            process.dispatcher.hint(shard_id)

    def add(self, shard_id: int, new: list[dict[str, Any]]) -> int:
        with self.store.writing(shard_id) as unit:
            unit.jobs.add([a_new_job(max_attempts=50, **fields) for fields in new])
        self._hint(shard_id)
        return len(new)

    def has_begun(self, job: Job) -> None:
        """See that no more run at once than may."""
        assert self.ended[job.key] == 0
        assert all(other.key != job.key for other in self.running)
        self.running.append(job)
        tasks = Counter(f"task:{each.task}" for each in self.running)
        assert tasks["task:narrow"] <= AT_ONCE["task:narrow"]
        for shard_id in SHARDS:
            of_shard = [each for each in self.running if each.shard_id == shard_id]
            keys = Counter(f"key:{each.concurrency_key}" for each in of_shard)
            assert keys["key:one"] <= AT_ONCE["key:one"]
            assert keys["key:two"] <= AT_ONCE["key:two"]

    def open_all(self) -> None:
        """Let nothing hold jobs but the limits."""
        for scope in self.crew[0].limits.paused():
            self.crew[0].limits.resume(scope)
        for name in self.crew[0].breakers.list():
            self.crew[0].breakers.close(name)

    def run_to_the_end(self, number: int) -> None:
        """Let all jobs end that there are, in a bounded number of rounds."""
        for _ in range(150):
            for process in self.crew:
                process.end(50, well=True)
                process.look_after()
                process.take(4)
            if sum(self.ended.values()) == number:
                return
            self.clock.advance(0.25 if self.running else 2.0)
        held = [list(self._held(shard_id)) for shard_id in SHARDS]
        pytest.fail(f"{sum(self.ended.values())} of {number} have ended; held by {held}")

    def _held(self, shard_id: int) -> Iterator[str]:
        with self.store.reading(shard_id) as unit:
            yield from unit.lines.gates()

    def close(self) -> None:
        self.store.close()
        self.control.close()


some_jobs = st.fixed_dictionaries(
    {
        "queue": st.sampled_from(["default", "mail"]),
        "task": st.sampled_from([None, "narrow", "rated"]),
        "rate_key": st.sampled_from([None, None, "slow"]),
        "concurrency_key": st.sampled_from([None, "one", "two"]),
        "breaker": st.sampled_from([None, None, "stripe"]),
        "priority": st.integers(0, 2),
        "delay": st.sampled_from([0, 0, 0, 1]),
    }
)
pausable = st.sampled_from(["queue:mail", "task:narrow", "task:rated", "shard:1"])


@dataclass(frozen=True)
class Step:
    what: str
    who: int
    number: int
    scope: str
    jobs: list[dict[str, Any]]
    passes: float


steps = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(
            ["add", "take", "take", "done", "done", "fail", "pause", "resume", "open", "look after"]
        ),
        who=st.integers(0, 1),
        number=st.integers(1, 5),
        scope=pausable,
        jobs=st.lists(some_jobs, min_size=1, max_size=5),
        passes=st.sampled_from([0, 0, 0.01, 0.1, 0.25, 1.0, 6.0]),
    ),
    max_size=25,
)


@contextmanager
def a_world(migrated: Path) -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=migrated.parent) as folder:
        world = World(migrated, Path(folder))
        yield world
        world.close()


def act(world: World, step: Step) -> int:
    """Take a step; gives how many jobs it added."""
    process = world.crew[step.who]
    world.clock.advance(step.passes)
    match step.what:
        case "add":
            return world.add(step.number % 2, step.jobs)
        case "take":
            process.take(step.number)
        case "done" | "fail":
            process.end(step.number, well=step.what == "done")
        case _:
            control(process, step)
    return 0


def control(process: Process, step: Step) -> None:
    match step.what:
        case "pause":
            process.limits.pause(step.scope)
        case "resume":
            process.limits.resume(step.scope)
        case "open":
            process.breakers.open("stripe" if step.number > 2 else "default", 3.0)
        case "look after":
            process.look_after()


@pytest.fixture(autouse=True, scope="module")
def _hungry() -> Iterator[None]:
    """Claim up to five jobs at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "appetite", lambda _pace, _workers, _now: 5)
        yield


# A failure is not made smaller: each try takes a while.
@settings(
    deadline=None,
    max_examples=25,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(first=st.lists(some_jobs, min_size=5, max_size=15), steps=steps)
def test_each_job_ends_exactly_once_however_gates_open_and_close(
    migrated: Path, first: list[dict[str, Any]], steps: list[Step]
) -> None:
    with a_world(migrated) as world:
        number = world.add(0, first)
        for step in steps:
            number += act(world, step)
        world.open_all()
        world.run_to_the_end(number)
        assert set(world.ended.values()) == {1}
        for shard_id in SHARDS:
            with world.store.reading(shard_id) as unit:
                counts = unit.job_lists.counts()
            assert counts.pending + counts.scheduled + counts.processing == 0
