"""Bounds of the queue: whether new jobs have room, waiting for it, and making it."""

import itertools
import logging
import random
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from queue_max import forking
from queue_max.domain.job import LOOKS, NewJob
from queue_max.domain.queues import queue_name
from queue_max.domain.routing import shard_for
from queue_max.exceptions import InvalidJobError, QueueFullError, ShardError
from queue_max.repositories.unit_of_work import Store
from queue_max.repositories.waiting import Age
from queue_max.services.headcount import Headcount, LastIds

logger = logging.getLogger(__name__)

DROPPED = "dropped: the queue was full"
"""Why a job was cancelled that made room for another."""

AT_ONCE = 500
"""Jobs that are dropped in one transaction."""

PATIENCE = 1.0
"""Seconds for which jobs are waited for that other threads are storing, to see if room is left."""

LOOK_EVERY = 0.001
"""Seconds between two looks whether they are stored."""

_NOTHING_TO_DO = nullcontext()
_NO_CHANCE = random.Random(0)  # noqa: S311 - a job with a key is not left to chance

Need = Mapping[Headcount, int]
"""How much room is needed under each bound."""


class _Call:
    """Room that one thread takes, from when it asks for it until its jobs are stored."""

    def __init__(self, number: int, need: Need) -> None:
        self.number = number
        self.need = need
        self.begin_anew()

    def begin_anew(self) -> None:
        """Go by no count that has begun before."""
        self.counts_before = {head: head.counts_begun for head in self.need}


