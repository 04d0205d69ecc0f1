"""Settings in, wired services out: the only place that calls all constructors."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from queue_max import forking
from queue_max.domain.events import Events
from queue_max.domain.leases import LeaseWatch
from queue_max.domain.queues import QueueChoice
from queue_max.domain.retention import DaysKept
from queue_max.domain.retry import RetryPolicy
from queue_max.domain.tasks import Abilities
from queue_max.exceptions import QueueClosedError, QueueNotFoundError
from queue_max.limits.breaker import Terms
from queue_max.limits.rates import rates_of
from queue_max.repeater import Repeater
from queue_max.repositories.control import Control
from queue_max.repositories.unit_of_work import Store
from queue_max.services.admission import Admission
from queue_max.services.backlog import BacklogAlarm
from queue_max.services.bounds import Bounds
from queue_max.services.breaker_rules import BreakerRules
from queue_max.services.breaker_service import BreakerService
from queue_max.services.breakers import Breakers
from queue_max.services.controls import Controls
from queue_max.services.dead_letters import DeadLetterService
from queue_max.services.dispatch import DispatchService
from queue_max.services.dispatcher import Dispatcher
from queue_max.services.dispatchers import Dispatchers
from queue_max.services.event_log import WRITE_EVERY, EventLog
from queue_max.services.exchange import Exchange
from queue_max.services.inspection import InspectionService
from queue_max.services.intake import IntakeService
from queue_max.services.leases import LeaseService
from queue_max.services.limits import LimitService
from queue_max.services.of_the_queue import QueueCircuitBreaker, QueueRateLimiter
from queue_max.services.overview import OverviewService
from queue_max.services.permits import Permits
from queue_max.services.rate_limits import RateLimits
from queue_max.services.recovery import RecoveryService
from queue_max.services.retention import RetentionService
from queue_max.services.retry import RetryService
from queue_max.services.roster import Roster
from queue_max.services.schedules import ScheduleService
from queue_max.services.settlement import SettlementService
from queue_max.services.shard_watch import ShardWatch
from queue_max.services.unknown_tasks import UnknownTasks
from queue_max.services.urgency import Urgency
from queue_max.services.why import WhyService
from queue_max.settings import Durability, Settings, WhenFull
from queue_max.storage import driver
from queue_max.storage.bells import Bells
from queue_max.storage.checkpoints import INTERVAL, Checkpointer
from queue_max.storage.directory import Directory
from queue_max.storage.presence import Presence
from queue_max.storage.sqlite import SqliteOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All parts of one queue in this process."""

    settings: Settings
    folder: Path
    """Where the files lie, whatever becomes of the current folder."""
    store: Store
    limiter: QueueRateLimiter
    breaker: QueueCircuitBreaker
    limits: LimitService
    breakers: Breakers
    breaker_service: BreakerService
    controls: Controls
    roster: Roster
    overview: OverviewService
    why: WhyService
    events: Events
    event_log: EventLog
    admission: Admission
    bounds: Bounds
    intake: IntakeService
    dispatch: DispatchService
    dispatchers: Dispatchers
    leases: LeaseService
    presence: Presence
    settlement: SettlementService
    retry: RetryService
    dead_letters: DeadLetterService
    recovery: RecoveryService
    retention: RetentionService
    inspection: InspectionService
    schedules: ScheduleService
    close: Callable[[], None]


class _Opened(NamedTuple):
    """What lies on disk, and how it is to be used."""

    settings: Settings
    directory: Directory
    control: Control
    controls: Controls
    store: Store


class _Gates(NamedTuple):
    """What jobs pass before they start, and what people do with it."""

    rates: RateLimits
    breakers: Breakers
    permits: Permits
    admission: Admission
    limits: LimitService
    breaker_service: BreakerService


def storage_options(settings: Settings) -> SqliteOptions:
    """Tell storage what it needs to know of the settings."""
    return SqliteOptions(
        busy_timeout_ms=settings.busy_timeout_ms,
        cache_size=settings.cache_size,
        mmap_size=settings.mmap_size,
        full_sync=settings.durability is Durability.FULL,
    )


def open_directory(settings: Settings) -> Directory:
    """Name the data directory; nothing is opened yet."""
    return Directory(settings.data_dir, storage_options(settings))


def build(
    settings: Settings,
    *,
    retry_policy: RetryPolicy,
    full_timeout: float = 30.0,
    auto_migrate: bool = True,
    create: bool = True,
) -> Services:
    """Open the data directory and wire everything to it.

    With `create` off, QueueNotFoundError when no queue lies there.
    """
    directory = open_directory(settings)
    if not create and not directory.exists():
        raise QueueNotFoundError(
            f"there is no queue in {directory.path}; `queue-max db upgrade` makes one"
        )
    try:
        shards = directory.open(settings.shards, auto_migrate=auto_migrate)
    except BaseException:
        directory.close()
        raise
    checkpointer = Checkpointer(directory.path, [*shards, directory.notes])
    housekeeping = Repeater("queue-max-housekeeping", INTERVAL, checkpointer.run)
    if driver.choose().has_wal_reset_bug:
        housekeeping.start()
        forking.in_child(housekeeping.go_on)

    control = Control(directory.control, directory.notes)
    controls = Controls(control)
    opened = _Opened(
        settings, directory, control, controls, Store(shards, places_of_key=controls.places_of_key)
    )

    def close() -> None:
        housekeeping.stop()
        checkpointer.close()
        opened.store.close()
        control.close()
        directory.close()

    try:
        return _wire(opened, retry_policy, full_timeout, close)
    except BaseException:
        close()
        raise


