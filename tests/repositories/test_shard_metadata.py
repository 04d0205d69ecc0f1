import pytest
from support.clock import FakeClock

from queue_max.repositories.shard_metadata import Totals
from queue_max.repositories.unit_of_work import Store


def totals(store: Store) -> Totals:
    with store.reading(0) as unit:
        return unit.metadata.totals()


def test_a_new_shard_has_seen_no_job_end(store: Store) -> None:
    assert totals(store) == Totals(processed=0, failed=0)


def test_jobs_that_are_done_add_up(store: Store) -> None:
    with store.writing(0) as unit:
        unit.metadata.add_processed()
        unit.metadata.add_processed(3)
    assert totals(store) == Totals(processed=4, failed=0)


def test_jobs_that_failed_for_good_add_up(store: Store) -> None:
    with store.writing(0) as unit:
        unit.metadata.add_failed()
        unit.metadata.add_failed(2)
    assert totals(store) == Totals(processed=0, failed=3)


def test_totals_beyond_32_bits_are_kept(store: Store) -> None:
    with store.writing(0) as unit:
        unit.metadata.add_processed(2**40)
        unit.metadata.add_failed(2**40)
    assert totals(store) == Totals(processed=2**40, failed=2**40)


def test_a_count_is_undone_with_its_transaction(store: Store) -> None:
    def count_and_fail() -> None:
        with store.writing(0) as unit:
            unit.metadata.add_processed()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        count_and_fail()
    assert totals(store) == Totals()


def test_the_time_of_the_last_vacuum_is_kept(store: Store, clock: FakeClock) -> None:
    with store.reading(0) as unit:
        assert unit.metadata.last_vacuum() is None
    with store.writing(0) as unit:
        unit.metadata.note_vacuum()
    noted = clock.now
    clock.advance(3600)
    with store.reading(0) as unit:
        assert unit.metadata.last_vacuum() == noted
