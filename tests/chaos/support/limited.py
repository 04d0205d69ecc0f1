"""Limited: workers that note when each job was let start, and do what its payload says."""

import os
import random
import signal
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chaos.support.ledger import Ledger
from chaos.support.roles import LEDGER

from queue_max import Job, Queue, Worker
from queue_max.domain.clock import utc_now
from queue_max.domain.job import Lease
from queue_max.services.admission import Refusal
from queue_max.storage import sqlite


def work(
    name: str,
    threads: int = 2,
    queues: str = "default",
    breakers: Mapping[str, Mapping[str, float]] | None = None,
    jumps: float = 0.0,
) -> None:
    """Run jobs until SIGTERM; `breakers` are the terms of each.

    With `jumps`, each look at the time of day shows one that is wrong by up to so many seconds.

    The files that payloads name lie in the current folder; while such a file is there, a job that
    `fails_while` fails, and one that `stays_while` goes on. One that `kills` ends its process,
    unless the file is there already.
    """
    ledger, signals = Ledger(Path(os.environ[LEDGER])), list[int]()
    signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
    if jumps:
        _let_time_of_day_jump(jumps)
    with Queue() as queue:
        for breaker, terms in (breakers or {}).items():
            queue.breakers.define(breaker, **terms)
        queue.on("circuit_opened", lambda **about: ledger.note("opened", **about))
        queue.on("circuit_closed", lambda **about: ledger.note("closed", **about))
        starts = Starts(queue)
        crew = [_worker(f"{name}-{n}", queue, queues, ledger, starts) for n in range(threads)]
        for worker in crew:
            worker.start()
        ledger.note("ready")
        while not signals:
            time.sleep(0.05)
        for worker in crew:
            worker.request_stop()
        for worker in crew:
            worker.stop(None)


def _let_time_of_day_jump(seconds: float) -> None:
    def wrong_now() -> datetime:
        return utc_now() + timedelta(seconds=random.uniform(-seconds, seconds))

    sqlite.utc_now = wrong_now  # type: ignore[attr-defined]


class Starts:
    """When jobs were let start: between a moment before they were, and one after."""

    def __init__(self, queue: Queue) -> None:
        admission = queue.services.admission
        self._admit = admission.admit
        admission.admit = self._note  # type: ignore[method-assign]
        self._moments: dict[Lease, tuple[float, float]] = {}

    def of(self, job: Job) -> tuple[float, float]:
        """Give the moments, once."""
        return self._moments.pop(job.lease)

    def _note(self, job: Job, more: float) -> Refusal | None:
        asked = time.monotonic()
        refusal = self._admit(job, more)
        if refusal is None:
            self._moments[job.lease] = (asked, time.monotonic())
        return refusal


def _worker(name: str, queue: Queue, queues: str, ledger: Ledger, starts: Starts) -> Worker:
    def run(payload: Mapping[str, Any]) -> dict[str, Any]:
        job = worker.get_current_job()
        assert job is not None
        asked, let = starts.of(job)
        facts = {"n": payload["n"], "fence": job.fence}
        ledger.note("began", **facts, asked=asked, let=let)
        try:
            _do(payload, ledger)
        except OSError:
            ledger.note("failed", **facts)
            raise
        ledger.note("ended", **facts)
        return facts

    def accepted(worker_id: str, job_id: int, result: Mapping[str, Any]) -> None:
        ledger.note("accepted", **result)

    worker = Worker(name, run, queue, on_job_complete=accepted, poll_interval=0.05, queues=queues)
    return worker


def _do(payload: Mapping[str, Any], ledger: Ledger) -> None:
    time.sleep(payload.get("seconds", 0.0))
    if "kills" in payload and not Path(payload["kills"]).exists():
        Path(payload["kills"]).touch()
        ledger.note("killed", victim=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)
    while "stays_while" in payload and Path(payload["stays_while"]).exists():
        time.sleep(0.005)
    if "fails_while" in payload and Path(payload["fails_while"]).exists():
        raise OSError(f"{payload['fails_while']} is there")
