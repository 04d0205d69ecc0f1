"""WorkerPool: several workers that start and stop together."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from queue_max import checks
from queue_max.repeater import Repeater
from queue_max.workers.autoscaling import Scaling
from queue_max.workers.base import BaseWorker

_POLL = 0.02  # seconds between two looks while waiting for idle workers

WorkerFactory = Callable[[str], BaseWorker]


class WorkerPool:
    """A set of workers; with `auto_scale`, as many as there is work for.

    - `worker_factory(worker_id)` makes further workers; without it they are copies of the first.
    - `min_workers`, `max_workers` bound the number the scaling may reach.
    - `scale_up_threshold`, `scale_down_threshold`: waiting jobs above which a worker is added,
      and below which one is removed.
    - `scale_up_wait`: seconds that a due job may wait before a worker is added, however few wait.
    - `scale_check_interval`, `scale_cooldown`: seconds between two looks, and after a change.
    """

    def __init__(  # noqa: PLR0913 - the contract's
        self,
        workers: Sequence[BaseWorker] | None = None,
        auto_scale: bool = False,
        min_workers: int = 1,
        max_workers: int = 10,
        scale_up_threshold: int = 100,
        scale_down_threshold: int = 10,
        scale_check_interval: float = 60.0,
        *,
        worker_factory: WorkerFactory | None = None,
        scale_cooldown: float = 0.0,
        scale_up_wait: float = 30.0,
    ) -> None:
        self.workers = [_checked(each) for each in workers or []]
        self.auto_scale = auto_scale
        self._scaling = Scaling(
            min_workers, max_workers, scale_up_threshold, scale_down_threshold, scale_up_wait
        )
        self._check_interval = checks.seconds("scale_check_interval", scale_check_interval)
        self._cooldown = checks.seconds("scale_cooldown", scale_cooldown, zero=True)
        if worker_factory is not None:
            checks.function("worker_factory", worker_factory)
        self._factory = worker_factory
        self._scaler: Repeater | None = None
        self._model = self.workers[0] if self.workers else None
        self._retired: list[BaseWorker] = []
        """Workers that were taken out, and may still run a job."""
        self._past: Counter[str] = Counter()
        """What those have done that were taken out and run no more."""
        self._scaled_at = -float("inf")
        self._made = 0
        self._is_started = False
        self._lock = threading.Lock()

    def add_worker(self, worker: BaseWorker) -> None:
        """Add a worker; it is started at once if the pool is."""
        _checked(worker)
        with self._lock:
            self._model = self._model or worker
            self.workers.append(worker)
            if self._is_started:
                worker.start()

    def remove_worker(self, worker: BaseWorker, timeout: float | None = 10.0) -> bool:
        """Take a worker out and stop it; False when its job still runs after `timeout` seconds."""
        self._retire(worker)
        return worker.stop(timeout)

    def start_all(self) -> None:
        """Start all workers, and the scaling if it was asked for."""
        with self._lock:
            self._is_started = True
            for worker in self.workers:
                worker.start()
        if self.auto_scale and self._scaler is None:
            self._scaler = Repeater("queue-max-scaling", self._check_interval, self.scale)
            self._scaler.start()

    def stop_all(self, timeout: float | None = 10.0) -> bool:
        """Take no further job and wait for those that run; False when one takes longer."""
        if self._scaler is not None:
            self._scaler.stop()
            self._scaler = None
        with self._lock:
            self._is_started = False
            workers = [*self.workers, *self._retired]
        for worker in workers:
            worker.request_stop()
        deadline = None if timeout is None else time.monotonic() + timeout
        still_running = 0
        for worker in workers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            still_running += not worker.stop(left)
        return still_running == 0

    def scale(self) -> None:
        """Bring the number of workers nearer to what the waiting jobs ask for."""
        now = time.monotonic()
        if self._model is None and self._factory is not None:
            self._model = self._factory("pool-worker-0")
        if self._model is None or now - self._scaled_at < self._cooldown:
            return
        pending = self._model.queue.get_pending_count()
        waited = self._model.queue.services.inspection.longest_wait(
            self._model.chosen_queues().names
        )
        target = self._scaling.target(len(self.workers), pending, waited)
        if target > len(self.workers):
            self.add_worker(self._make_worker(self._model))
        elif target < len(self.workers):
            self._retire(_least_missed(self.workers))
        else:
            return
        self._scaled_at = now

    def get_stats(self) -> dict[str, Any]:
        """Tell what each worker does, and the sums, with what those did that were taken out."""
        with self._lock:
            each = [worker.get_stats() for worker in self.workers]
            totals = sum(map(_counts, [*self.workers, *self._retired]), self._past)
        return {
            "workers": each,
            "total_workers": len(each),
            "total_processed": totals["processed"],
            "total_failed": totals["failed"],
            "total_retried": totals["retried"],
            "auto_scale_enabled": self.auto_scale,
        }

    def wait_for_idle(self, timeout: float | None = None) -> bool:
        """Wait until no job runs and none is due; False after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_idle():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def __enter__(self) -> Self:
        self.start_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_all()

    def _is_idle(self) -> bool:
        if any(worker.get_current_job() for worker in self.workers):
            return False
        return all(
            worker.queue.services.inspection.is_idle(worker.chosen_queues().names)
            for worker in self.workers
        )

    def _make_worker(self, model: BaseWorker) -> BaseWorker:
        self._made += 1
        name = f"pool-worker-{self._made}"
        return self._factory(name) if self._factory else model.copy(name)

    def _retire(self, worker: BaseWorker) -> None:
        """Take a worker out without waiting for its job."""
        with self._lock:
            self.workers.remove(worker)
            for each in self._retired.copy():
                if not each.is_running:
                    self._retired.remove(each)
                    self._past += _counts(each)
            self._retired.append(worker)
        worker.request_stop()


def _counts(worker: BaseWorker) -> Counter[str]:
    stats = worker.get_stats()
    return Counter(processed=stats["processed"], failed=stats["failed"], retried=stats["retried"])


def _checked(worker: BaseWorker) -> BaseWorker:
    checks.instance("worker", worker, BaseWorker, "a Worker or an AsyncWorker")
    return worker


def _least_missed(workers: Sequence[BaseWorker]) -> BaseWorker:
    """Choose whom to take out: one without a job, if there is any; the newest of them."""
    return next((each for each in reversed(workers) if not each.get_current_job()), workers[-1])
