"""The overseer: whom it tells to stop, when, and whom it gives up; by a clock of the tests."""

import threading
from collections.abc import Collection, Iterator

import pytest

from queue_max import Job
from queue_max.domain.job import Lease
from queue_max.exceptions import ShardBusyError
from queue_max.workers.overseer import LOOK_EVERY, Overseer
from queue_max.workers.running import RunningJob, StopReason

START = 1_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Leases:
    """Which leases are lost, as the database would tell."""

    def __init__(self) -> None:
        self.gone: set[Lease] = set()
        self.asked: list[set[Lease]] = []
        self.is_busy = False

    def lost(self, shard_id: int, leases: Collection[Lease]) -> set[Lease]:
        self.asked.append(set(leases))
        if self.is_busy:
            raise ShardBusyError(shard_id, "is locked")
        return self.gone & set(leases)


class Employer:
    stop_grace = 2.0

    def __init__(self) -> None:
        self.jobs: list[RunningJob] = []
        self.given_up: list[RunningJob] = []

    def running(self) -> Collection[RunningJob]:
        return self.jobs

    def abandon(self, running: RunningJob) -> None:
        self.given_up.append(running)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("queue_max.workers.running.time.monotonic", clock)
    return clock


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def employer() -> Employer:
    return Employer()


@pytest.fixture
def overseer(leases: Leases, employer: Employer, clock: Clock) -> Overseer:
    made = Overseer(leases, clock)  # type: ignore[arg-type]
    made.watch(employer)
    return made


@pytest.fixture
def begin(employer: Employer, clock: Clock) -> Iterator[type[RunningJob]]:
    def begin(timeout: float | None = None, job_id: int = 7) -> RunningJob:
        running = RunningJob(Job(job_id, {}, fence=1), None, timeout)  # type: ignore[arg-type]
        employer.jobs.append(running)
        return running

    return begin  # type: ignore[return-value]


def test_a_job_is_told_when_its_time_is_over(overseer: Overseer, begin: type, clock: Clock) -> None:
    running = begin(0.25)
    assert overseer.look() == START + 0.25
    assert running.stopped is None
    clock.now += 0.25
    overseer.look()
    assert running.stopped is StopReason.TIMEOUT
    assert running.should_stop


def test_a_job_that_does_not_end_is_given_up_when_the_grace_is_over(
    overseer: Overseer, employer: Employer, begin: type, clock: Clock
) -> None:
    running = begin(0.25)
    clock.now += 0.25
    assert overseer.look() <= clock.now + Employer.stop_grace
    clock.now += Employer.stop_grace - 0.01
    overseer.look()
    assert employer.given_up == []
    clock.now += 0.01
    overseer.look()
    assert employer.given_up == [running]


def test_a_job_without_a_limit_is_left_in_peace(
    overseer: Overseer, employer: Employer, begin: type, clock: Clock
) -> None:
    running = begin()
    clock.now += 1e6
    overseer.look()
    assert running.stopped is None
    assert employer.given_up == []


def test_a_job_whose_lease_is_lost_is_told_within_a_second(
    overseer: Overseer, leases: Leases, begin: type, clock: Clock
) -> None:
    lost, kept = begin(job_id=7), begin(job_id=8)
    leases.gone = {lost.job.lease}
    clock.now += LOOK_EVERY
    overseer.look()
    assert (lost.stopped, kept.stopped) == (StopReason.LOST, None)


def test_short_jobs_cost_no_look_at_the_database(
    overseer: Overseer, leases: Leases, begin: type, clock: Clock
) -> None:
    clock.now += LOOK_EVERY - 0.1
    begin()
    clock.now += 0.1
    overseer.look()
    assert leases.asked == []


def test_jobs_go_on_while_a_shard_cannot_tell(
    overseer: Overseer, leases: Leases, begin: type, clock: Clock
) -> None:
    running = begin()
    leases.is_busy = True
    clock.now += LOOK_EVERY
    overseer.look()
    assert (len(leases.asked), running.stopped) == (1, None)


def test_a_deadline_that_comes_up_sooner_than_the_next_look_is_not_missed() -> None:
    overseer = Overseer(Leases())  # type: ignore[arg-type]
    employer, stopping = Employer(), threading.Event()
    overseer.watch(employer)
    thread = threading.Thread(target=overseer.oversee, args=[stopping])
    thread.start()
    told = threading.Event()
    running = RunningJob(Job(7, {}), None, 0.01)  # type: ignore[arg-type]
    running.on_stop(told.set)
    employer.jobs.append(running)
    overseer.expect(running.deadline)
    assert told.wait(30)
    stopping.set()
    overseer.wake()
    thread.join(30)
    assert not thread.is_alive()


def test_a_job_that_was_told_before_it_can_be_interrupted_is_interrupted_at_once() -> None:
    running, told = RunningJob(Job(7, {}), None), []  # type: ignore[arg-type, var-annotated]
    running.stop(StopReason.LOST)
    running.on_stop(lambda: told.append(True))
    assert told == [True]


def test_the_end_of_a_job_is_noted_once() -> None:
    running = RunningJob(Job(7, {}), None)  # type: ignore[arg-type]
    assert not running.has_ended
    assert (running.end(), running.end()) == (True, False)
    assert running.has_ended
