"""The dispatchers of a process: one for each choice of queues that its workers have."""

from collections.abc import Callable, Iterator

from queue_max import forking
from queue_max.domain.queues import QueueChoice
from queue_max.domain.tasks import Abilities
from queue_max.services.dispatcher import Dispatcher
from queue_max.services.exchange import Exchange


class Dispatchers:
    """Makes them when they are first asked for, and passes on to all what concerns all."""

    def __init__(
        self,
        make_exchange: Callable[[Abilities], Exchange],
        make_dispatcher: Callable[[QueueChoice, Exchange, Abilities], Dispatcher],
    ) -> None:
        self._make_exchange = make_exchange
        self._make_dispatcher = make_dispatcher
        self._made: dict[QueueChoice, tuple[Dispatcher, Exchange]] = {}
        self._lock = forking.lock()

    def of(self, choice: QueueChoice) -> Dispatcher:
        """Give the one for workers that take jobs from these queues."""
        with self._lock:
            if choice not in self._made:
                abilities = Abilities()
                exchange = self._make_exchange(abilities)
                dispatcher = self._make_dispatcher(choice, exchange, abilities)
                # Another dict, for those who walk through the one there is without the lock.
                self._made = {**self._made, choice: (dispatcher, exchange)}
            return self._made[choice][0]

    def __iter__(self) -> Iterator[Dispatcher]:
        return (dispatcher for dispatcher, _exchange in self._made.values())

    def hint(self, shard_id: int) -> None:
        """Note that there may be new jobs in a shard."""
        for dispatcher in self:
            dispatcher.hint(shard_id)

    def wake(self) -> None:
        """Let all who wait, or tend, look whether they are to stop."""
        for dispatcher in self:
            dispatcher.wake()

    def flush(self) -> None:
        """Settle all that has ended, as far as its shards serve."""
        for dispatcher in self:
            dispatcher.flush()

    def give_all_back(self) -> None:
        """Let others have what nobody has begun."""
        for dispatcher in self:
            dispatcher.give_all_back()

    def release_held(self, shard_id: int) -> int:
        """Let jobs of a shard run that were held, where nothing holds them any more.

        Gives how many, a bounded number; what is held still, all are told.
        """
        number = 0
        for dispatcher, exchange in self._made.values():
            number += exchange.release_held(shard_id)
            if lines := exchange.lines(shard_id):
                dispatcher.hint(shard_id, lines)
        return number
