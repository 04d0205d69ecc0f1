from typing import Any

import pytest

from queue_max import ConfigurationError
from queue_max.workers.autoscaling import Scaling

SCALING = Scaling(min_workers=2, max_workers=4, scale_up_threshold=100, scale_down_threshold=10)


def test_the_defaults_are_those_of_the_contract() -> None:
    assert Scaling() == Scaling(1, 10, 100, 10)


@pytest.mark.parametrize(
    ("workers", "pending", "target"),
    [
        (3, 101, 4),
        (3, 1_000_000, 4),
        (3, 100, 3),
        (3, 50, 3),
        (3, 10, 3),
        (3, 9, 2),
        (3, 0, 2),
    ],
)
def test_there_is_one_worker_more_or_less_at_a_time(
    workers: int, pending: int, target: int
) -> None:
    assert SCALING.target(workers, pending) == target


@pytest.mark.parametrize(
    ("workers", "pending", "target"),
    [(4, 101, 4), (2, 0, 2), (9, 101, 4), (9, 50, 4), (1, 0, 2), (0, 50, 2)],
)
def test_the_bounds_hold_whatever_the_number_before(
    workers: int, pending: int, target: int
) -> None:
    assert SCALING.target(workers, pending) == target


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_workers": -1}, "min_workers=-1"),
        ({"min_workers": 3, "max_workers": 2}, "min_workers=3, max_workers=2"),
        ({"min_workers": 0, "max_workers": 0}, "max_workers=0"),
        ({"scale_down_threshold": -1}, "scale_down_threshold=-1"),
        ({"scale_down_threshold": 100}, "scale_down_threshold=100"),
        ({"scale_up_threshold": 5}, "scale_up_threshold=5"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused_by_name(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Scaling(**options)


@pytest.mark.parametrize(
    "options",
    [{"min_workers": 0}, {"min_workers": 3, "max_workers": 3}, {"scale_up_threshold": 11}],
)
def test_the_narrowest_bounds_are_allowed(options: dict[str, Any]) -> None:
    Scaling(**options)


@pytest.mark.parametrize(
    ("pending", "waited", "expected"),
    [(50, 30.1, 4), (50, 30.0, 3), (5, 30.1, 4), (5, 15.1, 3), (5, 15.0, 2), (0, 0.0, 2)],
)
def test_a_job_that_waits_for_long_asks_for_a_worker_however_few_wait(
    pending: int, waited: float, expected: int
) -> None:
    assert Scaling().target(3, pending, waited) == expected


@pytest.mark.parametrize("wait", [0, -1, "5"])
def test_a_wait_that_is_no_time_is_refused(wait: Any) -> None:
    with pytest.raises(ConfigurationError, match="scale_up_wait="):
        Scaling(scale_up_wait=wait)
