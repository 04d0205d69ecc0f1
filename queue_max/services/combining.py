"""Doing together what threads ask for at the same time."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from queue_max import forking

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

AT_MOST = 256
"""What is done in one go."""

PATIENCE = 0.02
"""Seconds after which one who waits looks whether it is its turn: a call may have been lost."""


class _Request(Generic[Asked, Answer]):
    """What one thread asks for; it waits at the gate."""

    __slots__ = ("answers", "asked", "gate")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answers: list[Answer] = []
        """None yet, or the one."""
        self.gate = threading.Lock()
        self.gate.acquire()

    def call(self) -> None:
        """Have its thread look: there is an answer, or it is its turn."""
        with suppress(RuntimeError):  # it was called before
            self.gate.release()


class Combining(Generic[Asked, Answer]):
    """Calls a function for one thing, or for many at once when several threads ask meanwhile.

    Whoever has the turn does it for all who wait, and then calls one of those who came later. It
    is the scheme of flat combining (Hendler, Incze, Shavit and Tzafrir, SPAA 2010), with a lock.

    A Ctrl-C may strike amid any statement: so the turn is a lock that knows its thread.
    """

    def __init__(
        self, act: Callable[[Sequence[Asked]], Sequence[Answer]], doubt: Callable[[], Answer]
    ) -> None:
        self._act = act
        self._doubt = doubt
        self._reset()
        forking.in_child(self._reset)

    def _reset(self) -> None:
        """Begin with nothing: at first, and in a child of fork."""
        self._turn = threading.RLock()
        self._requests: deque[_Request[Asked, Answer]] = deque()

    def __call__(self, asked: Asked) -> Answer:
        """Give the answer to what is asked.

        When the function raises, whoever called it gets the error, and all others the answer
        `doubt()`: what it did of theirs is not known.
        """
        request: _Request[Asked, Answer] = _Request(asked)
        self._requests.append(request)
        while not request.answers:
            self._take_part(request)
        return request.answers[0]

    def _take_part(self, request: _Request[Asked, Answer]) -> None:
        try:
            if not self._turn.acquire(blocking=False):
                request.gate.acquire(timeout=PATIENCE)
            elif not request.answers:
                self._answer(request)
        finally:
            with suppress(RuntimeError):  # not, or no longer, ours
                while True:
                    self._turn.release()
                    self._call_next()

    def _answer(self, own: _Request[Asked, Answer]) -> None:
        requests = [own]  # by name: it may have been taken out by a thread that was struck
        answers: Iterator[Answer] = iter(())
        try:
            while self._requests and len(requests) < AT_MOST:
                request = self._requests.popleft()
                if not request.answers and request is not own:
                    requests.append(request)
            answers = iter(self._act([request.asked for request in requests]))
        finally:
            for request in requests:
                request.answers.append(next(answers, None) or self._doubt())
                request.call()

    def _call_next(self) -> None:
        with suppress(IndexError):
            self._requests[0].call()
