"""The Dispatcher: feeds the workers of a process from one buffer, and settles what they did.

An exchange is one transaction on one shard: it settles the jobs of that shard which have ended,
and claims the next. The worker that finds the buffer empty makes it, on behalf of all; others go
to other shards meanwhile, so that a locked one holds up nobody.
"""

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from queue_max import forking
from queue_max.domain.gates import Line
from queue_max.domain.job import Job
from queue_max.domain.queues import QueueChoice
from queue_max.domain.tasks import Abilities, Ability
from queue_max.exceptions import QueueClosedError, ShardBusyError, ShardError
from queue_max.services.admission import Admission, Refusal
from queue_max.services.buffer import Buffer
from queue_max.services.exchange import Ended, Exchange, Harvest, Source, Wanted, may_wait
from queue_max.services.leases import LeaseService
from queue_max.services.pace import Pace
from queue_max.services.retry import RetryService
from queue_max.services.shard_watch import ShardWatch
from queue_max.services.unknown_tasks import UnknownTasks
from queue_max.services.urgency import NOTHING, Urgency

logger = logging.getLogger(__name__)

FLUSH_AFTER = 0.02
"""Seconds after which a job that has ended is settled, however busy the workers are."""

HELD_AT_MOST = 0.2
"""Seconds after which a job that no worker has begun goes back."""

SOON = 0.05
"""Seconds for which a job that has to wait for a token stays in the buffer."""

AT_ONCE = 2
"""Exchanges made at once: while one waits for the disk or a lock, another can work; more threads
than that only take Python's lock from each other."""

STINT = 0.25
"""Seconds for which a shard is preferred to others: its ended jobs are settled along the way."""

RESTS = (0.25, 10.0)
"""Seconds for which a shard that refused is left alone: at first, and at most."""

_NONE_KNOWN: Mapping[int, int] = {}


@dataclass(slots=True, eq=False)
class _Shard:
    id: int
    ended: deque[Ended] = field(default_factory=deque)
    is_taken: bool = False
    """A thread makes an exchange with it."""
    begun_at: float = -math.inf
    may_have_jobs: frozenset[Source] = frozenset()
    """Queues that may have due jobs there, and lines that gates hold."""
    hints: int = 0
    takes_one: bool = False
    """Its most urgent job was one that is never buffered: the next may be, too."""
    look_at: float = 0.0
    """When to see next whether jobs are due there, of which nobody has told."""
    rests_until: float = 0.0
    refusals: int = 0
    error: ShardError | None = None
    """Why it rests; None where it is busy."""


