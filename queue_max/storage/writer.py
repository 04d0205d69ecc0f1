"""The one connection by which a process writes to a SQLite file, its threads in turn.

Threads that meet there share a transaction, and so one flush to the disk: who is done while others
wait leaves it open to the next, and goes on when one of them has committed for all.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeGuard

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from queue_max.exceptions import ShardBusyError, ShardError
from queue_max.storage import driver
from queue_max.storage.driver import BUSY, CONSTRAINT, TOO_BIG, primary_code

MOST_MEMBERS = 64
"""Threads that share a transaction."""

LONGEST = 0.005
"""Seconds for which one is left open to more threads: other processes wait meanwhile."""

GRACE = 0.02
"""Seconds after which a member commits itself: the next may have given up waiting."""

NEVER = threading.TIMEOUT_MAX / 2
"""A deadline that does not pass."""


class _Transaction:
    """An open one, and what its members wait for."""

    def __init__(self) -> None:
        self.members = 0
        """Threads that have done their part."""
        self.open_until = 0.0
        self.is_over = False
        self.error: BaseException | None = None
        """Why it was undone, or may have been."""
        # An Event is code in Python: struck by a Ctrl-C, it may stay locked.
        self._gate = threading.Lock()
        self._gate.acquire()

    def end(self, error: BaseException | None) -> None:
        """Let all members go on."""
        self.error = error
        self.is_over = True
        with suppress(RuntimeError):  # a Ctrl-C came the first time
            self._gate.release()

    def wait(self, seconds: float) -> None:
        """Wait for the end, or not longer."""
        if self._gate.acquire(timeout=seconds):
            self._gate.release()  # for the next one


class Writer:
    """Gives the connection to one thread at a time; any of its methods may be struck by a Ctrl-C.

    So the turn is a lock that knows its thread, and a transaction that somebody left open is
    taken on, or committed, by whoever comes next.
    """

    def __init__(
        self, engine: Engine, shard_id: int | None, require_file: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._shard_id = shard_id
        self._require_file = require_file
        self._turn = threading.RLock()
        self._waiting: list[None] = []
        self._connection: Connection | None = None
        self._transaction: _Transaction | None = None

    @contextmanager
    def writing(self, deadline: float) -> Iterator[Connection]:
        """Open a transaction, or take part in one: committed on leaving, undone by an exception.

        Raises ShardBusyError when the deadline has passed before it is this thread's turn. When
        the transaction cannot be committed, all who took part get the error of the driver.
        """
        with self._turn_by(deadline):
            transaction = self._transaction or _Transaction()
            try:
                yield self._enter(transaction, deadline)
                is_over = self._leave(transaction)
            except BaseException as error:
                self._undo(transaction, error)
                raise
        if not is_over:
            self._wait_for(transaction)

    @contextmanager
    def keeping_others_out(self, deadline: float) -> Iterator[None]:
        """Have the turn, and no transaction."""
        with self._turn_by(deadline):
            self._end_what_is_open()
            yield

    def drop(self) -> None:
        """Close the connection; the next turn opens another. What was not committed is undone."""
        if self._transaction is not None:
            self._end(self._transaction, ShardError(self._shard_id, "closed amid a transaction"))
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    @contextmanager
    def _turn_by(self, deadline: float) -> Iterator[None]:
        try:
            if not self._turn.acquire(blocking=False):
                self._wait_for_turn(deadline)
            yield
        finally:
            # A Ctrl-C may come between acquiring and noting it, or between two lines of this very
            # block: only the lock knows how often this thread has it, and refuses who has not.
            with suppress(RuntimeError):
                while True:
                    self._turn.release()

    def _wait_for_turn(self, deadline: float) -> None:
        self._waiting.append(None)
        try:
            if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise ShardBusyError(self._shard_id, "other threads of this process are writing")
        finally:
            self._waiting.pop()

    def _enter(self, transaction: _Transaction, deadline: float) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            # Only BEGIN can meet another writer, and there we wait in our own way.
            self._connection.connection.cursor().execute("PRAGMA busy_timeout = 0")
        if transaction is self._transaction:
            driver_of(self._connection).execute("SAVEPOINT member")
        else:
            _begin_immediate(self._connection, deadline)
            self._require_file()
            transaction.open_until = time.monotonic() + LONGEST
            self._transaction = transaction
        return self._connection

    def _leave(self, transaction: _Transaction) -> bool:
        """Commit, and tell True; False when the next thread has it now."""
        if transaction.members and not driver_of(self._connection).in_transaction:
            raise ShardError(self._shard_id, "SQLite has undone a transaction amid it")
        transaction.members += 1
        if (
            self._waiting
            and transaction.members < MOST_MEMBERS
            and time.monotonic() < transaction.open_until
        ):
            if transaction.members > 1:
                driver_of(self._connection).execute("RELEASE member")
            return False
        self._commit(transaction)
        return True

    def _commit(self, transaction: _Transaction) -> None:
        assert self._connection is not None  # noqa: S101 - it has an open transaction
        try:
            self._connection.commit()  # what SQLAlchemy knows of
            driver_of(self._connection).commit()  # else
        except BaseException as error:
            self._end(transaction, error)
            raise
        self._end(transaction, None)

    def _undo(self, transaction: _Transaction, error: BaseException) -> None:
        """Undo what one member did; or what all did, where that cannot be told apart."""
        if transaction.is_over:
            return
        is_undone = False
        try:
            if transaction.members and not _may_have_spoilt_it(error):
                driver_of(self._connection).execute("ROLLBACK TO member")
                driver_of(self._connection).execute("RELEASE member")
                is_undone = True
        except driver.choose().module.Error:
            pass  # SQLite has undone all by itself
        finally:
            if not is_undone:
                self._end(transaction, error)
        if is_undone and not self._waiting:
            self._end_what_is_open()

    def _wait_for(self, transaction: _Transaction) -> None:
        try:
            transaction.wait(GRACE)
        finally:
            if not transaction.is_over:
                with self.keeping_others_out(NEVER):
                    pass
        if _is_of_driver(transaction.error):
            raise transaction.error
        if transaction.error is not None:
            what = "a transaction that several threads shared was undone, or is in doubt"
            raise ShardError(self._shard_id, what) from transaction.error

    def _end_what_is_open(self) -> None:
        if self._transaction is not None:
            with suppress(Exception):  # its members are told
                self._commit(self._transaction)

    def _end(self, transaction: _Transaction, error: BaseException | None) -> None:
        """Let its members go on; after an error, the connection is doubtful.

        A Ctrl-C may have come amid BEGIN or ROLLBACK: it would keep the shard locked.
        """
        self._transaction = None
        if error is not None:
            self.drop()
        transaction.end(error)


def driver_of(connection: Connection | None) -> Any:
    """Give the driver's own connection."""
    assert connection is not None  # noqa: S101
    return connection.connection.driver_connection


def _is_of_driver(error: BaseException | None) -> TypeGuard[Exception]:
    return isinstance(error, DBAPIError | driver.choose().module.Error)


def _may_have_spoilt_it(error: BaseException) -> bool:
    """Tell whether an error may have undone more of a transaction than its own statement.

    See https://sqlite.org/lang_transaction.html, "response to errors within a transaction".
    """
    code = primary_code(error.orig if isinstance(error, DBAPIError) else error)
    return _is_of_driver(error) and code not in {CONSTRAINT, TOO_BIG}


def _begin_immediate(connection: Connection, deadline: float) -> None:
    """Wait for the write lock by asking often: SQLite's own way starves those who wait long.

    A deferred transaction that turns into a writer half-way could not wait: SQLite fails it at
    once. Writers therefore queue up at their BEGIN.
    """
    cursor, busy = driver_of(connection).cursor(), driver.choose().module.OperationalError
    while True:
        try:
            cursor.execute("BEGIN IMMEDIATE")
            return
        except busy as error:
            if primary_code(error) != BUSY or time.monotonic() >= deadline:
                raise
        pause()


def pause() -> None:
    """Let another process write."""
    time.sleep(random.uniform(0.0005, 0.0015))  # noqa: S311 - no secret depends on it
