"""One database, a shard or the control database, wherever it lies."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, NoResultFound
from sqlalchemy.exc import TimeoutError as PoolTimeout

from queue_max.exceptions import ShardBusyError, ShardDamagedError, ShardError
from queue_max.storage.ticks import Ticks
from queue_max.storage.types import UnreadableValueError


class Database(ABC):
    """Transactions on one database; what the driver raises in them leaves as a ShardError."""

    def __init__(self, url: URL, shard_id: int | None) -> None:
        self.url = url
        self.shard_id = shard_id
        """None for the control database."""
        self._driver_errors: tuple[type[Exception], ...] = ()
        """What the driver raises where it is used without SQLAlchemy."""
        self.fault: ShardError | None = None
        """Why it is set aside: whoever wants to work with it gets this error."""

    @property
    def label(self) -> str:
        """What to call it before people."""
        return "control database" if self.shard_id is None else f"shard {self.shard_id}"

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """Open a transaction that sees one state of the database and changes nothing."""

    @abstractmethod
    def writing(self, wait: float | None = None) -> AbstractContextManager[Connection]:
        """Open a transaction that is committed on leaving, and undone by an exception.

        `wait` is how many seconds to wait for other writers (the busy timeout by default);
        after that, ShardBusyError.
        """

    @abstractmethod
    def now(self, connection: Connection) -> datetime:
        """Read the clock that leases and schedules of this database go by."""

    def ticks(self, connection: Connection) -> Ticks:
        """Read the clock that limits go by, here that of the host, which all processes share."""
        return Ticks.here()

    @abstractmethod
    def check(self) -> Sequence[str]:
        """Read all of the database; gives what is wrong with its structure, a few faults at most.

        Raises ShardError when that is beyond reading.
        """

    @abstractmethod
    def vacuum(self) -> None:
        """Give freed space back to the file system."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""

    @abstractmethod
    def _translate(self, error: BaseException | None) -> ShardError:
        """Say in our words what the driver raised."""

    @contextmanager
    def _speaking_of_shards(self) -> Iterator[None]:
        """Turn errors of the driver and the pool into ours; all others pass untouched."""
        if self.fault is not None:
            raise type(self.fault)(self.shard_id, self.fault.what)
        try:
            yield
        except DBAPIError as error:
            raise self._translate(error.orig) from error
        except self._driver_errors as error:
            raise self._translate(error) from error
        except (UnreadableValueError, UnicodeDecodeError) as error:
            raise ShardDamagedError(self.shard_id, f"it cannot be read: {error}") from error
        except (MultipleResultsFound, NoResultFound) as error:
            what = "it does not hold what it should: a row that is one is missing, or there twice"
            raise ShardDamagedError(self.shard_id, what) from error
        except PoolTimeout as error:
            raise ShardBusyError(self.shard_id, "all its connections are in use") from error
