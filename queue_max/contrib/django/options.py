"""What `OPTIONS` of a backend for Django Tasks may say, and what a single task."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Self

from queue_max import RetryPolicy, checks
from queue_max.domain.queues import queue_name
from queue_max.exceptions import ConfigurationError
from queue_max.tasks.task import TaskOptions

A_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """The options of one backend; raises ConfigurationError for values that are none."""

    enqueue_on_commit: bool = False
    """Whether a task that is enqueued within a transaction is stored when that is committed."""
    keep_result: float = A_DAY
    """Seconds for which the result of a task is kept once it is done."""
    max_retries: int | None = None
    """Attempts after the first; None for what the queue says."""
    retry_delay: int | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    """Seconds that one attempt may take."""

    def __post_init__(self) -> None:
        checks.instance("enqueue_on_commit", self.enqueue_on_commit, bool, "True or False")
        checks.seconds("keep_result", self.keep_result)
        check_of_job(self.of_job())

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Read OPTIONS; raises ConfigurationError for keys that mean nothing."""
        for key in given:
            if key not in (names := [each.name for each in fields(cls)]):
                [nearest] = get_close_matches(str(key), names, n=1, cutoff=0)
                raise ConfigurationError(f"{key} is no option; did you mean {nearest}?")
        return cls(**given)

    def of_job(self) -> dict[str, Any]:
        """Give those that are arguments of `Queue.enqueue`."""
        return {
            "keep_result": self.keep_result,
            "max_retries": self.max_retries,
            "retry": self.retry,
            "timeout": self.timeout,
        } | ({} if self.retry_delay is None else {"retry_delay": self.retry_delay})


def check_of_job(options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for arguments of `Queue.enqueue` that are none."""
    TaskOptions.of(options)


def check_queues(names: object) -> None:
    """Raise ConfigurationError where QUEUES holds anything but names of queues."""
    if isinstance(names, str) or not isinstance(names, list | tuple | set | frozenset):
        raise ConfigurationError(f"QUEUES={checks.shown(names)}: should be a list of names")
    for name in names:
        queue_name(name)
