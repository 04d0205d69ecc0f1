import builtins
import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import queue_max
from queue_max import exceptions
from queue_max.domain.job import JobHandle
from queue_max.exceptions import QueueError

DRAWN = re.compile(r"(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: +(?P<words>\S.*))?")

OF_THE_CONTRACT = [
    "QueueError",
    "RateLimitError",
    "CircuitBreakerOpenError",
    "JobFailedError",
    "ShardError",
    "ConfigurationError",
]

ONE_OF_EACH = [
    exceptions.QueueError("no"),
    exceptions.QueueClosedError(),
    exceptions.ConfigurationError("no"),
    exceptions.QueueNotFoundError("no"),
    exceptions.InvalidJobError("no"),
    exceptions.PayloadError("no"),
    exceptions.ShardError(3, "no"),
    exceptions.ShardBusyError(None, "no"),
    exceptions.ShardDamagedError(3, "no"),
    exceptions.ShardMissingError(3, "no"),
    exceptions.ShardNotFoundError(3, "no"),
    exceptions.QueueFullError(3, "no"),
    exceptions.QueueFullError(None, "no"),
    exceptions.PartialBatchError(exceptions.ShardError(3, "no"), 1, [JobHandle(7, 2, "abc")]),
    exceptions.PartialBatchError(exceptions.ShardError(3, "no"), 7),
    exceptions.SchemaError(3, "no"),
    exceptions.JobNotFoundError("no"),
    exceptions.ScheduleNotFoundError("no"),
    exceptions.LeaseLostError(7, 2, 5),
    exceptions.LeaseLostError(job_id=7, shard_id=2, fence=5),
    exceptions.ResultNotKeptError("no"),
    exceptions.JobFailedError("no"),
    exceptions.JobTimeoutError("no"),
    exceptions.ProcessDiedError("no"),
    exceptions.RateLimitError("no"),
    exceptions.RateLimitError("no", retry_after=1.5),
    exceptions.CircuitBreakerOpenError("no", 1.5),
    exceptions.Permanent("no"),
    exceptions.Permanent(),
    exceptions.JobSignal("no"),
    exceptions.Retry(3, "no"),
    exceptions.Retry(),
    exceptions.Snooze(3),
    exceptions.Cancel("no"),
    exceptions.Cancel(),
]

each_error = pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)


def all_errors() -> dict[str, type[QueueError]]:
    return {
        name: each
        for name, each in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(each, QueueError)
    }


def drawn() -> dict[str, tuple[str | None, str]]:
    """Read the docstring's tree: each name with that of its parent, and the words beside it."""
    tree: dict[str, tuple[str | None, str]] = {}
    ancestors: list[str] = []
    for found in map(DRAWN.fullmatch, (exceptions.__doc__ or "").splitlines()[2:]):
        assert found is not None
        del ancestors[len(found["branch"]) // 4 :]
        tree[found["name"]] = (ancestors[-1] if ancestors else None, found["words"] or "")
        ancestors.append(found["name"])
    return tree


def pickled(error: QueueError) -> QueueError:
    return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]


def test_the_tree_that_is_drawn_is_the_tree_there_is() -> None:
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: None if each is QueueError else each.__bases__[0].__name__
        for name, each in all_errors().items()
    }


def test_what_an_error_also_is_stands_beside_it_in_the_tree() -> None:
    said = {name: re.findall(r"also an? (\w+)", words) for name, (_, words) in drawn().items()}
    assert said == {
        name: [base.__name__ for base in each.__bases__[1:]] for name, each in all_errors().items()
    }


def test_what_an_error_carries_stands_beside_it_in_the_tree() -> None:
    carries = {
        name: fact
        for name, (_, words) in drawn().items()
        for fact in re.findall(r"carries (\w+)", words)
    }
    assert carries == {
        "ShardError": "shard_id",
        "QueueFullError": "retry_after",
        "PartialBatchError": "total",
        "RateLimitError": "retry_after",
        "CircuitBreakerOpenError": "retry_after",
    }
    for error in ONE_OF_EACH:
        for name, fact in carries.items():
            if isinstance(error, getattr(exceptions, name)):
                assert hasattr(error, fact)


