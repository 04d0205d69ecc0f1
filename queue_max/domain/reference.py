"""Naming a job: what callers may give where one is meant."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from queue_max import checks
from queue_max.exceptions import InvalidJobError

_KEY = re.compile(r"(?P<shard>\d{1,6})-(?:(?P<id>\d{1,19})|(?P<uid>[0-9A-Za-z-]{1,64}))")


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job by its uid, and the shard where it was last seen; or by its id in a shard."""

    shard_id: int
    uid: str | None = None
    job_id: int | None = None

    @classmethod
    def of(cls, job: object) -> Self:
        """Read what names a job.

        That is a key such as "3-0198c0de-…" or, by its id in shard 3, "3-17"; what `enqueue` gave;
        a dict of `id` and `shard_id`; or an object with a `key`, such as a Job or a dead letter.
        Raises InvalidJobError for anything else.
        """
        key = job if isinstance(job, str) else getattr(job, "key", None)
        if isinstance(key, str):
            found = _KEY.fullmatch(key)
            if found is None:
                raise InvalidJobError(
                    f"job={checks.shown(key)}: should be a key as `enqueue` gives it, or "
                    "<shard>-<id>"
                )
            job_id = min(int(found["id"]), checks.LARGEST) if found["id"] else None
            return cls(int(found["shard"]), found["uid"], job_id)
        if isinstance(job, Mapping) and {"id", "shard_id"} <= job.keys():
            shard_id = checks.whole("shard_id", job["shard_id"], error=InvalidJobError)
            return cls(shard_id, None, checks.whole("id", job["id"], error=InvalidJobError))
        raise InvalidJobError(
            f"job={checks.shown(job)}: should be a key, a handle, or a dict of id and shard_id"
        )

    def __str__(self) -> str:
        return f"{self.shard_id}-{self.uid or self.job_id}"