class Bounds:
    """Keeps the number of jobs that wait at `max_pending`, of all or of each queue that is named.

    Jobs wait that are pending or scheduled, over all shards. The threads that use this object
    never exceed a bound. Others may do so at the same moment: a bound is exceeded by no more
    than what threads of other processes (or with another Queue) are just then storing, a job or
    a batch of each, between their look at the shards and their commit; for 8 processes with a
    thread each that store single jobs, by 7. Jobs that come back (retries, recovery, dead
    letters, jobs that were held) are never refused, and may exceed it by any number.

    Where there is no room, it is waited for, `patience` seconds long, or made by dropping jobs,
    if it `drops_oldest`; else, or when that fails, QueueFullError.
    """

    def __init__(
        self,
        store: Store,
        max_pending: int | Mapping[str, int] | None = None,
        *,
        patience: float = 0.0,
        drops_oldest: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.dropped = 0
        """Jobs that this process has dropped."""
        self._store = store
        self._patience = patience
        self._drops = drops_oldest
        self._clock = clock
        self._sleep = sleep
        self._heads = _headcounts(store, max_pending, clock)
        self._lock = forking.lock()
        self._numbers = itertools.count()
        self._forget_calls()
        forking.in_child(self._forget_calls)

    def _forget_calls(self) -> None:
        # Weak: a Ctrl-C between two statements must not leave room taken for ever.
        self._calls: weakref.WeakSet[_Call] = weakref.WeakSet()

    def largest_part(self, at_most: int) -> int:
        """Tell how many jobs may be handed in together and always fit in, if the queue is empty."""
        return min([at_most, *(head.limit for head in self._heads.values())])

    def foresee(self, jobs: Iterable[NewJob]) -> None:
        """Go through the jobs of a file that is to be stored in parts.

        Where jobs are refused at once, raises QueueFullError if they have no room as a whole.
        """
        coming = Counter(job.queue for job in jobs if job.unique_key is None)
        if self._heads and not self._drops and not self._patience:
            need = self._by_bound(coming)
            _require_possible(need)
            self._end(self._take_room(lambda: need, patience=0.0))

    def room_for(
        self, new: Sequence[NewJob], wait: float | None = None
    ) -> AbstractContextManager[object]:
        """Let jobs in, all or none; they are to be stored within the block.

        Waits no longer than `wait` seconds, if that is given. Jobs whose unique key another job
        has need no room. Raises QueueFullError, and InvalidJobError for more jobs than the bound.
        """
        if not self._heads or not (None in self._heads or any(x.queue in self._heads for x in new)):
            return _NOTHING_TO_DO
        return self._room_for(new, wait)

    @contextmanager
    def _room_for(self, new: Sequence[NewJob], wait: float | None) -> Iterator[None]:
        patience = self._patience if wait is None else min(wait, self._patience)
        call = self._take_room(lambda: self._need(new), patience)
        try:
            yield
        finally:
            self._end(call)

    def _need(self, new: Sequence[NewJob]) -> Need:
        need = self._by_bound(Counter(job.queue for job in self._without_known(new)))
        _require_possible(need)
        return need

    def _by_bound(self, coming: Mapping[str, int]) -> Need:
        need = {
            head: sum(coming.values()) if name is None else coming.get(name, 0)
            for name, head in self._heads.items()
        }
        return {head: number for head, number in need.items() if number}

    def _without_known(self, new: Sequence[NewJob]) -> list[NewJob]:
        """Leave out the jobs whose unique key another job has, in the queue or before them."""
        count, keyed = len(self._store.shard_ids), defaultdict[int, dict[str, NewJob]](dict)
        for job in new:
            if job.unique_key is not None:
                shard_id = shard_for(
                    job.pagina_id, count, _NO_CHANCE, job.unique_key, job.concurrency_key
                )
                keyed[shard_id].setdefault(job.unique_key, job)
        if not keyed:
            return list(new)
        found = [job for job in new if job.unique_key is None]
        for shard_id, by_key in keyed.items():
            known: set[str] = set()
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                known = {key for key in by_key if unit.unique_keys.holder(key)}
            found += [job for key, job in by_key.items() if key not in known]
        return found

    # Taking room

    def _take_room(self, find_need: Callable[[], Need], patience: float) -> _Call:
        """Take room as soon as there is enough; QueueFullError when it takes too long."""
        deadline, (pause, longest) = self._clock() + patience, LOOKS
        while True:
            call = self._begin(find_need())
            try:
                short = self._make_room(call)
            except BaseException:
                self._end(call)
                raise
            if short is None:
                return call
            self._end(call)
            left = deadline - self._clock()
            if left <= 0:
                raise _refusal(*short, call.need)
            self._sleep(min(pause, left))
            pause = min(pause * 2, longest)

    def _make_room(self, call: _Call) -> tuple[Headcount, int] | None:
        """Find room, or make it; else tells what is short, as `_shortage` does."""
        short = self._shortage(call)
        while short is not None and self._drops:
            has_dropped = self._drop(*short)
            call.begin_anew()
            short = self._shortage(call)
            if not has_dropped:
                break
        if short is None:
            for head, number in call.need.items():
                head.admitted += number
        return short

    def _begin(self, need: Need) -> _Call:
        with self._lock:
            call = _Call(next(self._numbers), need)
            self._calls.add(call)
            return call

    def _end(self, call: _Call) -> None:
        with self._lock:
            self._calls.discard(call)

    def _before(self, call: _Call) -> Counter[Headcount]:
        """Add up what threads take that asked earlier, and whose jobs may not be stored yet."""
        taken: Counter[Headcount] = Counter()
        with self._lock:
            for each in self._calls:
                if each.number < call.number:
                    taken.update(each.need)
        return taken

    def _shortage(self, call: _Call) -> tuple[Headcount, int] | None:
        """Tell under which bound there is too little room, and how much; None where there is.

        What others take is looked at before the shards: it is seen here or there, or twice.
        """
        while True:
            taken, last_ids = self._before(call), self._last_ids()
            for head, number in call.need.items():
                before = call.counts_before[head]
                if excess := self._excess(head, number + taken[head], last_ids, before):
                    break
            else:
                return None
            if not taken[head] or not self._wait_for_others(call):
                return head, excess

    def _last_ids(self) -> LastIds:
        found: LastIds = {}
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                found[shard_id] = unit.waiting.last_id()
        return found

    def _excess(self, head: Headcount, more: int, last_ids: LastIds, before: int) -> int:
        """Tell how many are too many: by a count that is not older than the call.

        Where jobs are dropped, by one of a moment ago: not to wait for the next one.
        """
        while (excess := head.excess(more, last_ids)) and not head.has_counted_since(before):
            if self._drops and head.is_known_full(last_ids):
                break
            if rest := head.count(more, last_ids):
                self._sleep(rest)
        return excess

    def _wait_for_others(self, call: _Call) -> bool:
        deadline = self._clock() + PATIENCE
        while self._before(call):
            if self._clock() >= deadline:
                return False
            self._sleep(LOOK_EVERY)
        return True

    # Making room

    def _drop(self, head: Headcount, number: int) -> bool:
        """Cancel so many jobs that wait, the least urgent ones.

        Tells whether they wait no more, some at least: others may have been there first.
        """
        chosen: dict[int, list[int]] = defaultdict(list)
        for (_, _, job_id), shard_id in sorted(self._oldest(head, number))[:number]:
            chosen[shard_id].append(job_id)
        if not chosen:
            head.doubt()
        done = []
        for shard_id, job_ids in chosen.items():
            for at in range(0, len(job_ids), AT_ONCE):
                with suppress(ShardError):
                    done.append(self._drop_some(head, shard_id, job_ids[at : at + AT_ONCE]))
        self.dropped += sum(done)
        logger.info("%d jobs were dropped: the queue was full", sum(done))
        return bool(done)

    def _oldest(self, head: Headcount, number: int) -> Iterator[tuple[Age, int]]:
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                names = unit.claims.queues() if head.queue is None else [head.queue]
                found = unit.waiting.oldest_scheduled(number, head.queue)
                for name in names:
                    found += unit.waiting.oldest_pending(number, name)
                yield from ((age, shard_id) for age in found)

    def _drop_some(self, head: Headcount, shard_id: int, job_ids: Sequence[int]) -> int:
        since = head.counts_ended
        with self._store.writing(shard_id) as unit:
            dropped = unit.waiting.cancel(job_ids, DROPPED)
        head.dropped(shard_id, dropped, since)
        return dropped


def _headcounts(
    store: Store, max_pending: int | Mapping[str, int] | None, clock: Callable[[], float]
) -> dict[str | None, Headcount]:
    """Make a head count for each bound, by the name of its queue; None for all of them."""
    if max_pending is None:
        return {}
    if isinstance(max_pending, int):
        return {None: Headcount(store, max_pending, None, clock)}
    return {
        queue_name(name): Headcount(store, limit, name, clock)
        for name, limit in max_pending.items()
    }


def _require_possible(need: Need) -> None:
    for head, number in need.items():
        if number > head.limit:
            raise InvalidJobError(
                f"{number} jobs at once can never have room: {_bound(head)}; "
                "enqueue them in smaller batches"
            )


def _refusal(head: Headcount, excess: int, need: Need) -> QueueFullError:
    number, seconds = need[head], head.retry_after(excess)
    jobs = "another job" if number == 1 else f"{number} more jobs"
    return QueueFullError(
        None,
        f"the queue is full: {_bound(head)}, and there is no room for {jobs}. "
        f"Try again in about {seconds:.2g} s, or let more workers run",
        seconds,
    )


def _bound(head: Headcount) -> str:
    of_queue = "" if head.queue is None else f" of queue {head.queue}"
    return f"max_pending{of_queue} is {head.limit}"
