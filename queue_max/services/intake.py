"""Taking jobs in: one, many, or a file of them."""

import inspect
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from queue_max.domain.events import Events
from queue_max.domain.job import DEFAULT_QUEUE, DEFAULT_RETRY_DELAY, NO_DELAY, JobHandle, NewJob
from queue_max.domain.jobfile import Format, read_jobs
from queue_max.domain.payload import check_job, plain_job
from queue_max.domain.routing import scan_order, shard_for
from queue_max.exceptions import (
    InvalidJobError,
    PartialBatchError,
    QueueClosedError,
    QueueError,
    QueueFullError,
    ShardError,
)
from queue_max.repositories.unit_of_work import Store, UnitOfWork
from queue_max.services.backlog import BacklogAlarm
from queue_max.services.bounds import Bounds
from queue_max.services.combining import Combining
from queue_max.storage.room import Room

BATCH = 1000
"""Jobs of a file that are stored in one transaction a shard."""

Outcome = JobHandle | QueueError
"""What became of one job: its handle, or why it was not stored."""

_DEFAULTS = {
    "priority": 0,
    "retry_delay": DEFAULT_RETRY_DELAY,
    "delay": NO_DELAY,
    "queue": DEFAULT_QUEUE,
}
_FIELDS = frozenset(inspect.signature(check_job).parameters)


class _InDoubtError(Exception):
    """A commit failed, and may have been done: stored in another shard, jobs could run twice."""

    def __init__(self, error: ShardError) -> None:
        super().__init__(str(error))
        self.error = error


