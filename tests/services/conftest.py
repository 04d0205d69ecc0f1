"""Services on real SQLite files; time and chance are the tests' own, and so are the limits."""

import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool
from support.clock import FakeClock
from support.jobs import a_new_job

from queue_max.domain.events import EVENTS, Events
from queue_max.domain.job import DEFAULT_QUEUE, Job, JobStatus
from queue_max.domain.leases import LeaseWatch
from queue_max.domain.retention import DaysKept
from queue_max.domain.retry import RetryPolicy
from queue_max.limits.breaker import Terms
from queue_max.limits.rates import rates_of
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store
from queue_max.services.admission import Admission
from queue_max.services.backlog import BacklogAlarm
from queue_max.services.breaker_rules import BreakerRules
from queue_max.services.breaker_service import BreakerService
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.dispatch import DispatchService
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService
from queue_max.services.leases import LeaseService
from queue_max.services.limits import LimitService
from queue_max.services.of_the_queue import QueueCircuitBreaker, QueueRateLimiter
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits
from queue_max.services.recovery import RecoveryService
from queue_max.services.retention import RetentionService
from queue_max.services.retry import RetryService
from queue_max.services.schedules import ScheduleService
from queue_max.services.settlement import SettlementService
from queue_max.services.shard_watch import ShardWatch
from queue_max.storage.directory import Directory
from queue_max.storage.presence import Presence
from queue_max.storage.room import Room
from queue_max.storage.sqlite import SqliteDatabase, SqliteOptions

MOST_SHARDS = 3
LEASE_TIME = timedelta(seconds=30)


# What a test may choose, by parametrizing it


@pytest.fixture
def shard_count() -> int:
    return 1


@pytest.fixture
def busy_timeout_ms() -> int:
    return 20_000


@pytest.fixture
def rate_limit() -> float:
    """Jobs a minute."""
    return math.inf


@pytest.fixture
def failure_threshold() -> float:
    return math.inf


@pytest.fixture
def alert_threshold() -> int:
    return 1_000


@pytest.fixture
def kept() -> DaysKept:
    return DaysKept(7)


