"""How many workers there should be."""

from dataclasses import dataclass

from queue_max import checks
from queue_max.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class Scaling:
    """Bounds of a pool, and when it grows and shrinks."""

    min_workers: int = 1
    max_workers: int = 10
    scale_up_threshold: int = 100
    scale_down_threshold: int = 10
    scale_up_wait: float = 30.0
    """Seconds that a due job may wait before there is a worker more, however few wait."""

    def __post_init__(self) -> None:
        for name in ("min_workers", "max_workers", "scale_up_threshold", "scale_down_threshold"):
            checks.whole(name, getattr(self, name))
        if not 0 <= self.min_workers <= self.max_workers or self.max_workers < 1:
            raise ConfigurationError(
                f"min_workers={self.min_workers!r}, max_workers={self.max_workers!r}: should be "
                "0 <= min_workers <= max_workers, and max_workers at least 1"
            )
        checks.seconds("scale_up_wait", self.scale_up_wait)
        if not 0 <= self.scale_down_threshold < self.scale_up_threshold:
            raise ConfigurationError(
                f"scale_down_threshold={self.scale_down_threshold!r} should be below "
                f"scale_up_threshold={self.scale_up_threshold!r}"
            )

    def target(self, workers: int, pending: int, waited: float = 0.0) -> int:
        """Give the number of workers: one more or less at a time.

        `pending` jobs wait, one of them for `waited` seconds already.
        """
        if pending > self.scale_up_threshold or waited > self.scale_up_wait:
            workers += 1
        elif pending < self.scale_down_threshold and waited <= self.scale_up_wait / 2:
            workers -= 1
        return min(max(workers, self.min_workers), self.max_workers)
