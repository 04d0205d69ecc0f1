"""Giving jobs up, and giving them another life."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

from queue_max import checks
from queue_max.domain.attempts import Attempt
from queue_max.domain.dead_letters import DeadLetter, Filter
from queue_max.domain.failures import Failure
from queue_max.domain.identity import new_uid
from queue_max.domain.job import DEFAULT_RETRY_DELAY, Job, JobHandle, NewJob
from queue_max.domain.payload import to_json
from queue_max.domain.reference import JobRef
from queue_max.domain.retry import Bury
from queue_max.exceptions import InvalidJobError, JobNotFoundError
from queue_max.repositories.unit_of_work import Store, UnitOfWork

STEP = 200
"""Dead letters read, or changed, in one transaction: more would hold the lock for too long."""


class DeadLetterService:
    """A job is alive in `fila`, or failed there with its evidence in the dead letters.

    One job is named by its key, its handle, a Job or a DeadLetter. Many are chosen by
    `shard_id`, by `error_type`, and by `before`, a moment in ISO 8601; all, where nothing is said.
    """

    def __init__(self, store: Store, max_retries: int) -> None:
        self._store = store
        self._max_retries = max_retries

    def list(
        self,
        limit: int | None = 100,
        *,
        shard_id: int | None = None,
        error_type: str | None = None,
        before: str | None = None,
    ) -> Sequence[DeadLetter]:
        """Read dead letters, the newest first, at most `limit` (None: all); without attempts."""
        if limit is not None:
            checks.whole("limit", limit, at_least=0)
        chosen = Filter.of(error_type, before)
        by_shard = [self._walk(each, chosen) for each in self._store.chosen(shard_id)]
        newest_first = heapq.merge(*by_shard, key=lambda letter: letter.failed_at, reverse=True)
        return list(islice(newest_first, limit))

    def get(self, job: object) -> DeadLetter:
        """Read the dead letter of a job, its attempts too; JobNotFoundError when it has none."""
        ref = JobRef.of(job)
        with self._store.reading(ref.shard_id) as unit:
            letter = _find(unit, ref)
            return replace(letter, attempts=_attempts(unit, letter))

    def requeue(self, job: object, payload: Mapping[str, Any] | None = None) -> JobHandle:
        """Give a job another life: due now, with a fresh budget of attempts, its history kept.

        A `payload` takes the place of the old one. Raises JobNotFoundError when the job has no
        dead letter, and InvalidJobError when its payload, old or new, is none.
        """
        ref, text = JobRef.of(job), None if payload is None else to_json(payload)
        with self._store.writing(ref.shard_id) as unit:
            letter = _find(unit, ref)
            if text is None and not letter.is_sound:
                raise InvalidJobError(f"the payload of job {ref} is damaged: give it another one")
            if payload is not None and letter.task is not None and not _is_of_task(payload):
                raise InvalidJobError(
                    f"job {ref} runs the task {letter.task}: its payload should have arguments, "
                    'as {"args": [1, 2], "kwargs": {"name": 3}}'
                )
            return self._requeue(unit, letter, text)

    def requeue_all(
        self,
        *,
        shard_id: int | None = None,
        error_type: str | None = None,
        before: str | None = None,
    ) -> int:
        """Give many jobs another life, but for those with a damaged payload; gives their number.

        A shard that cannot serve does not keep the others; its error is raised at the end.
        """

        def requeue(unit: UnitOfWork, letters: Sequence[DeadLetter]) -> int:
            sound = [letter for letter in letters if letter.is_sound]
            return len([self._requeue(unit, letter) for letter in sound])

        return self._change(shard_id, Filter.of(error_type, before), requeue)

    def discard(self, job: object) -> None:
        """Delete a dead letter, and with it its job; JobNotFoundError when there is none."""
        ref = JobRef.of(job)
        with self._store.writing(ref.shard_id) as unit:
            _discard(unit, [_find(unit, ref)])

    def discard_all(
        self,
        *,
        shard_id: int | None = None,
        error_type: str | None = None,
        before: str | None = None,
    ) -> int:
        """Delete many dead letters, and with them their jobs; gives their number.

        A shard that cannot serve does not keep the others; its error is raised at the end.
        """
        return self._change(shard_id, Filter.of(error_type, before), _discard)

    def export(self, *, shard_id: int | None = None) -> Iterator[dict[str, Any]]:
        """Read all dead letters with their attempts, a few at a time, as plain values."""
        for each in self._store.chosen(shard_id):
            for letter in self._walk(each, Filter(), with_attempts=True):
                yield letter.to_dict()

    def bury(self, unit: UnitOfWork, job: Job, failure: Failure, verdict: Bury) -> bool:
        """Mark a job as failed for good and keep the evidence, within a transaction.

        False when the job is no longer run under its fence.
        """
        if not unit.jobs.fail(job, failure):
            return False
        unit.dead_letters.add(job, failure, verdict.reason)
        unit.metadata.add_failed()
        return True

    def revive(self, shard_id: int, job_id: int) -> bool:
        """Give a failed job a fresh budget of attempts; False when it is not a failed one."""
        with self._store.writing(shard_id) as unit:
            return _revive(unit, job_id) == 1

    def revive_all(self, shard_id: int | None = None) -> int:
        """Give all failed jobs, or those of a shard, a fresh budget; gives their number.

        A shard that cannot serve does not keep the others; its error is raised at the end.
        """
        revived = 0

        def revive_in(shard_id: int, wait: float | None) -> None:
            nonlocal revived
            with self._store.writing(shard_id, wait) as unit:
                number = _revive(unit)
            revived += number

        self._store.visit_all(self._store.chosen(shard_id), revive_in)
        return revived

    def newest(self, shard_id: int, limit: int) -> Sequence[dict[str, Any]]:
        """Read the dead letters of a shard, the newest first, as the 0.1 API has them."""
        checks.whole("limit", limit, at_least=0)
        with self._store.reading(shard_id) as unit:
            return unit.dead_letters.newest(limit)

    def _requeue(self, unit: UnitOfWork, letter: DeadLetter, text: str | None = None) -> JobHandle:
        """Bring a job back; one that was deleted meanwhile is made anew from its letter."""
        ref, uid = JobRef.of(letter), letter.uid or new_uid()
        job_id = unit.jobs.requeue(ref, text)
        if job_id is None:
            anew = NewJob(
                payload=text or letter.payload,
                uid=uid,
                pagina_id=None,
                priority=0,
                max_attempts=self._max_retries + 1,
                retry_delay=DEFAULT_RETRY_DELAY,
                task=letter.task,
                fence=unit.attempts.last_fence(uid),
            )
            [job_id] = unit.jobs.add([anew])
        unit.dead_letters.remove([letter])
        return JobHandle(job_id, unit.shard_id, uid)

    def _change(
        self,
        shard_id: int | None,
        chosen: Filter,
        change: Callable[[UnitOfWork, Sequence[DeadLetter]], int],
    ) -> int:
        """Change the chosen letters of all shards, in steps; gives how many were."""
        changed = 0

        def change_in(shard_id: int, wait: float | None) -> None:
            nonlocal changed
            last: int | None = None
            while True:
                with self._store.writing(shard_id, wait) as unit:
                    letters = unit.dead_letters.list(chosen, STEP, last)
                    number = change(unit, letters)
                changed += number
                if len(letters) < STEP:
                    return
                last = letters[-1].id

        self._store.visit_all(self._store.chosen(shard_id), change_in)
        return changed

    def _walk(
        self, shard_id: int, chosen: Filter, *, with_attempts: bool = False
    ) -> Iterator[DeadLetter]:
        """Read the chosen letters of a shard, a few at a time, the newest first."""
        last: int | None = None
        while True:
            with self._store.reading(shard_id) as unit:
                letters = unit.dead_letters.list(chosen, STEP, last)
                if with_attempts:
                    letters = [replace(each, attempts=_attempts(unit, each)) for each in letters]
            yield from letters
            if len(letters) < STEP:
                return
            last = letters[-1].id


def discard_before(unit: UnitOfWork, moment: datetime, limit: int) -> int:
    """Delete dead letters from before that moment with their jobs, within a transaction.

    Gives their number, at most `limit`. Payloads are not read.
    """
    failed = unit.dead_letters.remove_before(moment, limit)
    _delete_jobs(unit, failed)
    return len(failed)


def _revive(unit: UnitOfWork, job_id: int | None = None) -> int:
    unit.dead_letters.remove_of_failed(job_id)
    return unit.job_lists.requeue_failed(job_id)


def _find(unit: UnitOfWork, job: JobRef) -> DeadLetter:
    letter = unit.dead_letters.find(job)
    if letter is None:
        raise JobNotFoundError(f"job {job} has no dead letter")
    return letter


def _attempts(unit: UnitOfWork, letter: DeadLetter) -> list[Attempt]:
    return unit.attempts.of(letter.uid) if letter.uid else []


def _is_of_task(payload: Mapping[str, Any]) -> bool:
    """Tell whether a payload says with which arguments a task is to be called."""
    args, kwargs = payload.get("args", []), payload.get("kwargs", {})
    has_some = not payload.keys().isdisjoint({"args", "kwargs"})
    return has_some and isinstance(args, list) and isinstance(kwargs, dict)


def _discard(unit: UnitOfWork, letters: Sequence[DeadLetter]) -> int:
    _delete_jobs(unit, [JobRef.of(letter) for letter in letters])
    unit.dead_letters.remove(letters)
    return len(letters)


def _delete_jobs(unit: UnitOfWork, failed: Sequence[JobRef]) -> None:
    unit.job_lists.delete_failed(failed)
    unit.attempts.forget([job.uid for job in failed if job.uid])
