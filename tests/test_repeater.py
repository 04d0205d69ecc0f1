import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_max.exceptions import QueueClosedError
from queue_max.repeater import Repeater

SOON = 0.001
NEVER = 3600.0
DEADLINE = 30.0


class Counter:
    """An action that counts its calls and can be waited for."""

    def __init__(self, fails: Callable[[int], bool] = lambda call: False) -> None:
        self.calls = 0
        self._fails = fails
        self._called = threading.Condition()

    def __call__(self) -> None:
        with self._called:
            self.calls += 1
            self._called.notify_all()
            if self._fails(self.calls):
                raise RuntimeError(f"call {self.calls} broke")

    def reaches(self, calls: int) -> bool:
        with self._called:
            return self._called.wait_for(lambda: self.calls >= calls, DEADLINE)


@pytest.fixture
def repeat() -> Iterator[Callable[..., Repeater]]:
    """Make repeaters; all are stopped at the end."""
    made: list[Repeater] = []

    def make(
        action: Callable[[], object], interval: float = SOON, *, at_once: bool = False
    ) -> Repeater:
        made.append(Repeater("test-repeater", interval, action, at_once=at_once))
        return made[-1]

    yield make
    for repeater in made:
        repeater.stop(DEADLINE)


def threads_named(name: str = "test-repeater") -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_the_action_is_called_again_and_again(repeat: Callable[..., Repeater]) -> None:
    action = Counter()
    repeat(action).start()
    assert action.reaches(5)


def test_the_first_call_comes_an_interval_after_the_start(repeat: Callable[..., Repeater]) -> None:
    rare, often = Counter(), Counter()
    repeat(rare, NEVER).start()
    repeat(often).start()
    assert often.reaches(20)
    assert rare.calls == 0


def test_nothing_is_called_before_the_start(repeat: Callable[..., Repeater]) -> None:
    unstarted, often = Counter(), Counter()
    repeat(unstarted)
    repeat(often).start()
    assert often.reaches(20)
    assert unstarted.calls == 0


def test_an_error_of_the_action_is_logged_and_the_loop_goes_on(
    repeat: Callable[..., Repeater], caplog: pytest.LogCaptureFixture
) -> None:
    action = Counter(fails=lambda call: call == 1)
    repeat(action).start()
    assert action.reaches(3)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "test-repeater" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "call 1 broke"


def test_the_loop_ends_without_a_word_when_the_queue_is_closed(
    repeat: Callable[..., Repeater], caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()

    def use_closed_queue() -> None:
        called.set()
        raise QueueClosedError

    loop = repeat(use_closed_queue)
    loop.start()
    assert called.wait(20)
    assert loop._thread is not None
    loop._thread.join(20)
    assert not loop._thread.is_alive()
    assert not caplog.records


def test_an_action_that_always_fails_is_called_all_the_same(
    repeat: Callable[..., Repeater],
) -> None:
    action = Counter(fails=lambda call: True)
    repeat(action).start()
    assert action.reaches(5)


def test_it_runs_on_a_daemon_thread_of_its_name(repeat: Callable[..., Repeater]) -> None:
    repeat(Counter(), NEVER).start()
    [thread] = threads_named()
    assert thread.daemon


def test_a_stop_does_not_wait_for_the_interval(repeat: Callable[..., Repeater]) -> None:
    action = Counter()
    repeater = repeat(action, NEVER)
    repeater.start()
    repeater.stop(DEADLINE)
    assert threads_named() == []
    assert action.calls == 0


def test_nothing_is_called_after_a_stop(repeat: Callable[..., Repeater]) -> None:
    stopped, often = Counter(), Counter()
    repeater = repeat(stopped)
    repeater.start()
    assert stopped.reaches(1)
    repeater.stop()
    calls = stopped.calls
    repeat(often).start()
    assert often.reaches(20)
    assert stopped.calls == calls


def test_a_stop_waits_for_the_call_that_runs(repeat: Callable[..., Repeater]) -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def action() -> None:
        begun.set()
        may_end.wait(DEADLINE)
        ended.append(True)

    repeater = repeat(action)
    repeater.start()
    assert begun.wait(DEADLINE)
    threading.Timer(0.05, may_end.set).start()
    repeater.stop()
    assert ended == [True]


def test_a_stop_with_a_timeout_does_not_wait_for_ever(repeat: Callable[..., Repeater]) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def action() -> Any:
        begun.set()
        return may_end.wait(DEADLINE)

    repeater = repeat(action)
    repeater.start()
    assert begun.wait(DEADLINE)
    repeater.stop(timeout=0.01)
    assert len(threads_named()) == 1
    may_end.set()


def test_a_stop_without_a_start_is_harmless(repeat: Callable[..., Repeater]) -> None:
    repeater = repeat(Counter())
    repeater.stop()
    repeater.stop()


def test_the_action_may_stop_its_own_loop(repeat: Callable[..., Repeater]) -> None:
    done = threading.Event()

    def action() -> None:
        repeater.stop()
        done.set()

    repeater = repeat(action)
    repeater.start()
    assert done.wait(DEADLINE)
    repeater.stop(DEADLINE)
    assert threads_named() == []


def test_the_first_call_may_come_at_once(repeat: Callable[..., Repeater]) -> None:
    action = Counter()
    repeat(action, NEVER, at_once=True).start()
    assert action.reaches(1)