# The shards


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard files to copy from, which is faster than to migrate new ones."""
    path = tmp_path_factory.mktemp("migrated")
    directory = Directory(path, SqliteOptions(full_sync=False))
    directory.open(MOST_SHARDS)
    directory.close()
    return path


@pytest.fixture
def shard_files(migrated: Path, tmp_path: Path, shard_count: int) -> list[Path]:
    return [
        Path(shutil.copy(migrated / f"shard_{number}.db", tmp_path))
        for number in range(shard_count)
    ]


@pytest.fixture
def shards(shard_files: list[Path], busy_timeout_ms: int) -> list[SqliteDatabase]:
    options = SqliteOptions(full_sync=False, busy_timeout_ms=busy_timeout_ms)
    return [SqliteDatabase(path, number, options) for number, path in enumerate(shard_files)]


@pytest.fixture
def store(shards: list[SqliteDatabase], clock: FakeClock, controls: Controls) -> Iterator[Store]:
    store = Store(shards, clock, controls.places_of_key)
    yield store
    store.close()


@pytest.fixture
def control(migrated: Path, tmp_path: Path, clock: FakeClock) -> Iterator[Control]:
    path = Path(shutil.copy(migrated / "control.db", tmp_path))
    control = Control(SqliteDatabase(path, None, SqliteOptions(full_sync=False)), clock=clock)
    yield control
    control.close()


@pytest.fixture
def locked(shard_files: list[Path]) -> Callable[[int], AbstractContextManager[None]]:
    """Let another program write to a shard meanwhile."""

    @contextmanager
    def locked(shard_id: int) -> Iterator[None]:
        options = SqliteOptions(full_sync=False)
        database = SqliteDatabase(shard_files[shard_id], shard_id, options)
        with database.writing():
            yield
        database.close()

    return locked


@pytest.fixture
def damage(shards: list[SqliteDatabase]) -> Callable[[int], None]:
    """Overwrite the file of a shard."""

    def damage(shard_id: int) -> None:
        shards[shard_id].close()  # so that nothing of it is left in memory
        shards[shard_id].path.write_bytes(b"This is not a database. " * 1_000)

    return damage


@pytest.fixture
def statements(shards: list[SqliteDatabase]) -> Iterator[list[str]]:
    """The SQL that is run from now on, but for the ends of transactions."""
    run: list[str] = []

    def note(sql: str) -> None:
        if sql not in {"COMMIT", "ROLLBACK"}:
            run.append(sql)

    def listen(connection: Any, *_: object) -> None:
        connection.set_trace_callback(note)

    for shard in shards:
        if shard._writer._connection is not None:
            listen(shard._writer._connection.connection.driver_connection)
    event.listen(Pool, "checkout", listen)
    yield run
    event.remove(Pool, "checkout", listen)


# The services


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def told(events: Events) -> list[tuple[str, dict[str, Any]]]:
    """What has been published, in order."""
    told: list[tuple[str, dict[str, Any]]] = []

    def note(event: str, **facts: Any) -> None:
        told.append((event, facts))

    for name in EVENTS:
        events.on(name, partial(note, name))
    return told


@pytest.fixture
def ticks(clock: FakeClock) -> Callable[[], int]:
    """The clock that limits go by, which is that of the control database."""
    return lambda: round(clock.now.timestamp() * 1_000) * 1_000_000


@pytest.fixture
def controls(control: Control, clock: FakeClock) -> Controls:
    return Controls(control, clock=lambda: clock.now.timestamp())


@pytest.fixture
def rates(
    control: Control,
    controls: Controls,
    rate_limit: float,
    ticks: Callable[[], int],
    clock: FakeClock,
) -> RateLimits:
    """Who waits for a token moves the clock on, by whole milliseconds."""

    def sleep(seconds: float) -> None:
        clock.advance(math.ceil(seconds * 1_000) / 1_000)

    return RateLimits(control, controls, rates_of(rate_limit), clock=ticks, sleep=sleep)


@pytest.fixture
def rules(failure_threshold: float) -> BreakerRules:
    return BreakerRules(Terms(failure_threshold, 60.0))


@pytest.fixture
def breakers(
    control: Control,
    controls: Controls,
    events: Events,
    rules: BreakerRules,
    ticks: Callable[[], int],
) -> Breakers:
    return Breakers(control, controls, events, rules, LEASE_TIME.total_seconds(), clock=ticks)


@pytest.fixture
def breaker_service(control: Control, breakers: Breakers, rules: BreakerRules) -> BreakerService:
    return BreakerService(control, breakers, rules)


@pytest.fixture
def permits(control: Control, controls: Controls, store: Store, clock: FakeClock) -> Permits:
    return Permits(control, controls, store, clock=lambda: clock.now.timestamp())


@pytest.fixture
def limits(
    control: Control, controls: Controls, store: Store, rates: RateLimits, permits: Permits
) -> LimitService:
    return LimitService(control, controls, store, rates, permits)


@pytest.fixture
def limiter(rates: RateLimits, limits: LimitService) -> QueueRateLimiter:
    return QueueRateLimiter(rates, limits)


@pytest.fixture
def breaker(breakers: Breakers, breaker_service: BreakerService) -> QueueCircuitBreaker:
    return QueueCircuitBreaker(breakers, breaker_service)


@pytest.fixture
def admission(
    controls: Controls,
    rates: RateLimits,
    breakers: Breakers,
    rules: BreakerRules,
    permits: Permits,
) -> Admission:
    return Admission(controls, rates, breakers, rules, permits)


@pytest.fixture
def alarm(store: Store, events: Events, alert_threshold: int, clock: FakeClock) -> BacklogAlarm:
    return BacklogAlarm(store, events, alert_threshold, clock=lambda: clock.now.timestamp())


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.fixture
def intake(
    store: Store, events: Events, alarm: BacklogAlarm, room: Room, rng: random.Random
) -> IntakeService:
    return IntakeService(store, events, alarm, room, lambda _shard_id: None, rng, max_retries=3)


@pytest.fixture
def watch(events: Events) -> ShardWatch:
    return ShardWatch(events)


@pytest.fixture
def dispatch(
    store: Store,
    retry: RetryService,
    admission: Admission,
    rng: random.Random,
    events: Events,
    watch: ShardWatch,
) -> DispatchService:
    return DispatchService(store, retry, admission, rng, events, watch)


@pytest.fixture
def presence(tmp_path: Path) -> Iterator[Presence]:
    presence = Presence(tmp_path)
    yield presence
    presence.vanish()


@pytest.fixture
def leases(store: Store, presence: Presence) -> LeaseService:
    return LeaseService(store, presence)


@pytest.fixture
def settlement(store: Store, admission: Admission, events: Events) -> SettlementService:
    return SettlementService(store, admission, events)


@pytest.fixture
def dead_letters(store: Store) -> DeadLetterService:
    return DeadLetterService(store, max_retries=3)


@pytest.fixture
def retry(
    store: Store,
    rng: random.Random,
    dead_letters: DeadLetterService,
    admission: Admission,
    events: Events,
) -> RetryService:
    return RetryService(store, RetryPolicy(), rng, dead_letters, admission, events)


@pytest.fixture
def recovery(
    store: Store, retry: RetryService, presence: Presence, clock: FakeClock
) -> RecoveryService:
    watch = LeaseWatch(LEASE_TIME.total_seconds(), clock=lambda: clock.now.timestamp())
    return RecoveryService(store, retry, presence, watch, LEASE_TIME)


@pytest.fixture
def retention(store: Store, kept: DaysKept) -> RetentionService:
    return RetentionService(store, kept)


@pytest.fixture
def inspection(store: Store) -> InspectionService:
    return InspectionService(store)


@pytest.fixture
def schedules(
    control: Control,
    intake: IntakeService,
    inspection: InspectionService,
    rng: random.Random,
    clock: FakeClock,
) -> ScheduleService:
    return ScheduleService(control, intake, inspection, rng, clock=lambda: clock.now.timestamp())


# Steps in a job's life


@pytest.fixture
def add(store: Store) -> Callable[..., list[int]]:
    """Store jobs as another process would; gives their ids."""

    def add(count: int = 1, *, shard_id: int = 0, **fields: Any) -> list[int]:
        with store.writing(shard_id) as unit:
            return unit.jobs.add([a_new_job(**fields) for _ in range(count)])

    return add


@pytest.fixture
def claim(store: Store) -> Callable[..., Job | None]:
    """Give the next job of a shard to a worker, past all limits."""

    def claim(
        worker_id: str = "worker-1", *, shard_id: int = 0, holder: str | None = None
    ) -> Job | None:
        with store.writing(shard_id) as unit:
            unit.claims.promote_due()
            return unit.claims.claim_next(DEFAULT_QUEUE, worker_id, holder)

    return claim


@pytest.fixture
def start(add: Callable[..., list[int]], claim: Callable[..., Job | None]) -> Callable[..., Job]:
    """Store a job and give it to a worker; for where no other job is due."""

    def start(
        worker_id: str = "worker-1", *, shard_id: int = 0, holder: str | None = None, **fields: Any
    ) -> Job:
        [job_id] = add(shard_id=shard_id, **fields)
        job = claim(worker_id, shard_id=shard_id, holder=holder)
        assert job is not None
        assert job.id == job_id
        return job

    return start


@pytest.fixture
def find(store: Store) -> Callable[..., Job | None]:
    """Read a job, whatever state it is in; None when it is gone."""

    def find(job_id: int, *, shard_id: int = 0) -> Job | None:
        with store.reading(shard_id) as unit:
            found = unit.job_lists.list_by_status(tuple(JobStatus), limit=None)
        return next((job for job in found if job.id == job_id), None)

    return find
