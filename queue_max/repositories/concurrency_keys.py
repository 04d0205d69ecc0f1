"""Concurrency keys in the `fila` table: of the jobs of one key, only so many come to their turn."""

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    func,
    or_,
    select,
    union_all,
    update,
)

from queue_max.domain.gates import of_key
from queue_max.domain.job import Job
from queue_max.repositories.compiled import Compiled
from queue_max.repositories.locks import hold_name
from queue_max.storage.schema import PENDING, PROCESSING, SCHEDULED, jobs

MOVED_AT_ONCE = 500
"""Jobs of one key that come to their turn, or have to wait for it again, in one transaction."""

_at_most = bindparam("at_most", type_=BigInteger)
# In the words of the partial index, which is not used otherwise.
_has_key = and_(
    jobs.c.concurrency_key == bindparam("wanted"),
    jobs.c.concurrency_key.is_not(None),
    jobs.c.status.in_([PENDING, SCHEDULED, PROCESSING]),
)
_waits = and_(_has_key, jobs.c.status == SCHEDULED, jobs.c.fence > 0)
_line = bindparam("line", type_=Text)


def _some(condition: ColumnElement[bool]) -> Select[tuple[int]]:
    return select(select(jobs.c.id).where(condition).limit(_at_most).subquery())


# Those that were given to a worker before, and wait for another attempt, or for another gate.
_waiting = (
    _some(and_(_waits, jobs.c.held_by.is_(None))),
    _some(and_(_waits, jobs.c.held_by < _line)),
    _some(and_(_waits, jobs.c.held_by > _line)),
)
_running = _some(
    and_(_has_key, jobs.c.status == PROCESSING, jobs.c.id != bindparam("but", type_=BigInteger))
)
_pending = _some(and_(_has_key, jobs.c.status == PENDING))
_count_before = Compiled(
    select(func.count()).select_from(union_all(_running, *_waiting).subquery())
)
_count_all = Compiled(
    select(func.count()).select_from(union_all(_running, _pending, *_waiting).subquery())
)

_in_line = and_(
    jobs.c.status == SCHEDULED, jobs.c.held_by.is_not(None), jobs.c.held_by == bindparam("line")
)
_line_order = (jobs.c.priority.desc(), jobs.c.id)
_first = select(jobs.c.id).where(_in_line).order_by(*_line_order).limit(_at_most)
_first_in_line = Compiled(
    select(jobs.c.priority, jobs.c.id).where(_in_line).order_by(*_line_order).limit(1)
)
_last = (
    select(jobs.c.id)
    .where(_has_key, jobs.c.status == PENDING)
    .order_by(jobs.c.priority, jobs.c.id.desc())
    .limit(_at_most)
)
_release = Compiled(update(jobs).where(jobs.c.id.in_(_first)).values(status=PENDING, held_by=None))
_hold_back = Compiled(
    update(jobs)
    .where(jobs.c.id.in_(_last))
    .values(status=SCHEDULED, held_by=bindparam("gate"), next_retry_at=None)
)


class ConcurrencyKeyRepository:
    """The jobs of one shard that have a concurrency key, within one transaction.

    Of one key, as many as may run are at their turn: they run, are pending, or wait for their next
    attempt. The others stand in a line, where no claim walks over them. Whoever ends one, or adds
    one, notes the key, and before the transaction ends each key that was noted is balanced.
    """

    def __init__(self, connection: Connection, places: Callable[[str], int]) -> None:
        self._connection = connection
        self._places = places
        self._noted: set[str] = set()
        self.has_released = False
        """Whether jobs came to their turn in this transaction."""

    def note(self, key: str | None) -> None:
        """Note that a job of a key has come, or gone; None is no key."""
        if key is not None:
            self._noted.add(key)

    def balance(self) -> None:
        """Let as many jobs of each key that was noted be at their turn as may be, and no more."""
        noted, self._noted = sorted(self._noted), set()
        for key in noted:  # always in this order, that nobody waits for each other
            places = self._places(key)
            hold_name(self._connection, of_key(key))
            counted = _count_all.run(
                self._connection,
                wanted=key,
                line=of_key(key),
                but=0,
                at_most=places + MOVED_AT_ONCE,
            )
            [at_turn] = counted.fetchone()
            if at_turn < places:
                self._release(key, places - at_turn)
            elif at_turn > places:
                _hold_back.run(
                    self._connection, wanted=key, gate=of_key(key), at_most=at_turn - places
                )

    def may_run(self, job: Job, *, before: int = 0) -> bool:
        """Tell whether a job that was claimed just now may run beside the others of its key.

        It goes before so many others that were claimed with it, and are asked about later.
        """
        if job.concurrency_key is None:
            return True
        key, places = job.concurrency_key, self._places(job.concurrency_key)
        hold_name(self._connection, of_key(key))
        counted = _count_before.run(
            self._connection, wanted=key, line=of_key(key), but=job.id, at_most=places + before
        )
        [others] = counted.fetchone()
        return bool(others - before < places) and not self._has_earlier_in_line(job)

    def holders(self, key: str, at_most: int = 10) -> Sequence[str]:
        """Name the jobs of a key that are at their turn, by uid, those first that run."""
        at_turn = or_(
            jobs.c.status.in_([PENDING, PROCESSING]),
            and_(
                jobs.c.status == SCHEDULED,
                jobs.c.fence > 0,
                func.coalesce(jobs.c.held_by, "") != of_key(key),
            ),
        )
        query = (
            select(jobs.c.uid)
            .where(_has_key, at_turn)
            .order_by(jobs.c.status.desc(), jobs.c.id)
            .limit(at_most)
        )
        return self._connection.execute(query, {"wanted": key}).scalars().all()

    def lines(self) -> Sequence[str]:
        """Name the keys that have jobs in line."""
        begin, end = of_key(""), of_key("\U0010ffff")
        query = (
            select(jobs.c.concurrency_key)
            .where(
                jobs.c.status == SCHEDULED,
                jobs.c.held_by.is_not(None),
                jobs.c.held_by.between(begin, end),
                jobs.c.concurrency_key.is_not(None),
            )
            .distinct()
        )
        return [str(key) for key in self._connection.execute(query).scalars()]

    def _release(self, key: str, number: int) -> None:
        ran = _release.run(self._connection, line=of_key(key), at_most=number)
        self.has_released = self.has_released or ran.rowcount > 0

    def _has_earlier_in_line(self, job: Job) -> bool:
        """Tell whether one in line goes before a job, that is not to be tried again.

        Of many jobs added at once, not all can stand in line from the start.
        """
        if job.attempts > 1:
            return False
        row = _first_in_line.run(self._connection, line=of_key(str(job.concurrency_key))).fetchone()
        return row is not None and (-row[0], row[1]) < (-job.priority_int, job.id)