class Dispatcher:
    """A monitor without threads of its own.

    All workers of this process share it that take jobs from the same queues. Priorities order the
    jobs of a shard; with `urgency`, those of all shards, but for what is claimed already.

    What each job passes, the buffer and the jobs that have ended, are deques that need no lock.
    The lock guards the rest. It is taken as such, not through the condition: that leaves it by
    code in Python, where a Ctrl-C that strikes a producer in `hint` may come before it is released.
    """

    def __init__(  # noqa: PLR0913 - who hears of an exchange
        self,
        shard_ids: Sequence[int],
        choice: QueueChoice,
        exchange: Exchange,
        abilities: Abilities,
        unknown_tasks: UnknownTasks,
        retry: RetryService,
        admission: Admission,
        leases: LeaseService,
        rng: random.Random,
        watch: ShardWatch,
        *,
        urgency: Urgency | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shard_ids = shard_ids
        self._urgency = urgency
        self._choice = choice
        self._names = frozenset(choice.names)
        self._exchange = exchange
        self._abilities = abilities
        self._unknown_tasks = unknown_tasks
        self._retry = retry
        self._admission = admission
        self._leases = leases
        self._rng = rng
        self._watch = watch
        self._clock = clock
        self._reset()
        forking.in_child(self._reset)

    def _reset(self) -> None:
        """Begin with nothing: at first, and in a child of fork, for the jobs run in the parent."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._has_work = threading.Event()
        self._shards = [_Shard(number) for number in self._shard_ids]
        self._ready = Buffer()
        self._pace = Pace()
        self._places = 0
        self._waiting = 0
        self._turn = 0
        self._exchanges = 0
        self._is_looking = False
        self._lines: frozenset[Line] = frozenset()
        """Where jobs are held, in any shard."""

    # For workers

    def join(self, ability: Ability, places: int = 1) -> None:
        """Note a worker more, that runs so many jobs at once."""
        with self._lock:
            self._places += places
            self._abilities.add(ability)

    def leave(self, ability: Ability, places: int = 1) -> None:
        """Note a worker less."""
        with self._lock:
            self._places -= places
            self._abilities.remove(ability)

    def take(self, worker_id: str, look_every: float) -> Job | None:
        """Give a job to a worker, under a lease; None when none may start now.

        Shards where nothing was found are looked at again every `look_every` seconds, when a
        job there falls due, or at a hint. Raises ShardError when no shard can serve.
        """
        while True:
            job, since = self._ready.pop()
            if job is None:
                shard = self._choose()
                if shard is not None:
                    job, since = self._make_exchange(shard, worker_id), self._clock()
                elif not self._look(look_every):
                    return None
            if job is not None:
                refusal = self._start(job, since, worker_id)
                if refusal is None:
                    return job
                if _is_soon(refusal):
                    return None

    def take_ready(self, worker_id: str) -> Job | None:
        """Give a job as `take` does, if one is in the buffer; asks no shard."""
        job, since = self._ready.pop()
        return None if job is None or self._start(job, since, worker_id) else job

    def finish(self, ended: Ended) -> None:
        """Have a job settled that has ended, soon."""
        ended.at = now = self._clock()
        self._pace.ended(ended.lease, now)
        self._shards[ended.lease.shard_id].ended.append(ended)
        if not self._has_work.is_set():
            self._has_work.set()

    def wait(self, longest: float, stopping: threading.Event) -> None:
        """Wait until there may be something to take, for `longest` seconds at most."""
        closed_for = [self._admission.wait(name) for name in self._names]
        closed_for += [self._admission.lines.wait(line.gate) for line in self._lines]
        with self._lock:
            now = self._clock()
            if stopping.is_set() or self._has_ready() or self._next_shard(now) is not None:
                return
            looks = (each.look_at - now for each in self._shards)
            moments = [*looks, *self._rests(now), *filter(None, closed_for)]
            self._waiting += 1
            try:
                self._changed.wait(max(0.0, min(longest, *moments)))
            finally:
                self._waiting -= 1

    def wake(self) -> None:
        """Let all who wait, or tend, look whether they are to stop."""
        with self._lock:
            self._changed.notify_all()
        self._has_work.set()

    def hint(self, shard_id: int | None = None, lines: Collection[Line] = ()) -> None:
        """Note that there may be new jobs, in that shard or in any; costs next to nothing.

        Or that gates hold jobs there, if `lines` are given.
        """
        with self._lock:
            if shard_id is not None and lines:
                self._note_lines(self._shards[shard_id], frozenset(lines))
                return
            if shard_id is None:
                for each in self._shards:
                    each.look_at = 0.0
            else:
                shard = self._shards[shard_id]
                shard.may_have_jobs |= self._names
                shard.hints += 1
            if self._waiting >= self._places or self._pace.is_slow(self._clock()):
                self._changed.notify()
            else:  # who is awake will come by; else whoever tends wakes one
                self._has_work.set()

    # For whoever sees to it that nothing is left lying

    def tend(self, stopping: threading.Event) -> None:
        """Settle what has waited long enough, and give back what nobody begins, until told to."""
        while not stopping.is_set():
            self._has_work.wait()
            stopping.wait(FLUSH_AFTER)
            try:
                self._tend()
            except QueueClosedError:
                return
            except Exception:
                logger.exception("what has ended could not be settled; another try follows")

    def flush(self) -> None:
        """Settle all that has ended, as far as its shards serve."""
        self._flush(math.inf)

    def give_all_back(self) -> None:
        """Let others have what nobody has begun."""
        self._give_back(self._ready.withdraw(math.inf))

    def give_back(self, job: Job) -> None:
        """Let others have a job that was taken and not begun; the attempt counts not."""
        self._pace.ended(job.lease, self._clock())
        self._admission.handed_back(job.lease)
        self._give_back([job])

    def _tend(self) -> None:
        now = self._clock()
        with self._lock:  # those who were woken may not keep up
            if self._ready:
                self._changed.notify_all()
            elif self._next_shard(now) is not None:
                self._changed.notify()
        self._flush(now - FLUSH_AFTER)
        self._give_back(self._ready.withdraw(now - HELD_AT_MOST))
        # In this order: what is handed in meanwhile is either seen here, or sets it itself.
        self._has_work.clear()
        with self._lock:
            is_there_more = self._next_shard(now) is not None or bool(self._ready)
            if is_there_more or any(shard.ended for shard in self._shards):
                self._has_work.set()

    def _flush(self, before: float) -> None:
        for shard in self._shards:
            with self._lock:
                is_due = bool(shard.ended) and shard.ended[0].at <= before
                if not is_due or shard.is_taken or shard.rests_until > self._clock():
                    continue
                shard.is_taken = True
                self._exchanges += 1
            self._make_exchange(shard)

    # The buffer

    def _has_ready(self) -> bool:
        """Tell whether a job in the buffer may start now."""
        first = self._ready.first_queues()
        return bool(first) and not self._open_sources().isdisjoint(first)

    def _start(self, job: Job, since: float, worker_id: str) -> Refusal | None:
        """Let a worker begin a job; one that may not waits for a moment, or goes back.

        None for success.
        """
        try:
            refusal = self._admission.admit(job, len(self._ready))
        except BaseException:
            self._give_back([job])
            raise
        if refusal is None:
            self._pace.began(job.lease, self._clock())
            job.worker_id = worker_id
        elif _is_soon(refusal):
            self._ready.put_back(job, since)
            self._has_work.set()
        else:
            self._give_back([job], refusal.gate)
            if refusal.gate is not None:
                self.hint(job.shard_id, [Line(refusal.gate)])
        return refusal

    def _give_back(self, given: Iterable[Job], held_by: str | None = None) -> None:
        for job in given:
            try:
                self._exchange.give_back(job, held_by)
            except ShardError as error:  # its lease ends, then
                logger.warning("job %s could not be given back: %s", job.key, error)
            self._leases.drop(job.lease)
            self.hint(job.shard_id)

    # Exchanges

    def _choose(self) -> _Shard | None:
        """Take a shard where there is something to do."""
        urgency = self._look_at_urgency()
        with self._lock:
            now = self._clock()
            shard = self._next_shard(now, urgency)
            if shard is not None:
                shard.is_taken = True
                self._exchanges += 1
                if now - shard.begun_at >= STINT:
                    shard.begun_at = now
                    self._turn = shard.id + 1
            return shard

    def _look_at_urgency(self) -> Mapping[int, int]:
        """Look at the most urgent job of each shard, where that decides which one comes next."""
        if self._urgency is None:
            return _NONE_KNOWN
        may_have_some = [shard.id for shard in self._shards if shard.may_have_jobs]
        return self._urgency.of(may_have_some, self._names)

    def _next_shard(self, now: float, urgency: Mapping[int, int] = _NONE_KNOWN) -> _Shard | None:
        """Find a shard with something to do: one that was begun with, else the next in turn.

        Where `urgency` is known, that goes first.
        """
        if self._exchanges >= AT_ONCE:
            return None
        following = self._shards[self._turn :] + self._shards[: self._turn]
        able = [
            shard
            for shard in following
            if not shard.is_taken
            and shard.rests_until <= now
            and (shard.ended or shard.may_have_jobs)
        ]
        if able:
            # What has ended can wait a little: it is settled on the way, where there are more jobs.
            is_open = self._open_sources()
            able = [
                each
                for each in able
                if each.may_have_jobs & is_open and self._admission.is_shard_open(each.id)
            ] or [each for each in able if each.ended]
            first = self._first_queue(able, is_open)
            able = [each for each in able if first is None or first in each.may_have_jobs]
        if urgency and able:
            return max(able, key=lambda shard: urgency.get(shard.id, NOTHING))
        begun = (shard for shard in able if shard.ended and now - shard.begun_at < STINT)
        return next(begun, able[0] if able else None)

    def _first_queue(self, shards: Iterable[_Shard], is_open: frozenset[Source]) -> str | None:
        """Name the queue that is to be claimed from first; None where they have no order."""
        if self._choice.weights is not None or len(self._names) == 1:
            return None
        somewhere = frozenset[Source]().union(*(each.may_have_jobs for each in shards)) & is_open
        return next((name for name in self._choice.names if name in somewhere), None)

    def _open_sources(self) -> frozenset[Source]:
        """Name the queues of which a job may start now, and the lines from which one may."""
        names = frozenset[Source](
            name for name in self._names if self._admission.allowance(name) > 0
        )
        return names | self._open_lines(self._lines) if self._lines and names else names

    def _open_lines(self, lines: Iterable[Source]) -> frozenset[Line]:
        gates = (each for each in lines if isinstance(each, Line))
        # As an exchange asks: one that takes nothing from an open line would be made again at once.
        return frozenset(each for each in gates if self._admission.lines.in_hand(each.gate) >= 1)

    def _rests(self, now: float) -> list[float]:
        return [
            max(0.001, shard.rests_until - now)
            for shard in self._shards
            if shard.rests_until > now and (shard.ended or shard.may_have_jobs)
        ]

    def _make_exchange(self, shard: _Shard, worker_id: str | None = None) -> Job | None:
        """Settle what has ended of a shard, and claim for a worker; gives its job, if one came."""
        # Nobody else takes from there.
        ended = [shard.ended.popleft() for _ in range(len(shard.ended))]
        with self._lock:
            hints = shard.hints
            wanted = None if worker_id is None else self._wanted(shard, worker_id)
        if wanted is not None and wanted.lines:
            self._admission.lines.prepare(line.gate for line in wanted.lines)
        harvest: Harvest | None = None
        refusal: ShardError | None = None
        try:
            harvest = self._exchange.make(shard.id, ended, wanted)
        except ShardBusyError as error:
            self._refused(shard, error)
        except QueueClosedError:
            raise
        except ShardError as error:
            refusal = error
            self._refused(shard, error)
            ended = self._settle_alone(ended)
        except Exception:
            logger.exception("an exchange with shard %s failed", shard.id)
            ended = self._settle_alone(ended)
        finally:
            left = ended if harvest is None else []
            first = self._end_exchange(shard, left, harvest, hints)
        if harvest is not None:
            self._watch.served(shard.id)
            self._tell(harvest, ended)
        elif refusal is not None:
            self._watch.refused(shard.id, refusal)
        return first

    def _wanted(self, shard: _Shard, worker_id: str) -> Wanted:
        number = 1 if shard.takes_one else self._pace.appetite(self._places, self._clock())
        if not self._admission.is_shard_open(shard.id):
            number = 0
        names = [name for name in self._choice.order(self._rng) if name in shard.may_have_jobs]
        now = self._clock()
        serving = [each for each in self._shards if each.rests_until <= now]
        first = self._first_queue(serving, self._open_sources())
        if first in names:  # those after it have their turn when no shard has any of it
            names = names[: names.index(first) + 1]
        lines = tuple(self._open_lines(shard.may_have_jobs)) if self._lines else ()
        return Wanted(worker_id, number, names, lines, self._names)

    def _settle_alone(self, ended: Sequence[Ended]) -> list[Ended]:
        """Settle each in a transaction of its own, so that none suffers for another.

        Gives those that have to wait. What one cannot tell of a commit that failed is taken for
        written: nobody else can have ended these jobs.
        """
        left = []
        for each in ended:
            each.in_doubt = True
            try:
                harvest = self._exchange.make(each.job.shard_id, [each])
            except ShardError:
                left.append(each)
            except Exception:
                logger.exception("the outcome of job %s cannot be stored", each.job.key)
                self._leases.drop(each.lease)
                each.tell(False)
            else:
                self._tell(harvest, [each])
        return left

    def _end_exchange(
        self, shard: _Shard, left: Sequence[Ended], harvest: Harvest | None, hints: int
    ) -> Job | None:
        """Put what came into the buffer, but for the first job, which is for who made it."""
        claimed = harvest.claimed if harvest is not None else []
        self._leases.hold_all([job.lease for job in claimed])
        with self._lock:
            now = self._clock()
            shard.is_taken = False
            self._exchanges -= 1
            shard.ended.extendleft(reversed(left))
            if harvest is not None:
                shard.refusals, shard.error = 0, None
                self._learn(shard, harvest, hints)
            if harvest is not None and claimed:
                self._pace.claimed(len(claimed), harvest.weight)
                shard.takes_one = not may_wait(claimed[0])
            for job in claimed[1:]:
                self._ready.put(job, now)
            has_more = self._next_shard(now) is not None
            crew = self._pace.crew(len(claimed), now) if len(claimed) > 1 else 0
            self._changed.notify(crew + (has_more and self._pace.is_slow(now)))
        if len(claimed) > 1 or left or has_more:
            self._has_work.set()
        return claimed[0] if claimed else None

    def _learn(self, shard: _Shard, harvest: Harvest, hints: int) -> None:
        """Note when more is due there; and that nothing is now, of queues where all was claimed.

        Unless somebody has stored more since there were so many `hints`.
        """
        if harvest.exhausted and shard.hints == hints:
            shard.may_have_jobs -= harvest.exhausted
        self._note_lines(shard, frozenset(harvest.lines))
        if harvest.due_in is not None:
            look_at = self._clock() + harvest.due_in
            if look_at < shard.look_at:
                shard.look_at = look_at
                self._changed.notify()  # who waits goes by the time of before

    def _note_lines(self, shard: _Shard, lines: frozenset[Line]) -> None:
        shard.may_have_jobs |= lines
        if lines or self._lines:
            everywhere = frozenset[Source]().union(*(each.may_have_jobs for each in self._shards))
            self._lines = frozenset(each for each in everywhere if isinstance(each, Line))

    def _refused(self, shard: _Shard, error: ShardError) -> None:
        """Leave a shard alone for a while."""
        with self._lock:
            if shard.refusals == 0:
                logger.warning("going on without it: %s", error)
            first, longest = RESTS
            shard.rests_until = self._clock() + min(first * 2**shard.refusals, longest)
            shard.refusals += 1
            shard.error = None if isinstance(error, ShardBusyError) else error

    def _tell(self, harvest: Harvest, ended: Sequence[Ended]) -> None:
        self._leases.drop_all([each.lease for each in ended])
        # Whatever goes wrong with one, all are told, and the job that was claimed is not lost.
        for each, is_written in zip(ended, harvest.written, strict=True):
            _surely(each.tell, is_written or each.in_doubt)
        for job, failure, verdict in harvest.buried:
            _surely(self._retry.tell, job, failure, verdict)
        if harvest.unknown:
            _surely(self._unknown_tasks.note, harvest.unknown)
        _surely(self._admission.flush)

    # Looking, without a lock

    def _look(self, look_every: float) -> bool:
        """Look for due jobs where it is time to, one thread at a time; False when none are."""
        with self._lock:
            now = self._clock()
            chosen = [each for each in self._shards if each.look_at <= now]
            if self._is_looking or not chosen:
                return False
            self._is_looking = True
            resting = [each for each in self._shards if each.rests_until > now]
            for shard in chosen:
                shard.look_at = math.inf  # whoever says meanwhile that it is to be sooner is heard
        try:
            seen = {each.id: self._look_into(each) for each in chosen if each not in resting}
        finally:
            with self._lock:
                self._is_looking = False
                now = self._clock()
                for shard in chosen:
                    shard.look_at = min(shard.look_at, now + look_every)
                has_found_some = any(shard.may_have_jobs for shard in chosen)
                if has_found_some:
                    self._changed.notify_all()
        self._tell_of_shards(seen)
        errors = [*filter(None, (*seen.values(), *(shard.error for shard in resting)))]
        if len(errors) == len(self._shards):
            raise errors[0]
        return has_found_some

    def _tell_of_shards(self, seen: Mapping[int, ShardError | None]) -> None:
        for shard_id, error in seen.items():
            if error is None:
                self._watch.served(shard_id, at_reading=True)
            else:
                self._watch.refused(shard_id, error, at_reading=True)

    def _look_into(self, shard: _Shard) -> ShardError | None:
        """See whether a shard has due jobs, and else when; gives why it cannot be seen."""
        try:
            prospect = self._exchange.look(shard.id, self._names)
        except ShardError as error:
            self._refused(shard, error)
            return error
        with self._lock:
            shard.look_at = min(shard.look_at, self._clock() + prospect.due_in)
            if prospect.due:
                shard.may_have_jobs |= prospect.due
                self._note_lines(shard, frozenset())
                shard.hints += 1
        return None


def _is_soon(refusal: Refusal) -> bool:
    """Tell whether a job is to be kept: it may start in a moment, as others of its queue."""
    return refusal.gate is None and refusal.wait <= SOON


def _surely(tell: Callable[..., object], *facts: object) -> None:
    """Tell somebody; an error of theirs is logged."""
    try:
        tell(*facts)
    except Exception:
        logger.exception("what has ended was not told to all")
