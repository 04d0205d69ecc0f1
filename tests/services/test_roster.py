"""The list of those who take jobs."""

import pytest
from support.clock import FakeClock

from queue_max.exceptions import ShardBusyError
from queue_max.repositories.control import Control
from queue_max.repositories.workers import Crew
from queue_max.services.roster import EVERY, LIVES_FOR, Roster

CREW = Crew("host-1", ["default"], ["task:t"], 4)


@pytest.fixture
def roster(control: Control, clock: FakeClock) -> Roster:
    return Roster(control, clock=lambda: clock.now.timestamp())


def present(roster: Roster) -> list[tuple[str, int]]:
    return [(crew.identity, crew.places) for crew in roster.present()]


def test_who_signs_is_present_until_it_leaves(roster: Roster) -> None:
    roster.sign(CREW)
    assert present(roster) == [("host-1", 4)]
    roster.leave("host-1")
    assert present(roster) == []


def test_who_was_killed_is_present_for_a_while(roster: Roster, clock: FakeClock) -> None:
    roster.sign(CREW)
    clock.advance(LIVES_FOR.total_seconds())
    assert present(roster) == [("host-1", 4)]
    clock.advance(0.001)
    assert present(roster) == []


def test_it_is_written_when_something_is_new_or_some_time_has_passed(
    roster: Roster, clock: FakeClock
) -> None:
    roster.sign(CREW)
    began = clock.now
    clock.advance(EVERY - 0.001)
    roster.sign(CREW)
    assert [crew.seen_at for crew in roster.present()] == [began]
    roster.sign(Crew("host-1", ["default"], ["task:t"], 5))
    assert [crew.seen_at for crew in roster.present()] == [clock.now]
    clock.advance(EVERY)
    roster.sign(Crew("host-1", ["default"], ["task:t"], 5))
    assert [crew.seen_at for crew in roster.present()] == [clock.now]


def test_no_job_depends_on_it(
    roster: Roster,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise ShardBusyError(None, "others write")

    with monkeypatch.context() as patch:
        patch.setattr(control, "noting", refuse)
        roster.sign(CREW)
        roster.leave("host-1")
    assert "others do not see what this process does" in caplog.text
    roster.sign(CREW)
    assert present(roster) == [("host-1", 4)]