@pytest.mark.parametrize("name", OF_THE_CONTRACT)
def test_the_errors_of_the_contract_are_there_under_its_names(name: str) -> None:
    assert issubclass(getattr(queue_max, name), QueueError)
    assert issubclass(QueueError, Exception)


def test_all_errors_are_public() -> None:
    assert all_errors().keys() <= set(queue_max.__all__)
    assert all(getattr(queue_max, name) is each for name, each in all_errors().items())


def test_every_class_here_is_a_queue_error_and_hides_none_of_pythons_own() -> None:
    classes = [
        each
        for _, each in inspect.getmembers(exceptions, inspect.isclass)
        if each.__module__ == exceptions.__name__
    ]
    assert classes == list(all_errors().values())
    assert not any(hasattr(builtins, each.__name__) for each in classes)


def test_one_of_each_is_tried_here() -> None:
    assert {type(error) for error in ONE_OF_EACH} == set(all_errors().values())


def test_an_error_of_a_shard_names_it() -> None:
    error = exceptions.ShardBusyError(3, "locked by another writer")
    assert (str(error), error.shard_id) == ("shard 3: locked by another writer", 3)


def test_an_error_of_the_control_database_names_that() -> None:
    error = exceptions.ShardDamagedError(None, "is not a database")
    assert (str(error), error.shard_id) == ("control database: is not a database", None)


def test_a_partial_batch_carries_the_handles_of_what_is_stored() -> None:
    handles = [JobHandle(7, 2, "abc")]
    error = exceptions.PartialBatchError(exceptions.ShardError(3, "is full"), 1, handles)
    assert (str(error), error.shard_id) == ("shard 3: is full; 1 other jobs are stored", 3)
    assert (error.total, error.stored) == (1, handles)


def test_a_partial_batch_that_no_shard_refused_names_none() -> None:
    error = exceptions.PartialBatchError(exceptions.QueueClosedError(), 1)
    assert str(error) == "the queue has been closed; open a new one; 1 other jobs are stored"


def test_a_full_disk_is_no_fault_of_the_control_database() -> None:
    assert str(exceptions.QueueFullError(None, "no room")) == "no room"
    assert str(exceptions.QueueFullError(3, "no room")) == "shard 3: no room"


def test_a_full_queue_says_when_there_may_be_room() -> None:
    assert exceptions.QueueFullError(None, "no room").retry_after == 1.0
    assert exceptions.QueueFullError(None, "no room", 7.5).retry_after == 7.5


def test_a_lost_lease_names_job_shard_and_fence() -> None:
    error = exceptions.LeaseLostError(7, 2, 5)
    assert (error.job_id, error.shard_id, error.fence) == (7, 2, 5)
    assert str(error).startswith("job 7 in shard 2 is no longer run under fence 5")


@pytest.mark.parametrize("kind", [exceptions.RateLimitError, exceptions.CircuitBreakerOpenError])
def test_a_refusal_for_a_time_says_for_how_long(kind: Callable[..., Any]) -> None:
    error = kind("no", retry_after=1.5)
    assert (str(error), error.retry_after) == ("no", 1.5)
    assert kind("no").retry_after == 0.0


@each_error
@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
def test_an_error_is_the_same_when_copied_or_pickled(
    error: QueueError, again: Callable[[QueueError], QueueError]
) -> None:
    other = again(error)
    assert other is not error
    assert type(other) is type(error)
    assert (str(other), repr(other), other.args) == (str(error), repr(error), error.args)
    assert vars(other) == vars(error)


def test_notes_travel_with_an_error() -> None:
    error = exceptions.ShardError(3, "no")
    error.add_note("while moving house")
    assert pickled(error).__notes__ == ["while moving house"]
