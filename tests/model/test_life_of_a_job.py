"""The life of a job, held step by step against a model of it that is a plain dict.

Without QUEUE_MAX_TEST_ROUNDS the same small part is walked each time; with it, ever others.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chaos.support.figures import ROUNDS, SEED, scaled
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model.law import ERRORS, RULES, Buried, Cancelled, Fate, ModelJob, Waits, WorkerDied, fate
from model.world import LEASE_TIME, MAX_RETRIES, SHARDS, Process, Row, World, migrate

from queue_max.domain.attempts import KEPT
from queue_max.domain.clock import from_text, to_text
from queue_max.domain.job import Job, JobStatus, Lease
from queue_max.exceptions import JobNotFoundError, LeaseLostError, Permanent
from queue_max.services.leases import LeaseService

PROCESSES = ("anna", "ben")
BY_HAND = "by hand"
"""Claims without a process, as `pop_job` makes them."""

LIVING = {"pending", "scheduled", "processing"}
GONE = {"completed", "deleted", "letter only"}
"""States without a row; of the last, the dead letter is left."""

DUE = timedelta(milliseconds=1)

Act = Callable[[Job], object]

IN_A_HURRY = "QUEUE_MAX_TEST_IN_A_HURRY" in os.environ
"""Whether a failure is to be shown as it is found, without minutes of looking for a shorter one."""

ORDERS = st.fixed_dictionaries(
    {
        "priority": st.integers(0, 2),
        "max_retries": st.integers(0, 3),
        "retry_delay": st.sampled_from([0, 1, 60, 2_000]),
        "delay": st.sampled_from([0, 0, 45]),
        "retry": st.sampled_from(list(RULES)),
    }
)
CLAIMANTS = st.sampled_from([*PROCESSES, BY_HAND])


class LifeOfAJob(RuleBasedStateMachine):
    """Jobs by their uid, the leases that were ever given, and what each process knows."""

    migrated: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.migrated)
        self.jobs: dict[str, ModelJob] = {}
        self.claims: list[Job] = []
        self.told: Counter[str] = Counter()
        self.processes: dict[str, Process] = {}
        self.started: dict[str, set[Lease]] = {}
        self.held: dict[str, set[Lease]] = {}
        self.seen: dict[str, dict[Lease, tuple[str, datetime]]] = {}
        self.dead: list[str] = []

    def teardown(self) -> None:
        for process in self.processes.values():
            process.presence.vanish()
        self.world.close()

    # Time

    @property
    def now(self) -> datetime:
        return self.world.wall.now

    @rule(seconds=st.sampled_from([1, 29, LEASE_TIME, 130, 4_000]))
    def time_passes(self, seconds: int) -> None:
        self.world.wall.advance(seconds)
        self.world.monotonic.advance(seconds)

    @rule(seconds=st.sampled_from([-40, 40]))
    def the_wall_clock_is_set(self, seconds: int) -> None:
        self.world.wall.advance(seconds)

    @precondition(lambda self: any(self._in("scheduled")))
    @rule()
    def the_next_job_falls_due(self) -> None:
        seconds = (min(job["due"] for job in self._in("scheduled")) - self.now).total_seconds()
        if seconds > 0:
            self.time_passes(seconds)

    # Into the queue, and to a worker

    @initialize(orders=st.lists(ORDERS, min_size=2, max_size=4))
    def begin(self, orders: list[dict[str, Any]]) -> None:
        for name in PROCESSES:
            self._appear(name)
        for order in orders:
            self.enqueue(order)

    @rule(order=ORDERS)
    def enqueue(self, order: dict[str, Any]) -> None:
        terms = order | {"payload": {"n": len(self.jobs)}, "retry": RULES[order["retry"]].policy}
        handle = self.world.intake.submit(terms)
        delay = timedelta(seconds=order["delay"])
        self.told["job_enqueued"] += 1
        self.jobs[handle.uid] = {
            "id": handle["id"],
            "shard": handle["shard_id"],
            "uid": handle.uid,
            "payload": f'{{"n":{len(self.jobs)}}}',
            "state": "scheduled" if delay else "pending",
            "priority": order["priority"],
            "attempts": 0,
            "max_attempts": order["max_retries"] + 1,
            "retry_delay": order["retry_delay"],
            "rule": order["retry"],
            "fence": 0,
            "due": self.now + delay if delay else None,
            "worker": None,
            "holder": None,
            "heartbeat": None,
            "failures": [],
            "completions": 0,
            "last failed fence": 0,
        }

    @rule(name=CLAIMANTS, is_started=st.booleans())
    def claim(self, name: str, is_started: bool = True) -> None:
        holder = None if name == BY_HAND else self.processes[name].identity
        claimed = self.world.dispatch.claim(name, holder=holder)
        due = [job for job in self.jobs.values() if self._is_due(job)]
        assert (claimed is None) == (not due)
        if claimed is None:
            return
        job = self._job_of(claimed)
        self._promote(job["shard"])
        rivals = [each for each in self._in("pending") if each["shard"] == job["shard"]]
        assert job is min(rivals, key=lambda each: (-each["priority"], each["id"]))
        job |= {
            "state": "processing",
            "attempts": job["attempts"] + 1,
            "fence": job["fence"] + 1,
            "due": None,
            "worker": name,
            "holder": holder,
            "heartbeat": self.now,
        }
        assert claimed.fence == job["fence"]
        assert claimed.attempts == job["attempts"] <= claimed.max_attempts == job["max_attempts"]
        self.claims.append(claimed)
        if name != BY_HAND:
            self.processes[name].leases.hold(claimed.lease)
            self.held[name].add(claimed.lease)
            if is_started:
                self._start(claimed)

    # While it runs

    @precondition(lambda self: any(self._not_started()))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self._start(data.draw(st.sampled_from(self._not_started())))

    @precondition(lambda self: self._in("processing"))
    @rule(name=st.sampled_from(PROCESSES))
    def heartbeat(self, name: str) -> None:
        self.processes[name].leases.renew()
        for job in self._in("processing"):
            if _lease(job) in self.held[name]:
                job["heartbeat"] = self.now

    @precondition(lambda self: self._in("processing"))
    @rule(shard_id=st.sampled_from(SHARDS))
    def heartbeat_by_hand(self, shard_id: int) -> None:
        self.processes["anna"].leases.renew_of_worker(shard_id, BY_HAND)
        for job in self._in("processing"):
            if (job["shard"], job["worker"]) == (shard_id, BY_HAND):
                job["heartbeat"] = self.now

    # Its end, or the end of an attempt

    @precondition(lambda self: self._may_run())
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        claim = self._one_that_runs(data)
        assert self.world.settlement.complete(claim.id, claim.shard_id, fence=claim.fence)
        job = self._job_of(claim)
        job |= {"state": "completed", "failures": [], "completions": job["completions"] + 1}
        self.told["job_completed"] += 1
        self._drop(claim)

    @precondition(lambda self: self._may_run())
    @rule(data=st.data(), what=st.sampled_from(list(ERRORS)))
    def fail(self, data: st.DataObject, what: str) -> None:
        claim, error = self._one_that_runs(data), ERRORS[what]()
        self.world.retry.settle_job(claim, error)
        job = self._job_of(claim)
        self._suffer(job, fate(job, error), _type(error))
        self._drop(claim)

    @precondition(lambda self: self._may_run())
    @rule(data=st.data())
    def fail_for_good(self, data: st.DataObject) -> None:
        claim = self._one_that_runs(data)
        self.world.retry.settle(
            claim.id, claim.shard_id, "never", permanent=True, fence=claim.fence
        )
        self._suffer(self._job_of(claim), Buried(), "Error")
        self._drop(claim)

    @precondition(lambda self: self._may_run())
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        claim = self._one_that_runs(data)
        self.world.retry.hand_back(claim, "told to leave")
        job = self._job_of(claim)
        self._suffer(job, fate(job, WorkerDied(), at_once=True), "WorkerStopped")
        self._drop(claim)

    @precondition(lambda self: any(self._not_started()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self._not_started()))
        self.world.dispatch.give_back(claim)
        self._suffer(self._job_of(claim), Waits(0, 0, is_counted=False), None)
        self._drop(claim)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.jobs.values())))
        if job["state"] in GONE:
            with pytest.raises(JobNotFoundError):
                self.world.settlement.cancel(_key(job))
            return
        is_living = job["state"] in LIVING
        assert self.world.settlement.cancel(_key(job)) == is_living
        if is_living:
            job |= {"due": None} | self._ended("cancelled")
            self.told["job_cancelled"] += 1

    # Workers that are late

    @precondition(lambda self: any(self._lost()))
    @rule(what=st.sampled_from(list(ERRORS)))
    def a_lost_lease_ends_nothing(self, what: str) -> None:
        before = self.world.everything()
        for claim in self._lost():
            for act in self._ends(ERRORS[what]()):
                with pytest.raises(LeaseLostError):
                    act(claim)
        assert self.world.everything() == before

    @precondition(lambda self: any(self._lost()))
    @rule()
    def a_lost_lease_is_not_prolonged(self) -> None:
        self.time_passes(1)
        before = self.world.everything()
        late = LeaseService(self.world.store, self.processes["anna"].presence)
        for claim in self._lost():
            late.hold(claim.lease)
        late.renew()
        assert self.world.everything() == before

    @precondition(lambda self: any(self._lost()))
    @rule(data=st.data())
    def a_lost_lease_is_given_back_in_vain(self, data: st.DataObject) -> None:
        before = self.world.everything()
        claim = data.draw(st.sampled_from(self._lost()))
        self.world.dispatch.give_back(claim)
        assert self.world.everything() == before
        self._drop(claim)

    def _ends(self, error: BaseException | str) -> Iterator[Act]:
        world = self.world
        yield lambda claim: world.settlement.complete(claim.id, claim.shard_id, fence=claim.fence)
        yield lambda claim: world.retry.settle_job(claim, error)
        yield lambda claim: world.retry.settle(
            claim.id, claim.shard_id, error, permanent=True, fence=claim.fence
        )
        yield lambda claim: world.retry.hand_back(claim, "told to leave")

    # Workers that are silent, or dead

    @precondition(lambda self: self._may_run())
    @rule(data=st.data(), wait=st.sampled_from([0, LEASE_TIME, LEASE_TIME + 1]))
    def recover_by_hand(self, data: st.DataObject, wait: int) -> None:
        self._one_that_runs(data)
        self.time_passes(wait)
        silent = [
            job
            for job in self._in("processing")
            if job["heartbeat"] < self.now - timedelta(seconds=LEASE_TIME)
        ]
        assert self.processes["anna"].recovery.recover() == len(silent)
        for job in silent:
            self._lose(job, at_once=True)

    @precondition(lambda self: self._may_run())
    @rule(data=st.data(), name=st.sampled_from(PROCESSES), wait=st.sampled_from([0, 29, 30]))
    def recover_silent(self, data: st.DataObject, name: str, wait: int) -> None:
        self._one_that_runs(data)
        for seconds in (0, wait):
            self.time_passes(seconds)
            overdue = self._overdue(name)
            assert self.processes[name].recovery.recover_silent() == len(overdue)
            for job in overdue:
                self._lose(job)

    @precondition(lambda self: self._may_run())
    @rule(data=st.data())
    def a_process_dies(self, data: st.DataObject) -> None:
        """Another takes its place, under its name and an identity of its own."""
        name = str(self._one_that_runs(data).worker_id)
        if name == BY_HAND:
            return
        self.processes[name].crash()
        self.dead.append(self.processes[name].identity)
        charged = self.started[name]
        self._appear(name)
        for job in self._in("processing"):
            job["is charged"] = job.get("is charged") or _lease(job) in charged

    @precondition(lambda self: self.dead)
    @rule(name=st.sampled_from(PROCESSES))
    def recover_dead(self, name: str) -> None:
        left = [job for job in self._in("processing") if job["holder"] in self.dead]
        assert self.processes[name].recovery.recover_dead() == len(left)
        self.dead.clear()
        for job in left:
            if job["is charged"]:
                self._lose(job)
            else:
                self._suffer(job, Waits(0, 0, is_counted=False), None)

    # Dead letters

    @precondition(lambda self: any(self._letters()))
    @rule(data=st.data(), payload=st.sampled_from([None, {"n": "another"}]))
    def requeue(self, data: st.DataObject, payload: dict[str, Any] | None) -> None:
        job = data.draw(st.sampled_from(list(self._letters())))
        handle = self.world.dead_letters.requeue(_key(job), payload)
        if payload:
            job["payload"] = '{"n":"another"}'
        self._live_again(job, handle["id"])

    @precondition(lambda self: any(self._letters()))
    @rule()
    def requeue_all(self) -> None:
        chosen = list(self._letters())
        assert self.world.dead_letters.requeue_all() == len(chosen)
        by_uid = {row["uid"]: row["id"] for n in SHARDS for row in self.world.rows(n, "fila")}
        for job in chosen:
            self._live_again(job, by_uid[job["uid"]])

    @precondition(lambda self: any(self._in("failed")))
    @rule(shard_id=st.sampled_from(SHARDS))
    def revive(self, shard_id: int) -> None:
        failed = [job for job in self._in("failed") if job["shard"] == shard_id]
        assert self.world.dead_letters.revive_all(shard_id) == len(failed)
        for job in failed:
            self._live_again(job, job["id"])

    @precondition(lambda self: any(self._letters()))
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self._letters())))
        self.world.dead_letters.discard(_key(job))
        job |= {"state": "deleted", "failures": []}

    @precondition(lambda self: any(self._in("failed")))
    @rule()
    def purge_failed(self) -> None:
        failed = self._in("failed")
        assert self.world.retention.purge("failed") == len(failed)
        for job in failed:
            job["state"] = "letter only"

    @precondition(lambda self: any(self._in("cancelled")))
    @rule()
    def clean_up(self) -> None:
        old = [job for job in self._in("cancelled") if job["ended"] < self.now]
        assert self.world.retention.clean_up(0) == len(old)
        for job in old:
            job |= {"state": "deleted", "failures": []}

    # What always holds

    @invariant()
    def each_job_is_where_the_model_has_it(self) -> None:
        for shard_id in SHARDS:
            here = [job for job in self._of(shard_id) if job["state"] not in GONE]
            rows = self.world.rows(shard_id, "fila")
            expected = sorted(map(_expected_row, here), key=lambda row: row["id"])
            assert [{name: row[name] for name in _ROW} for row in rows] == expected

    @invariant()
    def a_job_is_failed_if_and_only_if_it_has_a_dead_letter(self) -> None:
        for shard_id in SHARDS:
            letters = self.world.rows(shard_id, "dead_letter_queue")
            found = sorted((row["uid"], row["original_job_id"], row["payload"]) for row in letters)
            assert found == sorted(
                (job["uid"], job["id"], job["payload"])
                for job in self._letters()
                if job["shard"] == shard_id
            )

    @invariant()
    def the_failures_of_each_job_are_kept(self) -> None:
        for shard_id in SHARDS:
            kept: dict[str, list[str]] = {}
            for row in self.world.rows(shard_id, "attempts"):
                kept.setdefault(row["uid"], []).append(row["error_type"])
            for job in self._of(shard_id):
                failures = kept.pop(job["uid"], [])
                assert failures == job["failures"][-KEPT:]
            assert not kept

    @invariant()
    def no_more_attempts_are_made_than_allowed_and_no_job_is_done_twice(self) -> None:
        for job in self.jobs.values():
            assert 0 <= job["attempts"] <= job["max_attempts"]
            assert job["completions"] <= 1

    @invariant()
    def counts_totals_and_events_agree(self) -> None:
        counts = self.world.inspection.counts()
        for state in ("pending", "scheduled", "processing", "failed"):
            assert getattr(counts, state) == len(self._in(state))
        totals = self.world.inspection.totals()
        assert totals.processed == sum(job["completions"] for job in self.jobs.values())
        assert totals.failed == self.told["job_failed"]
        assert self.world.told == self.told

    # Steps of the model

    def _start(self, claim: Job) -> None:
        name = str(claim.worker_id)
        self.processes[name].leases.start(claim.lease)
        self.started[name].add(claim.lease)

    def _appear(self, name: str) -> None:
        self.processes[name] = Process(self.world)
        self.started[name], self.held[name], self.seen[name] = set(), set(), {}

    def _promote(self, shard_id: int) -> None:
        for job in self._of(shard_id):
            if job["state"] == "scheduled" and self._is_due(job):
                job["state"] = "pending"

    def _suffer(self, job: ModelJob, fate: Fate, error_type: str | None) -> None:
        """End an attempt in the model as it has ended in the files."""
        match fate:
            case Cancelled():
                job |= self._ended("cancelled")
                self.told["job_cancelled"] += 1
                return
            case Buried():
                job |= self._ended("failed")
                self.told["job_failed"] += 1
                self.told["job_dead_lettered"] += 1
            case Waits(is_counted=False):
                self._wait(job, fate)
                job["attempts"] -= 1
                return
            case Waits():
                self._wait(job, fate)
                self.told["job_retried"] += 1
        job["failures"].append(error_type)
        job["last failed fence"] = job["fence"]

    def _wait(self, job: ModelJob, fate: Waits) -> None:
        """Wait as long as the files say, which is within the bounds of the law."""
        [row] = [row for row in self.world.rows(job["shard"], "fila") if row["id"] == job["id"]]
        due = from_text(row["next_retry_at"])
        assert fate.low <= (due - self.now + DUE).total_seconds()
        assert (due - self.now).total_seconds() <= fate.high
        job |= self._ended("scheduled" if due > self.now else "pending") | {"due": due}

    def _ended(self, state: str) -> dict[str, Any]:
        left = {"worker": None, "holder": None, "heartbeat": None, "is charged": False}
        return {"state": state, "ended": self.now, **left}

    def _lose(self, job: ModelJob, *, at_once: bool = False) -> None:
        first = "WorkerDied" not in job["failures"][-KEPT:]
        self.told["job_recovered"] += 1
        self._suffer(job, fate(job, WorkerDied(), at_once=at_once or first), "WorkerDied")

    def _overdue(self, name: str) -> list[ModelJob]:
        """Look at all leases as a process does: over are those that stood still for long."""
        now, before = self.world.monotonic.now, self.seen[name]
        self.seen[name] = {}
        for job in self._in("processing"):
            known = before.get(_lease(job))
            if known is None or known[0] != job["heartbeat"]:
                known = (job["heartbeat"], now)
            self.seen[name][_lease(job)] = known
        over = {
            lease
            for lease, (_, since) in self.seen[name].items()
            if now - since >= timedelta(seconds=LEASE_TIME)
        }
        return [job for job in self._in("processing") if _lease(job) in over]

    def _live_again(self, job: ModelJob, job_id: int) -> None:
        if job["state"] == "letter only":
            assert job_id not in {each["id"] for each in self._of(job["shard"])}
            job |= {"priority": 0, "max_attempts": MAX_RETRIES + 1, "retry_delay": 60}
            job |= {"id": job_id, "fence": job["last failed fence"], "rule": "the queue's"}
        assert job_id == job["id"]
        job |= {"state": "pending", "attempts": 0, "due": None}

    # What the model knows

    def _of(self, shard_id: int) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job["shard"] == shard_id]

    def _in(self, state: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job["state"] == state]

    def _letters(self) -> list[ModelJob]:
        return [*self._in("failed"), *self._in("letter only")]

    def _is_due(self, job: ModelJob) -> bool:
        is_over = job["state"] == "scheduled" and job["due"] <= self.now
        return is_over or job["state"] == "pending"

    def _job_of(self, claim: Job) -> ModelJob:
        assert claim.uid is not None
        return self.jobs[claim.uid]

    def _is_current(self, claim: Job) -> bool:
        job = self._job_of(claim)
        return job["state"] == "processing" and _lease(job) == claim.lease

    def _lost(self) -> list[Job]:
        return [claim for claim in self.claims if not self._is_current(claim)]

    def _running(self) -> list[Job]:
        return [claim for claim in self.claims if self._is_current(claim) and self._lives(claim)]

    def _not_started(self) -> list[Job]:
        return [
            claim
            for claim in self._running()
            if claim.worker_id != BY_HAND and claim.lease not in self.started[claim.worker_id]
        ]

    def _lives(self, claim: Job) -> bool:
        holder = self._job_of(claim)["holder"]
        return holder is None or holder == self.processes[str(claim.worker_id)].identity

    def _may_run(self) -> bool:
        return bool(self._running()) or any(map(self._is_due, self.jobs.values()))

    def _one_that_runs(self, data: st.DataObject) -> Job:
        """Choose one of those that run, or claim one: else few examples would come this far."""
        if not self._running():
            self.claim(data.draw(CLAIMANTS), data.draw(st.booleans()))
        return data.draw(st.sampled_from(self._running()))

    def _drop(self, claim: Job) -> None:
        name = str(claim.worker_id)
        if name == BY_HAND:
            return
        self.processes[name].leases.drop(claim.lease)
        self.held[name].discard(claim.lease)
        self.started[name].discard(claim.lease)


_ROW = {
    "id": "id",
    "uid": "uid",
    "payload": "payload",
    "status": "state",
    "priority": "priority",
    "tentativas": "attempts",
    "max_tentativas": "max_attempts",
    "fence": "fence",
    "worker_id": "worker",
    "held_by": "holder",
    "heartbeat": "heartbeat",
    "next_retry_at": "due",
}


def _expected_row(job: ModelJob) -> Row:
    values = {name: job[ours] for name, ours in _ROW.items()}
    return {
        name: to_text(value) if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def _lease(job: ModelJob) -> Lease:
    return Lease(job["shard"], job["id"], job["fence"])


def _key(job: ModelJob) -> str:
    return f"{job['shard']}-{job['uid']}"


def _type(error: BaseException | str) -> str:
    return "Error" if isinstance(error, str) else type(error).__name__


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrate(tmp_path_factory.mktemp("migrated"))


@pytest.mark.chaos
def test_a_job_lives_as_the_model_says(migrated: Path) -> None:
    machine = type("Life", (LifeOfAJob,), {"migrated": migrated})
    run_state_machine_as_test(
        seed(SEED)(machine) if ROUNDS else machine,
        settings=settings(
            max_examples=scaled(2_000, small=20),
            stateful_step_count=40,
            derandomize=ROUNDS is None,
            database=None,
            deadline=None,
            print_blob=True,
            phases=set(Phase) - ({Phase.shrink, Phase.explain} if IN_A_HURRY else set()),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_model_knows_every_state() -> None:
    assert {*LIVING, "failed", "cancelled", "completed"} == set(JobStatus)


def test_of_a_job_that_was_made_anew_and_is_done_no_attempts_stay(migrated: Path) -> None:
    world = World(migrated)
    handle = world.intake.submit({"payload": {}})
    world.retry.settle_job(_claimed(world), Permanent("never"))
    world.retention.purge("failed")
    world.dead_letters.requeue(handle)
    job = _claimed(world)
    world.settlement.complete(job.id, job.shard_id, fence=job.fence)
    left = world.rows(job.shard_id, "attempts")
    world.close()
    assert left == []


def _claimed(world: World) -> Job:
    job = world.dispatch.claim("anna")
    assert job is not None
    return job
