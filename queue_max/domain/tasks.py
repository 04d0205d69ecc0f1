"""Tasks: what jobs name as the function that is to run them, and which of it a process knows."""

from collections.abc import Collection
from typing import Protocol

from queue_max.domain.job import Job

FIRST_VERSION = 1

_GATE = "task:"


class Ability(Protocol):
    """What a worker can run."""

    def can_run(self, job: Job) -> bool:
        """Tell whether it can run a job."""

    def gates(self) -> Collection[str]:
        """Name what it can run, as `gate_of` names it."""


def gate_of(task: str | None, version: object = FIRST_VERSION) -> str:
    """Name what a worker has to know to run such a job: without it, the job is held by that."""
    return _GATE if task is None else f"{_GATE}{task}@{version}"


def gate_of_job(job: Job) -> str:
    """Name what a worker has to know to run a job."""
    return gate_of(job.task, job.payload.get("version", FIRST_VERSION))


def missing(gate: str) -> str:
    """Say in words what is missing where a job is held by that gate."""
    task, _, version = gate.removeprefix(_GATE).rpartition("@")
    if not task:
        return "a worker with a function for jobs without a task"
    return f"a worker that knows the task {task}, version {version}"


def remedy(gate: str) -> str:
    """Say in words what helps where a job is held by that gate."""
    if gate == _GATE:
        return "start one: `queue-max worker --function MODULE:FUNCTION`"
    return "start one: `queue-max worker --app MODULE` imports the tasks of a module"


class Abilities:
    """What the workers of this process can run, all together."""

    def __init__(self) -> None:
        self._all: tuple[Ability, ...] = ()

    def add(self, ability: Ability) -> None:
        """Note a worker more. The caller sees to it that one thread at a time changes them."""
        self._all = (*self._all, ability)

    def remove(self, ability: Ability) -> None:
        """Note a worker less."""
        left = list(self._all)
        left.remove(ability)
        self._all = tuple(left)

    def can_run(self, job: Job) -> bool:
        """Tell whether any of them can run a job."""
        return any(each.can_run(job) for each in self._all)

    def gates(self) -> frozenset[str]:
        """Name what any of them can run."""
        return frozenset(gate for each in self._all for gate in each.gates())
