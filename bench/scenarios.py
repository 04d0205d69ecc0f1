"""What is measured: each scenario is data, and so is what it has to reach."""

from dataclasses import dataclass, replace
from functools import partial

from bench.contenders.protocol import Request


@dataclass(frozen=True, kw_only=True)
class Target:
    """One figure of a scenario and its limit; beside a peer, the limit is for ours to theirs."""

    limit: float
    figure: str = "jobs_per_second"
    is_ceiling: bool = False
    """Whether the limit is the most that is allowed; else it is the least."""

    def is_reached_by(self, value: float) -> bool:
        """Tell whether a value is on the right side of the limit."""
        return value <= self.limit if self.is_ceiling else value >= self.limit


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One question: what is measured, beside whom, and what is asked of it."""

    name: str
    title: str
    ours: Request
    peer: Request | None = None
    targets: tuple[Target, ...]
    is_long: bool = False
    """Whether it is left out unless it is named, or all are asked for."""


FEWEST_JOBS = 20
SHORTEST_SECONDS = 1.0


def at_scale(scenario: Scenario, scale: float) -> Scenario:
    """Shrink the numbers of jobs, rows and seconds; how they are worked on stays the same."""
    peer = scenario.peer and _shrunk(scenario.peer, scale)
    return replace(scenario, ours=_shrunk(scenario.ours, scale), peer=peer)


def _shrunk(request: Request, scale: float) -> Request:
    return replace(
        request,
        jobs=max(FEWEST_JOBS, round(request.jobs * scale)),
        rows=round(request.rows * scale),
        seconds=max(SHORTEST_SECONDS, request.seconds * scale) if request.seconds else 0.0,
    )


NEW, NEW_ORJSON, OLD, HUEY = "queue-max", "queue-max+orjson", "queue-max 0.1.1", "huey"

_drain = partial(Request, task="drain", prepare="fill")
_latency = partial(Request, contender=NEW, task="latency", threads=1, jobs=1000)
_batch = partial(Request, task="enqueue_batch", jobs=50_000)
_table = partial(
    Request, contender=NEW, task="claim_and_settle", prepare="stock", jobs=300, shards=1,
    threads=1, durability="normal",
)  # fmt: skip


def _at_least(limit: float, figure: str = "jobs_per_second") -> Target:
    return Target(limit=limit, figure=figure)


def _at_most(limit: float, figure: str) -> Target:
    return Target(limit=limit, figure=figure, is_ceiling=True)


_MEANWHILE = Request(contender=OLD, task="enqueue_meanwhile", shards=12, threads=12)
_FIRST = Request(contender=OLD, task="enqueue_first", jobs=50_000, shards=12, threads=12)
_ONE_BY_ONE = Request(contender=OLD, task="enqueue", threads=1)
_BOTH_FASTER = (_at_most(2, "claim_us"), _at_most(2, "settle_us"))
_SMALL_TABLE = _table()

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="burst",
        title="drain, 20 workers, 10 shards",
        ours=_drain(contender=NEW, threads=20, shards=10),
        peer=_drain(contender=OLD, threads=20, shards=10),
        targets=(_at_least(12),),
    ),
    Scenario(
        name="contention",
        title="drain, 10 workers, 1 shard",
        ours=_drain(contender=NEW, threads=10, shards=1),
        peer=_drain(contender=OLD, threads=10, shards=1),
        targets=(_at_least(15),),
    ),
    Scenario(
        name="meanwhile",
        title="enqueue one by one, work meanwhile, 12 workers, 12 shards",
        ours=replace(_MEANWHILE, contender=NEW),
        peer=_MEANWHILE,
        targets=(_at_least(1.8),),
    ),
    Scenario(
        name="meanwhile-normal",
        title="enqueue one by one, work meanwhile, 12 workers, 12 shards, normal",
        ours=replace(_MEANWHILE, contender=NEW, durability="normal"),
        peer=_MEANWHILE,
        targets=(_at_least(3),),
    ),
    Scenario(
        name="first",
        title="enqueue 50,000 one by one, then work, 12 workers, 12 shards",
        ours=replace(_FIRST, contender=NEW),
        peer=_FIRST,
        targets=(_at_least(3),),
    ),
    Scenario(
        name="first-normal",
        title="enqueue 50,000 one by one, then work, 12 workers, 12 shards, normal",
        ours=replace(_FIRST, contender=NEW, durability="normal"),
        peer=_FIRST,
        targets=(_at_least(6),),
    ),
    Scenario(
        name="failing",
        title="drain, 30 % fail for good, 8 workers, 6 shards",
        ours=_drain(contender=NEW, threads=8, failing_percent=30),
        peer=_drain(contender=OLD, threads=8, failing_percent=30),
        targets=(_at_least(5),),
    ),
    Scenario(
        name="enqueue-normal",
        title="enqueue one by one, 1 thread, 6 shards, normal",
        ours=replace(_ONE_BY_ONE, contender=NEW, durability="normal"),
        peer=_ONE_BY_ONE,
        targets=(_at_least(4),),
    ),
    Scenario(
        name="enqueue",
        title="enqueue one by one, 1 thread, 6 shards",
        ours=replace(_ONE_BY_ONE, contender=NEW),
        peer=_ONE_BY_ONE,
        targets=(_at_least(1.5),),
    ),
    Scenario(
        name="enqueue-threads",
        title="enqueue one by one, 10 threads, 6 shards; huey at FULL",
        ours=Request(contender=NEW, task="enqueue"),
        peer=Request(contender=HUEY, task="enqueue"),
        targets=(_at_least(1.5),),
    ),
    Scenario(
        name="batch-orjson",
        title="enqueue_batch of 1,000, 6 shards, with orjson",
        ours=_batch(contender=NEW_ORJSON),
        peer=_batch(contender=OLD),
        targets=(_at_least(3),),
    ),
    Scenario(
        name="batch",
        title="enqueue_batch of 1,000, 6 shards",
        ours=_batch(contender=NEW),
        peer=_batch(contender=OLD),
        targets=(_at_least(1.8),),
    ),
    Scenario(
        name="huey",
        title="drain, 10 workers, 6 shards; huey at FULL",
        ours=_drain(contender=NEW),
        peer=_drain(contender=HUEY),
        targets=(_at_least(8),),
    ),
    Scenario(
        name="huey-normal",
        title="drain, 10 workers, 6 shards; both at NORMAL",
        ours=_drain(contender=NEW, durability="normal"),
        peer=_drain(contender=HUEY, durability="normal"),
        targets=(_at_least(5),),
    ),
    Scenario(
        name="processes",
        title="drain, 2 processes of 5 workers, 6 shards",
        ours=_drain(contender=NEW, processes=2, threads=5),
        peer=_drain(contender=OLD, processes=2, threads=5),
        targets=(_at_least(12),),
    ),
    Scenario(
        name="processes-huey",
        title="drain, 2 processes of 5 workers, 6 shards; huey at FULL",
        ours=_drain(contender=NEW, processes=2, threads=5),
        peer=_drain(contender=HUEY, processes=2, threads=5),
        targets=(_at_least(8),),
    ),
    Scenario(
        name="sleeping",
        title="drain of jobs that sleep 1 ms, 10 workers; no queue",
        ours=_drain(contender=NEW, sleep_ms=1.0),
        peer=Request(contender="threads", task="work", sleep_ms=1.0),
        targets=(_at_least(0.75),),
    ),
    Scenario(
        name="raw",
        title="drain, 1 worker, 1 shard; a bare loop, 100 at a time",
        ours=_drain(contender=NEW, threads=1, shards=1),
        peer=_drain(contender="raw SQLite", threads=1, shards=1, batch=100),
        targets=(_at_least(0.5),),
    ),
    Scenario(
        name="latency",
        title="enqueue to start, idle worker, same process",
        ours=_latency(),
        targets=(_at_most(2, "p50_ms"), _at_most(20, "p99_ms")),
    ),
    Scenario(
        name="latency-processes",
        title="enqueue to start, idle worker, other process",
        ours=_latency(processes=2),
        targets=(_at_most(5, "p50_ms"), _at_most(40, "p99_ms")),
    ),
    Scenario(
        name="idle",
        title="an idle worker process, 6 shards",
        ours=Request(contender=NEW, task="idle", threads=1, seconds=20.0),
        targets=(
            _at_most(0.5, "cpu_percent"),
            _at_most(0, "files_written"),
            _at_most(0, "writing_statements"),
        ),
    ),
    Scenario(
        name="memory",
        title="memory while 60,000 jobs are drained, 20 workers, 10 shards",
        ours=_drain(contender=NEW, threads=20, shards=10, jobs=60_000),
        targets=(_at_most(120, "peak_mb"),),
    ),
    Scenario(
        name="memory-growth",
        title="memory, 60,000 jobs against 20,000",
        ours=_drain(contender=NEW, threads=20, shards=10, jobs=60_000),
        peer=_drain(contender=NEW, threads=20, shards=10),
        targets=(_at_most(1.1, "peak_mb"),),
    ),
    Scenario(
        name="million-pending",
        title="1,000,000 pending against 1,000",
        ours=_table(rows=1_000_000),
        peer=_SMALL_TABLE,
        targets=_BOTH_FASTER,
        is_long=True,
    ),
    Scenario(
        name="million-completed",
        title="1,000,000 kept completed against none",
        ours=_table(rows=1_000_000, rows_are="completed"),
        peer=_SMALL_TABLE,
        targets=_BOTH_FASTER,
        is_long=True,
    ),
    Scenario(
        name="scheduled",
        title="100,000 urgent ones scheduled against none",
        ours=_table(rows=100_000, rows_are="scheduled"),
        peer=_SMALL_TABLE,
        targets=_BOTH_FASTER,
    ),
    Scenario(
        name="limited",
        title="drain, 10 workers, 6 shards, under a limit far above that; without",
        ours=_drain(contender=NEW, rate="1000000/s"),
        peer=_drain(contender=NEW),
        targets=(_at_least(0.9),),
    ),
    Scenario(
        name="limited-normal",
        title="the same with 2 processes of 5 workers, normal",
        ours=_drain(contender=NEW, processes=2, threads=5, durability="normal", rate="1000000/s"),
        peer=_drain(contender=NEW, processes=2, threads=5, durability="normal"),
        targets=(_at_least(0.9),),
    ),
    *(
        Scenario(
            name=f"held-{name}",
            title=f"10,000 urgent ones held by a {gate} against none",
            ours=_table(rows=10_000, rows_are=f"held by a {gate}"),
            peer=_SMALL_TABLE,
            targets=_BOTH_FASTER,
        )
        for name, gate in (
            ("rate", "rate key"),
            ("key", "concurrency key"),
            ("breaker", "breaker"),
        )
    ),
    Scenario(
        name="soak",
        title="10,000,000 jobs through one queue, 10 workers, 6 shards",
        ours=Request(contender=NEW, task="soak", jobs=10_000_000),
        targets=(
            _at_least(0.9, "last_to_first"),
            _at_most(1.1, "memory_growth"),
            _at_most(512, "files_mb"),
        ),
        is_long=True,
    ),
)
