"""Take one guard out of the package at a time, and see that a test notices.

`python tests/mutations/table.py [word ...]` prints a table, of the mutations with those words in
their names; the exit code is 1 when one survives. The working tree is copied, never changed.
"""

# ruff: noqa: T201 - it talks to people

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = (".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "dist", "build")
PATIENCE = 200
"""Seconds after which tests that hang count as having noticed."""

HUNG = -1
PASSED, FAILED = 0, 1
"""Exit codes of pytest; any other one says that it could not do its work."""

VERDICTS = {PASSED: "**survived**", FAILED: "killed", HUNG: "killed: the tests hung"}

MODEL = "tests/model"
GUARDS = "tests/mutations/test_guards.py"
ISOLATION = "tests/workers/test_isolation.py"


@dataclass(frozen=True)
class Change:
    """What to replace in a file, where it must be found exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """A guard that is taken out, and the tests that are to notice."""

    name: str
    changes: Sequence[Change]
    tests: Sequence[str]


def mutation(name: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    """Describe a mutation of one place."""
    return Mutation(name, [Change(file, old, new)], tests)


JOBS = "queue_max/repositories/jobs.py"
CLAIMS = "queue_max/repositories/claims.py"
LISTS = "queue_max/repositories/job_lists.py"
LEASES = "queue_max/repositories/leases.py"
LETTERS = "queue_max/repositories/dead_letters.py"
UNITS = "queue_max/repositories/unit_of_work.py"
WRITER = "queue_max/storage/writer.py"
SCHEMA = "queue_max/storage/schema.py"
PRESENCE = "queue_max/storage/presence.py"
REVISION = "migrations/shard/0002_columns_for_leases_and_more.py"
FORKING = "queue_max/forking.py"
WATCH = "queue_max/domain/leases.py"
POLICY = "queue_max/domain/retry.py"
RECOVERY = "queue_max/services/recovery.py"
RETRY = "queue_max/services/retry.py"
BURIAL = "queue_max/services/dead_letters.py"
SETTLEMENT = "queue_max/services/settlement.py"
DISPATCHER = "queue_max/services/dispatcher.py"
SCHEDULES = "queue_max/services/schedules.py"
PLANS = "queue_max/domain/schedules.py"
RHYTHMS = "queue_max/domain/rhythms.py"
CALENDAR = "queue_max/repositories/schedules.py"
EXCHANGE = "queue_max/services/exchange.py"
BUCKETS = "queue_max/limits/token_bucket.py"
STORED_BUCKETS = "queue_max/repositories/buckets.py"
BREAKER = "queue_max/limits/breaker.py"
RATES = "queue_max/services/rate_limits.py"
KEYS = "queue_max/repositories/concurrency_keys.py"
PERMITS = "queue_max/repositories/permits.py"
PERMIT_SERVICE = "queue_max/services/permits.py"
COMPANY = "queue_max/workers/company.py"
WORKER = "queue_max/workers/worker.py"

MUTATIONS = [
    # The fence
    mutation(
        "completing without the fence",
        JOBS,
        "or_(_fence.is_(None), jobs.c.fence == _fence),",
        "or_(_fence.is_(None), jobs.c.fence >= 0),",
        MODEL,
    ),
    mutation(
        "failing without the fence",
        JOBS,
        'held = [jobs.c.fence == bindparam("token", type_=BigInteger)] if has_fence else []',
        "held: list[Any] = []",
        MODEL,
    ),
    mutation(
        "heartbeat without the fence",
        LEASES,
        "tuple_(jobs.c.id, jobs.c.fence).in_(held))",
        "jobs.c.id.in_([job_id for job_id, _ in held]))",
        MODEL,
    ),
    mutation(
        "the number of the attempt is the fence",
        CLAIMS,
        "fence=jobs.c.fence + 1,",
        "fence=jobs.c.attempts + 1,",
        MODEL,
    ),
    Mutation(
        "numbers of jobs are used again (no AUTOINCREMENT)",
        [
            Change(
                SCHEMA,
                'for each in JobStatus)})", "status"),\n    sqlite_autoincrement=True,',
                'for each in JobStatus)})", "status"),',
            ),
            Change(REVISION, ", sqlite_autoincrement=numbered)", ")"),
        ],
        [MODEL],
    ),
    # Leases
    mutation(
        "a lease is judged by the wall clock",
        RECOVERY,
        "overdue = self._watch.overdue(shard_id, unit.leases.all())",
        "overdue = {\n"
        "                    lease: at\n"
        "                    for lease, at in unit.leases.all().items()\n"
        "                    if unit.now - unit.now.fromisoformat(at) >= self._lease_time\n"
        "                }",
        MODEL,
    ),
    mutation(
        "the watch goes by the wall clock",
        WATCH,
        "clock: Callable[[], float] = time.monotonic",
        "clock: Callable[[], float] = time.time",
        GUARDS,
    ),
    mutation(
        "a lease prolonged between look and verdict is ended",
        RECOVERY,
        "if still.get(each) == overdue[each]]",
        "if each in still]",
        "tests/services/test_recovery.py",
    ),
    # Transactions
    mutation(
        "a transaction goes on after an error of the disk amid it",
        WRITER,
        "code not in {CONSTRAINT, TOO_BIG}",
        "False",
        "tests/storage/test_writer.py",
    ),
    mutation(
        "a transaction that SQLite has undone is taken for committed",
        WRITER,
        "        if transaction.members and not driver_of(self._connection).in_transaction:",
        "        if False:",
        "tests/storage/test_writer.py",
    ),
    mutation(
        "who gives up waiting leaves a transaction open",
        WRITER,
        "                with self.keeping_others_out(NEVER):\n                    pass",
        "                pass",
        "tests/storage/test_writer.py",
    ),
    mutation(
        "writers begin deferred",
        WRITER,
        '"BEGIN IMMEDIATE"',
        '"BEGIN DEFERRED"',
        "tests/storage/test_sqlite.py",
    ),
    Mutation(
        "the clock is read before the lock",
        [
            Change(
                UNITS,
                "        with shard.writing(wait) as connection:\n"
                "            yield self._unit(shard, shard_id, connection)",
                "        early = self._clock() if self._clock else None\n"
                "        with shard.writing(wait) as connection:\n"
                "            yield self._unit(shard, shard_id, connection, early)",
            ),
            Change(
                UNITS,
                "def _unit(self, shard: Database, shard_id: int, connection: Connection)",
                "def _unit(self, shard, shard_id, connection, early=None)",
            ),
            Change(UNITS, "now = self._clock() if", "now = early if early else self._clock() if"),
        ],
        ["tests/repositories/test_unit_of_work.py"],
    ),
    # Attempts
    Mutation(
        "an attempt is counted at its end",
        [
            Change(CLAIMS, "attempts=jobs.c.attempts + 1,", "attempts=jobs.c.attempts,"),
            Change(
                JOBS,
                "            error_stack=failure.stack,\n            **changes,",
                "            error_stack=failure.stack,\n"
                "            attempts=jobs.c.attempts + 1,\n            **changes,",
            ),
        ],
        [MODEL],
    ),
    mutation(
        "one attempt more than allowed",
        POLICY,
        "if job.attempts >= job.max_attempts:",
        "if job.attempts > job.max_attempts:",
        MODEL,
    ),
    mutation(
        "a snooze counts as an attempt",
        JOBS,
        "return self._release(job, is_counted=False, **self._waiting(at))",
        "return self._release(job, **self._waiting(at))",
        MODEL,
    ),
    mutation(
        "a requeued job has no fresh budget",
        JOBS,
        '    "attempts": 0,\n',
        "",
        MODEL,
    ),
    # Workers that die
    mutation(
        "jobs that were only claimed are charged",
        PRESENCE,
        "return self.started is None or lease in self.started",
        "return True",
        MODEL,
    ),
    mutation(
        "where it cannot be told, nobody is charged",
        PRESENCE,
        "return self.started is None or lease in self.started",
        "return self.started is not None and lease in self.started",
        "tests/services/test_recovery.py",
    ),
    mutation(
        "the living are taken for dead",
        PRESENCE,
        "                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        "tests/storage/test_presence.py",
        MODEL,
    ),
    mutation(
        "a first death is not forgiven at once",
        RECOVERY,
        "at_once = at_once or not unit.attempts.count(job, WORKER_DIED)",
        "at_once = at_once or False",
        MODEL,
    ),
    mutation(
        "every death is forgiven at once",
        RECOVERY,
        "at_once = at_once or not unit.attempts.count(job, WORKER_DIED)",
        "at_once = True",
        "tests/services/test_recovery.py",
    ),
    mutation(
        "who is to be alone waits for nobody to end",
        COMPANY,
        "            self._changed.wait_for(lambda: not self._running)\n",
        "",
        GUARDS,
    ),
    mutation(
        "others join who is to be alone",
        COMPANY,
        "            while self._loners:\n                before_waiting()\n"
        "                self._changed.wait()\n",
        "",
        "tests/workers/test_company.py",
    ),
    mutation(
        "suspects are not run alone",
        WORKER,
        "            if not job.is_suspect:",
        "            if True:",
        GUARDS,
    ),
    # The dispatcher
    mutation(
        "suspects and single attempts are buffered",
        EXCHANGE,
        "return job.attempts < job.max_attempts and not job.is_suspect",
        "return True",
        "tests/services/test_dispatcher.py",
    ),
    mutation(
        "members of a failed transaction are trusted",
        DISPATCHER,
        'failed", shard.id)\n            ended = self._settle_alone(ended)',
        'failed", shard.id)\n            ended = []',
        "tests/services/test_dispatcher.py",
    ),
    mutation(
        "jobs that nobody begins are kept",
        DISPATCHER,
        "self._give_back(self._withdraw(now - HELD_AT_MOST))",
        "pass",
        "tests/services/test_dispatcher.py",
    ),
    mutation(
        "completing many without the fence",
        LISTS,
        'jobs.c.fence == bindparam("token", type_=BigInteger),\n)',
        ")",
        "tests/services/test_dispatcher.py",
    ),
    mutation(
        "a damaged job is run",
        EXCHANGE,
        "        if job.damage is not None:",
        "        if False:",
        "tests/services/test_dispatcher.py",
    ),
    # Tasks, and the ends of jobs
    mutation(
        "a job that nobody knows is given to a worker",
        EXCHANGE,
        "elif not self._abilities.can_run(job):",
        "elif False:",
        "tests/tasks/test_task.py",
    ),
    mutation(
        "a function that ends too late has done its job",
        "queue_max/workers/execution.py",
        "    if running.is_late:  # it may",
        "    if False:  # it may",
        "tests/workers/test_execution.py",
    ),
    mutation(
        "a job that was given up ends once more when its function does",
        "queue_max/workers/running.py",
        "            self._open.pop()\n",
        "            self._open[:] = self._open\n",
        "tests/workers/test_ending.py",
        "tests/workers/test_overseer.py",
    ),
    mutation(
        "a thread that was given up leaves the company a second time",
        COMPANY,
        "if kind is not Abandoned:",
        "if True:",
        "tests/workers/test_ending.py",
    ),
    mutation(
        "a job that is handed back has failed, since its process was killed",
        "queue_max/workers/base.py",
        "if running.stopped is StopReason.LEAVING and not outcome.success:",
        "if False:",
        ISOLATION,
    ),
    mutation(
        "a job is given to a process that has died",
        "queue_max/workers/isolation.py",
        " or self._child.has_ended)",
        ")",
        ISOLATION,
    ),
    mutation(
        "what a job has started goes on when its process is killed",
        "queue_max/workers/child_process.py",
        "os.killpg(self._process.pid, signal.SIGKILL)",
        "pass",
        ISOLATION,
    ),
    mutation(
        "a process outlives its worker as long as C code runs there",
        "queue_max/workers/child.py",
        "        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)\n",
        "        return False\n",
        "tests/workers/test_isolated_programs.py",
    ),
    # Dead letters
    mutation(
        "no dead letter is written",
        BURIAL,
        "unit.dead_letters.add(job, failure, verdict.reason)",
        "pass",
        MODEL,
    ),
    Mutation(
        "the dead letter is written in a second transaction",
        [
            Change(BURIAL, "unit.dead_letters.add(job, failure, verdict.reason)", "pass"),
            Change(
                RETRY,
                "            is_written = self.write(unit, job, failure, verdict)\n",
                "            is_written = self.write(unit, job, failure, verdict)\n"
                "        if is_written and isinstance(verdict, Bury):\n"
                "            with self._store.writing(job.shard_id) as unit:\n"
                "                unit.dead_letters.add(job, failure, verdict.reason)\n",
            ),
        ],
        [GUARDS],
    ),
    mutation(
        "a dead letter has not the payload",
        LETTERS,
        '.values({"payload": _payload, ',
        '.values({"payload": "{}", ',
        MODEL,
    ),
    mutation(
        "a revived job keeps its dead letter",
        BURIAL,
        "unit.dead_letters.remove_of_failed(job_id)",
        "pass",
        MODEL,
    ),
    mutation(
        "attempts outlive their job",
        SETTLEMENT,
        "unit.attempts.forget([uid])",
        "pass",
        MODEL,
    ),
    # Forks
    mutation(
        "files are not closed before a fork",
        FORKING,
        "each.close_for_fork()",
        "pass",
        "tests/storage/test_forking.py",
    ),
    mutation(
        "a child goes on with the connections of its parent",
        FORKING,
        "each.open_anew()",
        "pass",
        GUARDS,
    ),
    mutation(
        "a child keeps the locks that its parent held",
        FORKING,
        "made._at_fork_reinit()",
        "pass",
        "tests/storage/test_forking.py",
    ),
    mutation(
        "a fork does not wait for other threads",
        FORKING,
        "    _gate.shut()\n",
        "",
        "tests/storage/test_forking.py",
    ),
    # Schedules
    mutation(
        "schedules: the job of a tick has no key",
        PLANS,
        'described |= {"unique_key": key, "unique_for": KEY_KEPT}',
        "described |= {}",
        "tests/services/test_schedules.py",
    ),
    mutation(
        "schedules: whoever fired a tick advances the schedule",
        CALENDAR,
        "                schedules.c.revision == read.revision,\n"
        "                schedules.c.next_at == read.next_at,\n",
        "",
        "tests/repositories/test_schedules.py",
    ),
    mutation(
        "schedules: a rhythm that is changed forgets what was fired",
        PLANS,
        "now if self.last_at is None else max(now, self.last_at)",
        "now",
        "tests/domain/test_schedules.py",
    ),
    mutation(
        "schedules: a time of the hour before comes again",
        RHYTHMS,
        "if tick > last:",
        "if tick != last:",
        "tests/domain/test_schedules.py",
    ),
    mutation(
        "schedules: what is due is not read again before it is fired",
        SCHEDULES,
        "        if schedule is None or schedule.is_paused:\n            return\n",
        "        assert schedule is not None\n",
        "tests/services/test_schedules.py",
    ),
    mutation(
        "schedules: a locked shard holds up all",
        SCHEDULES,
        "if not self._try(name, 0.0)]",
        "if not self._try(name, 30.0)]",
        "tests/services/test_schedules.py",
    ),
    mutation(
        "schedules: jobs overlap",
        SCHEDULES,
        "if schedule.overlap is Overlap.ALLOW or not ticks:",
        "if ticks:",
        "tests/services/test_schedules.py",
    ),
    mutation(
        "limits: a bucket holds its burst, whatever is in hand elsewhere",
        BUCKETS,
        "rate.burst * _token(rate) - rate.number * lag",
        "rate.burst * _token(rate)",
        "tests/services/test_rate_limits.py",
    ),
    mutation(
        "limits: a token may be used for as long as the answer took, too",
        RATES,
        "until = ticks.earliest + due + reservation.usable",
        "until = ticks.latest + due + reservation.usable",
        "tests/services/test_rate_limits.py",
    ),
    mutation(
        "limits: tokens of some scopes are kept where one of another is missing",
        RATES,
        "                self.give_back(scopes[:number])\n",
        "",
        "tests/services/test_rate_limits.py",
    ),
    mutation(
        "limits: a token is due by the clock of who has waited for its turn",
        STORED_BUCKETS,
        "if behind <= 0:",
        "if behind <= 10**18:",
        "tests/repositories/test_buckets.py",
    ),
    mutation(
        "limits: what another boot has written is taken for time of this one",
        STORED_BUCKETS,
        "at if clock == self._ticks.clock else self._ticks.now",
        "at",
        "tests/repositories/test_buckets.py",
    ),
    mutation(
        "breakers: any run speaks for the probe",
        BREAKER,
        "self.state is CircuitState.HALF_OPEN and self.probe == run",
        "self.state is CircuitState.HALF_OPEN",
        "tests/limits/test_breaker.py",
        "tests/services/test_breakers.py",
    ),
    mutation(
        "breakers: a probe passes beside another",
        BREAKER,
        "if self.state is CircuitState.CLOSED or self.opens_in(now) > 0:",
        "if self.state is CircuitState.CLOSED:",
        "tests/limits/test_breaker.py",
    ),
    mutation(
        "breakers: a success closes one that is open",
        BREAKER,
        "return self if self.state is not CircuitState.CLOSED else replace(self, failures=0)",
        "return self.closed()",
        "tests/limits/test_breaker.py",
    ),
    mutation(
        "concurrency keys: who claims does not ask whether a job may run",
        EXCHANGE,
        "elif not unit.concurrency_keys.may_run(job, before=before):",
        "elif False:",
        "tests/services/test_dispatcher.py",
    ),
    mutation(
        "concurrency keys: the last ones that were claimed run first",
        EXCHANGE,
        "unit.concurrency_keys.may_run(job, before=before)",
        "unit.concurrency_keys.may_run(job)",
        "tests/services/test_dispatcher.py",
    ),
    mutation(
        "concurrency keys: nothing is balanced at the end of a unit",
        UNITS,
        "            unit.concurrency_keys.balance()\n",
        "",
        "tests/repositories/test_concurrency_keys.py",
    ),
    mutation(
        "concurrency keys: locks are taken in any order",
        KEYS,
        "sorted(self._noted), set()",
        "self._noted, set()",
        "tests/repositories/test_concurrency_keys.py",
    ),
    mutation(
        "permits: they are not counted before one is given",
        PERMITS,
        "            if self.count(scope) >= limit:\n                return scope\n",
        "            continue\n",
        "tests/repositories/test_limits.py",
    ),
    mutation(
        "permits: two are counted at once",
        PERMITS,
        '            hold_name(self._connection, f"permits:{scope}")\n',
        "            continue\n",
        "tests/repositories/test_limits.py",
    ),
    mutation(
        "permits: those of jobs that run no more stay",
        PERMIT_SERVICE,
        "if full is not None and self._drop_stale(full):",
        "if False:",
        "tests/services/test_permits.py",
    ),
    mutation(
        "lines: a line is asked of which nothing can be taken",
        DISPATCHER,
        "if self._admission.lines.in_hand(each.gate) >= 1)",
        "if not self._admission.lines.wait(each.gate))",
        "tests/services/test_dispatcher.py",
    ),
]


def main(words: Sequence[str]) -> int:
    """Print the table; gives the exit code."""
    chosen = [each for each in MUTATIONS if all(word in each.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        _require_sound(copy, chosen)
        print("| mutation | file | tests | verdict |")
        print("|---|---|---|---|")
        survived = [each for each in chosen if not _is_killed(copy, each)]
    print(f"\n{len(chosen) - len(survived)} of {len(chosen)} killed")
    return 1 if survived else 0


def _require_sound(copy: Path, chosen: Sequence[Mutation]) -> None:
    """Refuse to go on where a test fails by itself, or where a mutation has nothing to change."""
    for each in chosen:
        with _mutated(copy, each):
            pass
    tests = sorted({test for each in chosen for test in each.tests})
    code, output = _run(copy, tests)
    if code != PASSED:
        sys.exit(f"without any mutation:\n{output}")


def _is_killed(copy: Path, mutation: Mutation) -> bool:
    with _mutated(copy, mutation):
        code, output = _run(copy, mutation.tests)
    if code not in VERDICTS:
        sys.exit(f"{mutation.name}: the tests could not be run\n{output}")
    files = " ".join(dict.fromkeys(change.file for change in mutation.changes))
    cells = (mutation.name, files, " ".join(mutation.tests), VERDICTS[code])
    print(f"| {' | '.join(cells)} |", flush=True)
    return code != PASSED


@contextmanager
def _mutated(copy: Path, mutation: Mutation) -> Iterator[None]:
    files = {copy / change.file for change in mutation.changes}
    originals = {file: file.read_text() for file in files}
    try:
        for change in mutation.changes:
            _apply(copy, change)
        yield
    finally:
        for file, text in originals.items():
            file.write_text(text)


def _apply(copy: Path, change: Change) -> None:
    file = copy / change.file
    text = file.read_text()
    if (found := text.count(change.old)) != 1:
        sys.exit(f"{change.file}: has {found} times, not once:\n{change.old}")
    file.write_text(text.replace(change.old, change.new))


def _run(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests on the copy; gives their exit code and what they said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # A file that is changed twice within a second would be taken from its old bytecode.
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "QUEUE_MAX_TEST_IN_A_HURRY": "1",
    }
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return HUNG, "hung"
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
