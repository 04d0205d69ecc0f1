"""The supervisor with children of a few lines, and with a clock that goes only when told to."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.programs import eventually

from queue_max.cli.lifeline import AT_LIMIT, BEGUN, Lifeline
from queue_max.cli.supervisor import FIRST_PAUSE, LIVED_WELL, LONGEST_PAUSE, Backoff, Supervisor

LASTING = "time.sleep(60)"
TELL_BEGUN, TELL_LIMIT = (f"os.write(line, {word!r})" for word in (BEGUN, AT_LIMIT))
OBEYING = (
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(6)); "
    "signal.signal(signal.SIGINT, lambda *_: sys.exit(130)); "
    f"{TELL_BEGUN}; open(f'ready-{{os.getpid()}}', 'w').close(); {LASTING}"
)

# Notes how often it is asked to stop, and ends at another signal, which is looked at after that.
SLOW = (
    "signal.signal(signal.SIGTERM, lambda *_: os.write(asked, b'x')); "
    "signal.signal(signal.SIGWINCH, lambda *_: os._exit(0)); "
    "asked = os.open(f'asked-{os.getpid()}', os.O_CREAT | os.O_WRONLY); "
    f"open(f'ready-{{os.getpid()}}', 'w').close(); {LASTING}"
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Family:
    """A supervisor whose children run what `code` says, in a test that looks on."""

    def __init__(self, places: int = 1, **options: Any) -> None:
        self.code = LASTING
        self.started: list[str] = []
        self.said: list[str] = []
        self.clock = Clock()
        self.supervisor = Supervisor(
            self._command, places, say=self.said.append, clock=self.clock, **options
        )

    def _command(self, line: int) -> Sequence[str]:
        self.started.append(self.code)
        code = f"import os, signal, sys, time; line = {line}; {self.code}"
        return [sys.executable, "-I", "-S", "-c", code]

    def tend_until(self, condition: Callable[[], object]) -> None:
        def is_fulfilled() -> object:
            self.supervisor.tend()
            return condition()

        eventually(is_fulfilled)

    def let_one_end(self, code: str) -> str:
        """Start a child that ends at once; gives what is said of it."""
        self.code, already = code, len(self.said)
        self.tend_until(lambda: len(self.said) > already)
        return self.said[-1]

    @property
    def pids(self) -> list[int]:
        places = self.supervisor._places
        return [place.running.process.pid for place in places if place.running]


@pytest.fixture
def family() -> Iterator[Callable[..., Family]]:
    made: list[Family] = []

    def make(places: int = 1, **options: Any) -> Family:
        made.append(Family(places, **options))
        return made[-1]

    yield make
    for each in made:
        each.supervisor.stop()
        for pid in each.pids:
            os.kill(pid, signal.SIGKILL)
        each.tend_until(lambda each=each: each.supervisor.is_over)


# The pause before a child is replaced


def test_the_pause_doubles_up_to_a_bound() -> None:
    backoff = Backoff()
    pauses = [backoff.after(lived=0.1) for _ in range(9)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_child_that_has_lived_well_is_replaced_as_if_none_had_died_before() -> None:
    backoff = Backoff()
    for _ in range(9):
        backoff.after(lived=LIVED_WELL - 0.1)
    assert backoff.after(lived=LONGEST_PAUSE) == FIRST_PAUSE
    assert backoff.after(lived=0.0) == 2 * FIRST_PAUSE


def test_a_child_that_died_is_replaced_when_its_pause_is_over(
    family: Callable[..., Family],
) -> None:
    one = family()
    assert "ended with exit code 3; another one starts in 0.5 s." in one.let_one_end("sys.exit(3)")
    one.code = LASTING
    one.clock.now += 0.4
    one.supervisor.tend()
    assert one.pids == []
    one.clock.now += 0.1
    one.supervisor.tend()
    assert len(one.pids) == 1


def test_each_place_has_pauses_of_its_own_that_grow_and_shrink(
    family: Callable[..., Family],
) -> None:
    one = family()
    for pause in ("0.5", "1", "2"):
        assert f"starts in {pause} s." in one.let_one_end("sys.exit(1)")
        one.clock.now += float(pause)
    one.code = LASTING
    one.supervisor.tend()
    one.clock.now += LIVED_WELL
    os.kill(one.pids[0], signal.SIGKILL)
    one.tend_until(lambda: not one.pids)
    assert "was ended by SIGKILL; another one starts in 0.5 s." in one.said[-1]


def test_a_program_that_cannot_be_started_is_tried_again() -> None:
    commands, said, clock = [["/no/such/program"], [sys.executable, "-c", ""]], [], Clock()
    supervisor = Supervisor(
        lambda _line: commands.pop(0), 1, say=said.append, until_done=True, clock=clock
    )
    supervisor.tend()
    assert "No process can be started" in said[0]
    supervisor.tend()
    assert len(commands) == 1
    clock.now += FIRST_PAUSE

    def is_over() -> bool:
        supervisor.tend()
        return supervisor.is_over

    eventually(is_over)
    assert supervisor.exit_code == 0


# Children that are not replaced, or at once


def test_a_child_that_ends_with_a_usage_error_before_it_began_is_not_replaced(
    family: Callable[..., Family],
) -> None:
    one = family()
    assert "before it began; it is not started again" in one.let_one_end("sys.exit(2)")
    assert one.supervisor.is_over
    assert one.supervisor.exit_code == 2


def test_one_that_had_begun_is_replaced_whatever_its_exit_code(
    family: Callable[..., Family],
) -> None:
    one = family()
    assert "starts in 0.5 s" in one.let_one_end(f"{TELL_BEGUN}; sys.exit(2)")


def test_a_child_at_its_limit_is_replaced_at_once_and_without_words(
    family: Callable[..., Family],
) -> None:
    one = family(until_done=True)
    one.code = f"{TELL_BEGUN}; {TELL_LIMIT}"
    one.tend_until(lambda: len(one.started) == 5)
    assert one.said == []


def test_a_child_at_its_limit_that_dies_nevertheless_is_not_replaced_at_once(
    family: Callable[..., Family],
) -> None:
    one = family()
    assert "starts in 0.5 s" in one.let_one_end(f"{TELL_LIMIT}; sys.exit(1)")


def test_until_all_is_done_children_that_end_by_themselves_are_not_replaced_but_others_are(
    family: Callable[..., Family],
) -> None:
    one = family(places=2, until_done=True)
    one.code = "sys.exit(0)"
    one.tend_until(lambda: one.supervisor.is_over)
    assert (one.started, one.said) == (["sys.exit(0)"] * 2, [])
    assert one.supervisor.exit_code == 0

    other = family(until_done=True)
    assert "starts in 0.5 s" in other.let_one_end("sys.exit(1)")
    assert not other.supervisor.is_over


def test_otherwise_a_child_that_ends_by_itself_is_replaced(family: Callable[..., Family]) -> None:
    one = family()
    assert "ended with exit code 0; another one starts" in one.let_one_end("sys.exit(0)")


# Stopping


def ready(one: Family, number: int) -> None:
    one.tend_until(lambda: len(list(Path().glob("ready-*"))) == number)


def asked(pid: int) -> int:
    return len(Path(f"asked-{pid}").read_text())


def test_all_are_asked_to_stop_and_the_highest_exit_code_counts(
    family: Callable[..., Family],
) -> None:
    one = family(places=2)
    one.code = OBEYING
    ready(one, 2)
    os.kill(one.pids[1], signal.SIGKILL)
    one.tend_until(lambda: len(one.pids) == 1)
    one.code = OBEYING.replace("exit(6)", "exit(0)")
    one.clock.now += FIRST_PAUSE
    ready(one, 3)
    one.supervisor.stop()
    one.tend_until(lambda: one.supervisor.is_over)
    assert one.supervisor.exit_code == 6
    assert len(one.said) == 1  # of the one that was killed before


def test_none_that_waits_for_its_turn_is_started_any_more_and_its_death_counts_no_more(
    family: Callable[..., Family],
) -> None:
    one = family()
    one.let_one_end("sys.exit(1)")
    one.supervisor.stop()
    one.clock.now += LONGEST_PAUSE
    one.supervisor.tend()
    assert one.supervisor.is_over
    assert (one.supervisor.exit_code, len(one.started)) == (0, 1)


def test_a_child_that_has_not_begun_when_it_is_asked_to_stop_is_no_failure(
    family: Callable[..., Family],
) -> None:
    one = family()
    one.supervisor.tend()
    one.supervisor.stop()
    one.tend_until(lambda: one.supervisor.is_over)
    assert one.supervisor.exit_code == 0


def test_one_that_is_killed_while_it_stops_is_a_failure(family: Callable[..., Family]) -> None:
    one = family()
    one.code = OBEYING.replace("sys.exit(6)", "None")
    ready(one, 1)
    one.supervisor.stop()
    os.kill(one.pids[0], signal.SIGKILL)
    one.tend_until(lambda: one.supervisor.is_over)
    assert one.supervisor.exit_code == 128 + signal.SIGKILL


def test_in_a_hurry_children_hear_another_signal(family: Callable[..., Family]) -> None:
    one = family()
    one.code = OBEYING.replace("sys.exit(6)", "None")
    ready(one, 1)
    one.supervisor.stop()
    one.supervisor.hurry()
    one.tend_until(lambda: one.supervisor.is_over)
    assert one.supervisor.exit_code == 130


# Replacing all


def test_when_the_program_has_changed_all_are_asked_to_stop_and_replaced(
    family: Callable[..., Family],
) -> None:
    one = family(places=2, has_changed=lambda: False)
    one.code = OBEYING
    ready(one, 2)
    before = one.pids
    one.supervisor.replace_all()
    ready(one, 4)
    assert not set(one.pids) & set(before)
    assert (len(one.started), one.said) == (4, [])


def test_a_child_that_takes_its_time_to_stop_is_asked_once(family: Callable[..., Family]) -> None:
    one = family(has_changed=lambda: False)
    one.code = SLOW
    ready(one, 1)
    [pid] = one.pids
    one.supervisor.replace_all()
    one.tend_until(lambda: asked(pid))
    one.supervisor.replace_all()
    one.supervisor.stop()
    os.kill(pid, signal.SIGWINCH)
    one.tend_until(lambda: one.supervisor.is_over)
    assert asked(pid) == 1


def test_after_a_change_children_that_die_are_replaced_as_if_none_had_died_before(
    family: Callable[..., Family],
) -> None:
    one = family(has_changed=lambda: False)
    one.let_one_end("sys.exit(1)")
    one.supervisor.replace_all()
    assert "starts in 0.5 s" in one.let_one_end("sys.exit(1)")


def test_a_child_that_could_not_begin_waits_for_a_change(family: Callable[..., Family]) -> None:
    one = family(has_changed=lambda: False)
    one.let_one_end("sys.exit(2)")
    one.clock.now += LONGEST_PAUSE
    one.supervisor.tend()
    assert (one.pids, one.supervisor.is_over) == ([], False)
    one.code = LASTING
    one.supervisor.replace_all()
    one.supervisor.tend()
    assert len(one.pids) == 1


def test_nothing_is_replaced_once_all_are_to_stop(family: Callable[..., Family]) -> None:
    one = family(places=2, has_changed=lambda: False)
    one.code = SLOW
    ready(one, 2)
    slow, killed = one.pids
    one.supervisor.stop()
    os.kill(killed, signal.SIGKILL)
    one.tend_until(lambda: one.pids == [slow])
    one.supervisor.replace_all()
    os.kill(slow, signal.SIGWINCH)
    one.tend_until(lambda: one.supervisor.is_over)
    assert len(one.started) == 2


# The line


def test_a_child_has_a_session_of_its_own_and_nothing_to_read(
    family: Callable[..., Family],
) -> None:
    one = family(until_done=True)
    one.code = "sys.exit(os.getsid(0) != os.getpid() or len(sys.stdin.read()))"
    reading, writing = os.pipe()
    os.write(writing, b"typed at the terminal")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        one.tend_until(lambda: one.supervisor.is_over or one.said)
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)
    assert one.said == []


def test_a_child_hears_the_end_of_the_line_and_may_still_speak() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        line, ends = Lifeline(theirs.fileno()), []
        line.when_it_ends(lambda: ends.append("heard"))
        line.tell(BEGUN)
        assert ours.recv(10) == BEGUN
        assert ends == []
        ours.close()
        eventually(lambda: ends == ["heard"])
        line.tell(AT_LIMIT)


def test_what_a_child_starts_does_not_hold_the_line() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        Lifeline(theirs.fileno())
        assert not theirs.get_inheritable()
