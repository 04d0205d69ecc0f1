"""What breakers go by, in this process: when they open, for how long, and what counts."""

import logging
from collections.abc import Callable, Mapping

from queue_max import checks
from queue_max.domain.failures import is_callers_fault
from queue_max.exceptions import ConfigurationError
from queue_max.limits.breaker import Terms

logger = logging.getLogger(__name__)

LONGEST_NAME = 255

Counts = Callable[[BaseException], bool]


class BreakerRules:
    """When each breaker opens, for how long, and what counts as a failure: in this process."""

    def __init__(self, terms: Terms) -> None:
        self._default = terms
        self._terms: Mapping[str, Terms] = {}
        self._counts: Mapping[str, Counts] = {}

    def define(
        self,
        name: str,
        failure_threshold: float | None,
        recovery_timeout: float | None,
        counts: Counts | None,
    ) -> None:
        """Set what is given; ConfigurationError for a bad value."""
        threshold, timeout = self.terms(breaker_name(name))
        if failure_threshold is not None:
            threshold = checks.limit("failure_threshold", failure_threshold)
        if recovery_timeout is not None:
            timeout = checks.seconds("recovery_timeout", recovery_timeout)
        self._terms = {**self._terms, name: Terms(threshold, timeout)}
        if counts is not None:
            checks.function("counts", counts)
            self._counts = {**self._counts, name: counts}

    def terms(self, name: str) -> Terms:
        """Tell when a breaker opens, and for how long."""
        return self._terms.get(name, self._default)

    def does_count(self, name: str, error: BaseException | str) -> bool:
        """Tell whether an error counts as a failure."""
        if isinstance(error, str):
            return True
        counts = self._counts.get(name)
        if counts is None:
            return not is_callers_fault(error)
        try:
            return bool(counts(error))
        except BaseException:  # user code: even SystemExit must not end the worker
            logger.exception("counts of breaker %s failed for an error, which counts", name)
            return True


def breaker_name(name: object) -> str:
    """Give the value if it can be the name of a breaker."""
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"breaker={checks.shown(name)}: should be a str of 1 to {LONGEST_NAME} printable "
            "characters"
        )
    return name