class IntakeService:
    """Checks jobs, chooses their shards and stores them; then tells."""

    def __init__(  # noqa: PLR0913 - all who want to know of new jobs
        self,
        store: Store,
        events: Events,
        alarm: BacklogAlarm,
        room: Room,
        hint: Callable[[int], None],
        rng: random.Random,
        max_retries: int,
        bounds: Bounds | None = None,
    ) -> None:
        self._store = store
        self._events = events
        self._alarm = alarm
        self._room = room
        self._hint = hint
        self._rng = rng
        self._max_retries = max_retries
        self._bounds = bounds or Bounds(store)
        # One line of those who store for each shard, which may be locked, and one for jobs that
        # can go to any.
        self._lines = {
            shard_id: Combining(partial(self._store_in_one_shard, shard_id), _interrupted)
            for shard_id in (None, *store.shard_ids)
        }

    def submit(
        self, item: Mapping[str, Any], wait: float | None = None, uid: str | None = None
    ) -> JobHandle:
        """Store one job, described by the arguments of `enqueue`, under a new uid or that one.

        Those that threads hand in at the same time are stored together, but for a job that is to
        wait no longer than `wait` seconds for room, or for the shard it is bound to.
        """
        job = self._check_fields(item)
        if uid is not None:
            job = job._replace(uid=uid)
        with self._bounds.room_for((job,), wait):
            if wait is None:
                outcome = self._lines[self._choose_shard(job) if job.is_bound else None](job)
            else:
                [outcome] = self._store_by_shard([job], self._choose_shard, wait)
        if isinstance(outcome, QueueError):
            raise outcome
        self._tell([outcome])
        return outcome

    def submit_many(self, items: Iterable[Mapping[str, Any]]) -> list[JobHandle]:
        """Store jobs, all of a shard or none; nothing at all when one of them is bad.

        Raises InvalidJobError that names the position of the bad one, and PartialBatchError
        when a shard refuses while others have stored their part.
        """
        return self._store_all([self._check(item, f"job {at}") for at, item in enumerate(items)])

    def submit_file(
        self, path: Path, file_format: Format, *, skip_bad_lines: bool
    ) -> tuple[int, int]:
        """Store the jobs of a file; gives how many were taken and how many lines skipped.

        The file is read twice, line by line: first to check it, so that nothing is taken of a
        bad one, which raises InvalidJobError with the number of its line.
        """
        if not path.is_file():
            raise InvalidJobError(f"{path} is not a regular file: it could not be read twice")
        if not skip_bad_lines:
            self._bounds.foresee(self._checked(read_jobs(path, file_format), skip_bad_lines))
        taken = lines_read = 0
        try:
            size = self._bounds.largest_part(BATCH)
            for chunk in _chunks(read_jobs(path, file_format), size):
                good = list(self._checked(chunk, skip_bad_lines))
                taken += len(self._store_all(good, taken))
                lines_read += len(chunk)
        except InvalidJobError as error:
            raise type(error)(f"{error}; {taken} jobs of the lines before are stored") from error
        return taken, lines_read - taken

    def _checked(
        self, lines: Iterable[tuple[int, object]], skip_bad_lines: bool
    ) -> Iterator[NewJob]:
        for line, item in lines:
            try:
                yield self._check(item, f"line {line}")
            except InvalidJobError:
                if not skip_bad_lines:
                    raise

    def _check(self, item: object, where: str) -> NewJob:
        """Check the arguments of one `enqueue`; an error says where they stand."""
        try:
            if isinstance(item, InvalidJobError):
                raise item
            if not isinstance(item, Mapping):
                raise InvalidJobError(f"should be a dict, not {type(item).__name__}")
            return self._check_fields(item)
        except InvalidJobError as error:
            raise type(error)(f"{where}: {error}") from error

    def _check_fields(self, item: Mapping[str, Any]) -> NewJob:
        if "payload" not in item:
            raise InvalidJobError("has no 'payload'")
        if unknown := item.keys() - _FIELDS:
            raise InvalidJobError(
                f"unknown {', '.join(sorted(map(repr, unknown)))}; there are "
                f"{', '.join(sorted(_FIELDS))}"
            )
        given = {
            name: value
            for name, value in item.items()
            if value is not None and value is not _DEFAULTS.get(name)
        }
        if len(given) == 1 and "payload" in given:
            return plain_job(given["payload"], self._max_retries)
        return check_job(**{"payload": None, "max_retries": self._max_retries} | given)

    def _store_all(self, new: Sequence[NewJob], before: int = 0) -> list[JobHandle]:
        """Store jobs; gives their handles in the order of the jobs, and tells of them.

        Raises PartialBatchError when some, or the number `before`, are stored and others not.
        """
        try:
            with self._bounds.room_for(new):
                outcomes = self._store_by_shard(new, self._choose_shard)
        except QueueFullError as error:
            outcomes = [error for _ in new]
        stored = [each for each in outcomes if isinstance(each, JobHandle)]
        self._tell(stored)
        for refusal in outcomes:
            if isinstance(refusal, QueueError):
                if not (before or stored):
                    raise refusal
                told = () if before else stored
                raise PartialBatchError(refusal, before + len(stored), told) from refusal
        return stored

    def _choose_shard(self, job: NewJob) -> int:
        count = len(self._store.shard_ids)
        return shard_for(job.pagina_id, count, self._rng, job.unique_key, job.concurrency_key)

    def _store_in_one_shard(self, bound_to: int | None, new: Sequence[NewJob]) -> list[Outcome]:
        """Store jobs with one commit, in the shard that they are bound to or in any."""
        shard_id = self._rng.choice(self._store.shard_ids) if bound_to is None else bound_to
        return self._store_by_shard(new, lambda _job: shard_id)

    def _store_by_shard(
        self,
        new: Sequence[NewJob],
        choose: Callable[[NewJob], int],
        wait: float | None = None,
    ) -> list[Outcome]:
        """Store jobs, a transaction a shard; gives the handle of each, or why it has none."""
        parts: dict[tuple[int, bool], list[NewJob]] = defaultdict(list)
        outcomes: dict[str, Outcome] = {}
        try:
            self._store.require_open()
            self._room.require()
        except (QueueClosedError, QueueFullError) as error:
            return [error for _ in new]
        for job in new:
            parts[choose(job), job.is_bound].append(job)
        for (shard_id, is_bound), part in parts.items():
            try:
                outcomes |= self._store_part(shard_id, part, wait, is_bound=is_bound)
            except _InDoubtError as doubt:
                outcomes |= dict.fromkeys((job.uid for job in part), doubt.error)
            except (ShardError, QueueClosedError) as error:
                outcomes |= dict.fromkeys((job.uid for job in part), error)
        return [outcomes[job.uid] for job in new]

    def _store_part(
        self, chosen: int, part: Sequence[NewJob], wait: float | None, *, is_bound: bool
    ) -> dict[str, JobHandle]:
        """Store jobs in the chosen shard; those that are not bound to it go round it if need be."""

        def store(shard_id: int, wait: float | None = None) -> dict[str, JobHandle]:
            is_written = False
            try:
                with self._store.writing(shard_id, wait) as unit:
                    stored = _add(unit, part)
                    is_written = True
            except ShardError as error:
                if is_written:
                    raise _InDoubtError(error) from error
                raise
            return stored

        if is_bound:
            return store(chosen, wait)
        refusals = []
        for _shard_id, outcome in self._store.visit(self._beginning_with(chosen), store):
            if not isinstance(outcome, ShardError):
                return outcome
            refusals.append(outcome)
        raise refusals[0]

    def _beginning_with(self, chosen: int) -> Iterator[int]:
        yield chosen
        for shard_id in scan_order(self._store.shard_ids, self._rng):
            if shard_id != chosen:
                yield shard_id

    def _tell(self, stored: Iterable[JobHandle]) -> None:
        new = [handle for handle in stored if handle.created]
        if not new:
            return
        for shard_id in {handle["shard_id"] for handle in new}:
            self._hint(shard_id)
        if self._events.are_heard("job_enqueued"):
            for job in new:
                self._events.publish("job_enqueued", job_id=job["id"], shard_id=job["shard_id"])
        self._alarm.added(len(new))


def _chunks(lines: Iterable[tuple[int, object]], size: int) -> Iterator[list[tuple[int, object]]]:
    """Give lines many at once; where a file breaks off, first those that came before."""
    chunk: list[tuple[int, object]] = []
    try:
        for line in lines:
            chunk.append(line)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except InvalidJobError:
        yield chunk
        raise
    yield chunk


def _add(unit: UnitOfWork, new: Sequence[NewJob]) -> dict[str, JobHandle]:
    """Store jobs, but for those whose key another job has; gives handles by uids of the new."""
    plain = [job for job in new if job.unique_key is None]
    handles = dict(zip((job.uid for job in plain), _add_all(unit, plain), strict=True))
    for job in new:
        if job.unique_key is not None:
            handle = unit.unique_keys.holder(job.unique_key)
            if handle is None:
                [handle] = _add_all(unit, [job])
                unit.unique_keys.take(job, handle["id"])
            handles[job.uid] = handle
    return handles


def _add_all(unit: UnitOfWork, new: Sequence[NewJob]) -> list[JobHandle]:
    ids = unit.jobs.add(new) if new else []
    return [JobHandle(job_id, unit.shard_id, job.uid) for job_id, job in zip(ids, new, strict=True)]


def _interrupted() -> ShardError:
    return ShardError(
        None, "storing the job was interrupted: whether it is stored is not known, look for it"
    )
