"""What any web server answers where a queue cannot do what it was asked."""

import logging
import math
from dataclasses import dataclass

from queue_max.exceptions import PartialBatchError, QueueFullError, ShardError, ShardNotFoundError

logger = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds after which a client may come again, where the error does not say."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """An answer with status 503: words for the client, and seconds for Retry-After, if any."""

    detail: str
    retry_after: int | None


def unavailable(error: ShardError) -> Unavailable | None:
    """Say how a request is answered that ended so; None for what is no fault of the queue.

    Clients are told no paths: those are logged. A batch of which a part is stored is not to be
    sent again, so that they are not told when.
    """
    if isinstance(error, ShardNotFoundError):
        return None
    logger.warning("a request is answered with 503: %s", error)
    if isinstance(error, PartialBatchError):
        return Unavailable("A part of the jobs could not be stored.", None)
    is_full = isinstance(error, QueueFullError)
    state = "is full" if is_full else "cannot be reached"
    return Unavailable(f"The job queue {state}; try again later.", _seconds(error))


def _seconds(error: ShardError) -> int:
    said = getattr(error, "retry_after", None)
    if not isinstance(said, int | float) or not math.isfinite(said):
        return RETRY_AFTER
    return max(1, math.ceil(said))
