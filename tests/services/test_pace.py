import pytest

from queue_max.domain.job import Lease
from queue_max.services.pace import LARGEST_CLAIM, LARGEST_WEIGHT, WORK_HELD, Pace

LEASE = Lease(0, 1, 1)


def ran(pace: Pace, seconds: float, times: int = 50) -> None:
    for _ in range(times):
        pace.began(LEASE, 0.0)
        pace.ended(LEASE, seconds)


def test_until_a_job_has_ended_one_is_claimed_at_a_time() -> None:
    pace = Pace()
    pace.claimed(1, 10)
    pace.began(LEASE, 0.0)
    assert pace.appetite(workers=20, now=0.0) == 1


def test_claims_double_up_to_a_bound_while_jobs_are_quick() -> None:
    pace = Pace()
    ran(pace, 1e-6)
    sizes = []
    for _ in range(12):
        sizes.append(pace.appetite(workers=4, now=0.0))
        pace.claimed(sizes[-1], 10)
    assert sizes[:4] == [1, 2, 4, 8]
    assert sizes[-1] == LARGEST_CLAIM


@pytest.mark.parametrize("workers", [1, 8])
def test_no_more_is_claimed_than_is_run_in_a_short_while(workers: int) -> None:
    pace = Pace()
    ran(pace, 0.01)
    pace.claimed(LARGEST_CLAIM, 10)
    assert pace.appetite(workers, now=0.0) == pytest.approx(WORK_HELD * workers / 0.01, abs=1)


def test_jobs_that_run_for_long_count_before_they_end() -> None:
    pace = Pace()
    ran(pace, 1e-6)
    pace.claimed(LARGEST_CLAIM, 10)
    pace.began(LEASE, 0.0)
    assert pace.appetite(workers=1, now=60.0) == 1


@pytest.mark.parametrize(
    ("took", "runs_for", "is_slow"),
    [(None, 0.0, True), (1e-6, 0.0, False), (0.5, 0.0, True), (1e-6, 0.5, True)],
    ids=["nothing known", "quick", "slow", "one that runs is slow"],
)
def test_jobs_are_slow_that_one_should_not_wait_for(
    took: float | None, runs_for: float, is_slow: bool
) -> None:
    pace = Pace()
    if took is not None:
        ran(pace, took)
    if runs_for:
        pace.began(LEASE, 0.0)
    assert pace.is_slow(now=runs_for) is is_slow


def test_large_payloads_are_claimed_few_at_a_time() -> None:
    pace = Pace()
    ran(pace, 1e-6)
    pace.claimed(10, 10 * LARGEST_WEIGHT)
    assert pace.appetite(workers=8, now=0.0) == 1
    pace.claimed(10, LARGEST_WEIGHT)
    assert pace.appetite(workers=8, now=0.0) == 10
