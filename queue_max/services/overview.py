"""How the named queues are: their jobs, who takes them, and what is paused."""

from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from queue_max.domain.job import JobStatus
from queue_max.exceptions import ShardError
from queue_max.limits.scopes import QUEUE, of_queue
from queue_max.repositories.job_lists import Counts
from queue_max.repositories.unit_of_work import Store
from queue_max.services.controls import Controls
from queue_max.services.roster import Roster


class OverviewService:
    """Puts together what lies in the shards and in the control database."""

    def __init__(self, store: Store, controls: Controls, roster: Roster) -> None:
        self._store = store
        self._controls = controls
        self._roster = roster

    def queues(self) -> dict[str, dict[str, Any]]:
        """Tell of each named queue that has jobs, workers, a limit or a pause."""
        counts = self._counts()
        snapshot = self._controls.refresh()
        places: Counter[str] = Counter()
        for crew in self._roster.present():
            places.update(dict.fromkeys(crew.queues, crew.places))
        scopes = [*snapshot.paused, *(limit.scope for limit in snapshot.limits.all)]
        named = [scope.removeprefix(QUEUE) for scope in scopes if scope.startswith(QUEUE)]
        return {
            name: _told(counts.get(name, Counts()))
            | {
                "workers": places[name],
                "paused": snapshot.is_queue_paused(name),
                "reason": snapshot.paused.get(of_queue(name)),
            }
            for name in sorted({*counts, *places, *named})
        }

    def _counts(self) -> dict[str, Counts]:
        """Count the jobs of each named queue that have not ended, in the shards that serve."""
        found: dict[str, Counts] = {}
        for shard_id in self._store.shard_ids:
            with suppress(ShardError), self._store.reading(shard_id) as unit:
                for name, counts in unit.job_lists.count_by_queue().items():
                    found[name] = found.get(name, Counts()) + counts
        return found


def _told(counts: Counts) -> dict[str, Any]:
    told = asdict(counts) | {str(JobStatus.PENDING): counts.pending + counts.scheduled}
    return {name: number for name, number in told.items() if name != JobStatus.FAILED}