def _wire(
    opened: _Opened, retry_policy: RetryPolicy, full_timeout: float, close: Callable[[], None]
) -> Services:
    settings, directory, control, controls, store = opened
    log = EventLog(control, settings.event_log)
    log_writer = Repeater("queue-max-event-log", WRITE_EVERY, log.write)
    rng = random.Random()  # noqa: S311 - it spreads load, no secret depends on it
    events = Events()
    gates = _gates(opened, events)
    admission = gates.admission
    dead_letters = DeadLetterService(store, settings.max_retries)
    retry = RetryService(store, retry_policy, rng, dead_letters, admission, events)
    alarm = BacklogAlarm(store, events, settings.alert_threshold)
    presence = Presence(directory.path)
    leases = LeaseService(store, presence)
    settlement = SettlementService(store, admission, events)
    unknown_tasks = UnknownTasks(events)
    watch = ShardWatch(events)
    urgency = Urgency(store) if settings.strict_priority else None

    def make_exchange(abilities: Abilities) -> Exchange:
        return Exchange(store, settlement, retry, leases, admission, abilities)

    def make_dispatcher(
        choice: QueueChoice, exchange: Exchange, abilities: Abilities
    ) -> Dispatcher:
        return Dispatcher(
            store.shard_ids,
            choice,
            exchange,
            abilities,
            unknown_tasks,
            retry,
            admission,
            leases,
            rng,
            watch,
            urgency=urgency,
        )

    dispatchers = Dispatchers(make_exchange, make_dispatcher)
    bells = Bells(directory.path)

    def hint(shard_id: int) -> None:
        dispatchers.hint(shard_id)
        bells.ring(shard_id, but=presence.identity)

    store.on_release = hint
    bounds = _bounds(settings, store, full_timeout)
    intake = IntakeService(
        store, events, alarm, directory.room, hint, rng, settings.max_retries, bounds
    )
    inspection, roster = InspectionService(store), Roster(control)
    lease_time = timedelta(milliseconds=settings.stuck_timeout_ms)
    services = Services(
        settings=settings,
        folder=directory.path,
        store=store,
        limiter=QueueRateLimiter(gates.rates, gates.limits),
        breaker=QueueCircuitBreaker(gates.breakers, gates.breaker_service),
        limits=gates.limits,
        breakers=gates.breakers,
        breaker_service=gates.breaker_service,
        controls=controls,
        roster=roster,
        overview=OverviewService(store, controls, roster),
        why=WhyService(
            *(store, inspection, controls, gates.rates, gates.breakers, gates.permits, roster),
            lease_time,
        ),
        events=events,
        event_log=log,
        admission=admission,
        bounds=bounds,
        intake=intake,
        dispatch=DispatchService(store, retry, admission, rng, events, watch, urgency=urgency),
        dispatchers=dispatchers,
        leases=leases,
        presence=presence,
        settlement=settlement,
        retry=retry,
        dead_letters=dead_letters,
        recovery=RecoveryService(
            store, retry, presence, LeaseWatch(lease_time.total_seconds()), lease_time
        ),
        retention=RetentionService(store, _days_kept(settings)),
        inspection=inspection,
        schedules=ScheduleService(control, intake, inspection, rng),
        close=lambda: _close(dispatchers, log_writer, log, bells, close),
    )
    if settings.event_log:
        log.listen(events)
        log_writer.start()
        forking.in_child(log_writer.go_on)
    return services


def _gates(opened: _Opened, events: Events) -> _Gates:
    settings, _directory, control, controls, store = opened
    rates = RateLimits(control, controls, rates_of(settings.rate_limit))
    rules = BreakerRules(
        Terms(settings.circuit_breaker_threshold, settings.circuit_breaker_timeout)
    )
    breakers = Breakers(control, controls, events, rules, settings.stuck_timeout_ms / 1000)
    permits = Permits(control, controls, store)
    return _Gates(
        rates,
        breakers,
        permits,
        Admission(controls, rates, breakers, rules, permits),
        LimitService(control, controls, store, rates, permits),
        BreakerService(control, breakers, rules),
    )


def _bounds(settings: Settings, store: Store, full_timeout: float) -> Bounds:
    return Bounds(
        store,
        settings.max_pending,
        patience=full_timeout if settings.when_full is WhenFull.BLOCK else 0.0,
        drops_oldest=settings.when_full is WhenFull.DROP_OLDEST,
    )


def _close(
    dispatchers: Dispatchers,
    log_writer: Repeater,
    log: EventLog,
    bells: Bells,
    close_files: Callable[[], None],
) -> None:
    """Settle what has ended, as far as that goes; then nothing can be written any more."""
    with suppress(QueueClosedError):
        dispatchers.flush()
        dispatchers.give_all_back()
    log_writer.stop()
    log.write()
    bells.close()
    close_files()


def _days_kept(settings: Settings) -> DaysKept:
    return DaysKept(
        settings.cleanup_days,
        completed=settings.cleanup_days_completed,
        failed=settings.cleanup_days_failed,
        cancelled=settings.cleanup_days_cancelled,
        dead_letters=settings.cleanup_days_dead_letters,
    )
