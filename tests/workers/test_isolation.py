"""Jobs in child processes, which can be killed, and may die."""

import math
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from chaos.support.figures import scaled
from support import isolated, isolated_tasks
from support.watching import is_there, noted, wait_until

from queue_max import (
    ConfigurationError,
    Job,
    JobTimeoutError,
    ProcessDiedError,
    Queue,
    RetryPolicy,
    Worker,
)
from queue_max.workers import child_process, overseer
from queue_max.workers.isolation import InProcess
from queue_max.workers.repertoire import Repertoire
from queue_max.workers.running import RunningJob, StopReason

MakeQueue = Callable[..., Queue]
MakeWorker = Callable[..., Worker]
RunJob = Callable[..., Any]

KILLS = scaled(100, small=3)


@pytest.fixture
def make_isolated(make_worker: MakeWorker) -> MakeWorker:
    def make(function: Callable[..., Any] | None, *name: str, **options: Any) -> Worker:
        return make_worker(function, *name, isolation="process", **options)

    return make


@pytest.fixture
def results(queue: Queue, make_isolated: MakeWorker) -> Callable[..., list[Any]]:
    """Have a function called with each payload; gives what it returned, as the parent sees it."""

    def run(function: Callable[..., Any] | None, *payloads: dict[str, Any], **options: Any) -> Any:
        given: list[Any] = []
        worker = make_isolated(
            function, on_job_complete=lambda result, **_: given.append(result), **options
        )
        for payload in payloads:
            queue.enqueue(payload)
        worker.start()
        assert queue.wait_until_empty(60)
        assert worker.stop(30)
        return given

    return run


@pytest.fixture
def failure(queue: Queue, make_isolated: MakeWorker) -> Callable[..., Job]:
    """Have a function called that fails; gives the job after its first attempt."""

    def run(function: Callable[..., Any], payload: dict[str, Any], **options: Any) -> Job:
        job = queue.enqueue(payload, **options)
        worker = make_isolated(function)
        worker.start()
        wait_until(lambda: not queue.get_job(job).is_processing and queue.get_job(job).fence)
        assert worker.stop(30)
        return queue.get_job(job)

    return run


def children() -> list[int]:
    """Name the child processes that workers have at this moment."""
    return [each.pid for each in multiprocessing.active_children() if each.pid]


# Making one


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"isolation": "fibre"}, "isolation='fibre': should be thread or process"),
        ({"isolation": None}, "isolation=None"),
        ({"jobs_per_process": 0}, "jobs_per_process=0"),
        ({"jobs_per_process": 1.5}, "jobs_per_process=1.5"),
    ],
)
def test_a_bad_option_is_refused_by_name(queue: Queue, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Worker("w", isolated.process_id, queue, **options)


def a_closure() -> Callable[[object], object]:
    return lambda payload: payload


class Locked(isolated.Adder):
    def __init__(self) -> None:
        super().__init__(1)
        import threading

        self.lock = threading.Lock()


@pytest.mark.parametrize(
    "function",
    [lambda payload: payload, a_closure(), Locked(), Locked().add],
    ids=["lambda", "closure", "object", "method"],
)
def test_a_function_that_no_other_process_finds_is_refused(
    queue: Queue, function: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigurationError, match="stands at the top level of a module"):
        Worker("w", function, queue, isolation="process")


def test_a_child_opens_the_same_queue_although_the_current_folder_has_changed(
    make_queue: MakeQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(data_dir="data")
    monkeypatch.chdir("/")
    runner = InProcess(b"", 1, Repertoire(None), queue)
    assert runner._queue["data_dir"] == str(tmp_path / "data")


def test_a_copy_has_its_isolation_too(queue: Queue) -> None:
    worker = Worker("w", isolated.process_id, queue, isolation="process", jobs_per_process=7)
    copy = worker.copy("other")
    assert (copy.isolation, copy.jobs_per_process) == ("process", 7)


# Calling functions


def test_each_job_runs_in_a_process_of_its_own(results: RunJob) -> None:
    processes = results(isolated.process_id, {}, {}, {})
    assert len({*processes, os.getpid()}) == 4


def test_a_process_may_serve_several_jobs_one_after_the_other(results: RunJob) -> None:
    processes = results(isolated.process_id, *[{}] * 5, jobs_per_process=2)
    assert [processes.count(each) for each in dict.fromkeys(processes)] == [2, 2, 1]


@pytest.mark.parametrize(
    "function",
    [isolated.add_two, isolated.add_later, isolated.Adder(2), isolated.Adder(2).add],
    ids=["partial", "coroutine function", "object", "method"],
)
def test_what_the_function_gives_comes_back(results: RunJob, function: Callable[..., Any]) -> None:
    assert results(function, {"n": 5}) == [7]


def test_the_running_job_tells_there_what_it_tells_here(queue: Queue, results: RunJob) -> None:
    job = queue.enqueue({}, timeout=50)
    (told,) = results(isolated.facts)
    assert 0 < told.pop("time_left") <= 50
    assert told == {
        **{"id": job["id"], "key": job.key, "attempt": 1, "fence": 1, "timeout": 50},
        **{"should_stop": False, "is_cancelled": False},
    }


def test_a_job_without_a_limit_has_all_the_time(results: RunJob) -> None:
    (told,) = results(isolated.facts, {})
    assert (told["timeout"], told["time_left"]) == (None, math.inf)


def test_the_worker_does_what_the_running_job_is_told(
    queue: Queue, make_isolated: MakeWorker, tmp_path: Path
) -> None:
    job = queue.enqueue({"folder": str(tmp_path)}, keep_result=60)
    make_isolated(isolated.progress).start()
    noted(tmp_path)
    assert queue.get_job(job).progress == 50
    (tmp_path / "leave").touch()
    answer = queue.get_result(job, 60)
    assert "progress=101: should be a number from 0 to 100" in answer


def test_a_job_sees_there_that_it_was_cancelled(
    queue: Queue, make_isolated: MakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overseer, "LOOK_EVERY", 1000)  # it would be killed first
    job = queue.enqueue({"folder": str(tmp_path)})
    make_isolated(isolated.wait_until_cancelled).start()
    noted(tmp_path)
    queue.cancel(job)
    noted(tmp_path, "lost")


def test_a_thread_that_a_job_left_behind_cannot_speak_for_the_next_one(
    queue: Queue, results: RunJob, tmp_path: Path
) -> None:
    folder = str(tmp_path)
    results(
        isolated.ask_too_late,
        *({"n": n, "folder": folder} for n in range(2)),
        jobs_per_process=2,
    )
    assert noted(tmp_path, "asked") == "True"


def test_a_job_may_start_processes(results: RunJob) -> None:
    assert results(isolated.start_a_process, {}) == [0]


def test_what_a_job_has_forked_does_not_answer_for_it_or_for_the_next_one(
    results: RunJob,
) -> None:
    payloads = [{"n": n, "forks": n == 0} for n in range(3)]
    assert results(isolated.fork_or_give, *payloads, jobs_per_process=3) == [0, 1, 2]


def test_a_task_is_found_by_importing_its_module(queue: Queue, results: RunJob) -> None:
    job = isolated_tasks.double.using(queue=queue).delay(4)
    assert results(None) == [(8, job.key)]


def test_what_a_task_enqueues_there_goes_to_its_own_queue(queue: Queue, results: RunJob) -> None:
    isolated_tasks.enqueue_more.using(queue=queue).delay(4)
    (waiting, (doubled, _)) = results(None)
    assert (waiting, doubled) == (1, 8)


def test_what_is_enqueued_there_is_in_the_log_of_events_too(
    make_queue: MakeQueue, make_isolated: MakeWorker
) -> None:
    queue = make_queue(shards=1, event_log=100)
    isolated_tasks.enqueue_more.using(queue=queue).delay(4)
    worker = make_isolated(None, queue=queue)
    worker.start()
    assert queue.wait_until_empty(60)
    assert worker.stop(30)
    told = [event.facts["job_id"] for event in queue.events() if event.event == "job_enqueued"]
    assert sorted(told) == [1, 2]  # each process writes its own, when it comes to it


def test_a_task_that_its_module_does_not_define_there_fails(failure: Callable[..., Job]) -> None:
    isolated_tasks.define_another()
    job = failure(None, {}, task="isolated.missing")
    assert job.error_type == "ConfigurationError"
    assert "support.isolated_tasks" in str(job.last_error)
    assert "isolated.missing" in str(job.last_error)


# Errors


def test_an_error_tells_where_it_arose_in_the_child(
    queue: Queue, failure: Callable[..., Job]
) -> None:
    job = failure(isolated.fail, {"error": "plain"})
    (attempt,) = queue.get_attempts(job)
    assert (attempt.error_type, attempt.error) == ("ValueError", "it broke")
    assert attempt.error_stack is not None
    assert 'raise ERRORS[payload["error"]]' in attempt.error_stack
    assert "child_process" not in attempt.error_stack


@pytest.mark.parametrize("error", ["exit", "interrupt"])
def test_an_exception_of_any_kind_is_the_jobs_failure(
    failure: Callable[..., Job], error: str
) -> None:
    assert (
        failure(isolated.fail, {"error": error}).error_type
        == {
            "exit": "SystemExit",
            "interrupt": "KeyboardInterrupt",
        }[error]
    )


@pytest.mark.parametrize("how", ["raised", "returned"])
@pytest.mark.parametrize("named", isolated.SIGNALS)
def test_a_job_says_there_as_here_what_is_to_become_of_it(
    queue: Queue, failure: Callable[..., Job], named: str, how: str
) -> None:
    job = failure(isolated.ask, {"signal": named, "how": how})
    state = {"cancel": "cancelled", "permanent": "failed"}.get(named, "scheduled")
    assert job.status == state
    assert job.attempts == (0 if named == "snooze" else 1)


@pytest.mark.parametrize(
    ("named", "policy", "is_tried_again"),
    [
        ("local", RetryPolicy.exponential(retry_on=ConnectionError), True),
        (
            "local",
            RetryPolicy.exponential(retry_on="support.isolated._local.<locals>.LocalError"),
            True,
        ),
        ("local", RetryPolicy.exponential(give_up_on=OSError), False),
        ("own", RetryPolicy.exponential(retry_on=isolated.PageError), True),
        ("own", None, True),
        ("own 404", None, False),
        ("http", None, True),
    ],
)
def test_an_error_that_cannot_be_sent_is_judged_all_the_same(
    failure: Callable[..., Job], named: str, policy: RetryPolicy | None, is_tried_again: bool
) -> None:
    job = failure(isolated.fail, {"error": named}, retry=policy)
    assert (job.is_pending, job.is_failed) == (is_tried_again, not is_tried_again)
    assert job.error_type == type(isolated.ERRORS[named]).__name__
    assert job.last_error == str(isolated.ERRORS[named])


@pytest.mark.parametrize(
    ("n", "told"),
    [(0, "cannot leave the child process: TypeError: cannot pickle"), (1, "not from here")],
)
def test_a_result_that_cannot_be_sent_is_a_failure_for_good(
    failure: Callable[..., Job], n: int, told: str
) -> None:
    job = failure(isolated.unsendable, {"n": n})
    assert (job.error_type, job.is_failed) == ("Permanent", True)
    assert told in str(job.last_error)


# Ends


def test_a_job_ends_at_its_time_limit_whatever_it_does(
    queue: Queue, make_isolated: MakeWorker
) -> None:
    for _ in range(KILLS):
        queue.enqueue({"n": 0}, timeout=0.1, max_retries=0)
        queue.enqueue({"n": 1})
    worker = make_isolated(isolated.stay_or_end, jobs_per_process=1000)
    worker.start()
    assert queue.wait_until_empty(60 + KILLS)
    assert worker.stop(30)
    failed = queue.get_failed_jobs(KILLS)
    assert {(job.error_type, job.error_stack) for job in failed} == {("JobTimeoutError", None)}
    stats = worker.get_stats()
    assert (stats["failed"], stats["processed"], stats["abandoned"]) == (KILLS, KILLS, 0)
    assert children() == []


def test_a_cancelled_job_is_killed(queue: Queue, make_isolated: MakeWorker, tmp_path: Path) -> None:
    job = queue.enqueue({"folder": str(tmp_path)})
    worker = make_isolated(isolated.hold_the_interpreter)
    worker.start()
    pid = int(noted(tmp_path))
    queue.cancel(job)
    wait_until(lambda: not is_there(pid))
    wait_until(lambda: worker.get_stats()["lost"] == 1)
    assert queue.get_job(job).is_cancelled


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("segfault", "its process was killed by SIGSEGV"),
        ("exit", "its process ended with exit code 3"),
        ("kill", "its process was killed by SIGKILL, for want of memory perhaps"),
        ("fork", "its process ended with exit code 4"),
        ("forget", "its process was killed by SIGKILL"),
    ],
)
def test_a_process_that_dies_is_the_failure_of_its_job_alone(
    queue: Queue, make_isolated: MakeWorker, how: str, told: str
) -> None:
    deadly = queue.enqueue({"how": how}, max_retries=1, retry=RetryPolicy.delays([0]))
    for _ in range(2):
        queue.enqueue({})
    worker = make_isolated(isolated.die, jobs_per_process=10)
    worker.start()
    assert queue.wait_until_empty(60)
    stats = worker.get_stats()
    assert (stats["retried"], stats["failed"], stats["processed"]) == (1, 1, 2)
    job = queue.get_job(deadly)
    assert job.error_type == ProcessDiedError.__name__
    assert told in str(job.last_error)
    assert not job.is_suspect


def test_a_process_that_dies_harms_no_job_that_runs_beside_it(
    queue: Queue, make_isolated: MakeWorker, tmp_path: Path
) -> None:
    queue.enqueue({"folder": str(tmp_path)})
    steady = make_isolated(isolated.stay)
    steady.start()
    noted(tmp_path)
    queue.enqueue({"how": "segfault"}, max_retries=0)
    unlucky = make_isolated(isolated.die, "worker-2")
    unlucky.start()
    wait_until(lambda: unlucky.get_stats()["failed"] == 1)
    (tmp_path / "leave").touch()
    assert queue.wait_until_empty(60)
    assert steady.get_stats()["processed"] == 1


def test_a_job_that_is_handed_back_is_killed_and_runs_again_at_once(
    queue: Queue, make_isolated: MakeWorker, tmp_path: Path
) -> None:
    job = queue.enqueue({"folder": str(tmp_path)})
    worker = make_isolated(isolated.hold_the_interpreter)
    worker.start()
    pid = int(noted(tmp_path))
    assert worker.hand_back() == 1
    wait_until(lambda: not is_there(pid))
    assert worker.stop(30)
    found = queue.get_job(job)
    assert (found.status, found.error_type, found.attempts) == ("pending", "WorkerStopped", 1)
    assert worker.get_stats()["lost"] == 0
    assert children() == []


def test_that_it_was_killed_is_no_failure_of_a_job_that_is_handed_back(
    queue: Queue, make_isolated: MakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue.enqueue({"folder": str(tmp_path)})
    worker = make_isolated(isolated.hold_the_interpreter)
    hand_back = queue.services.retry.hand_back

    def come_late(*arguments: Any) -> None:
        assert worker._thread is not None
        worker._thread.join(30)
        queue.services.dispatchers.flush()
        hand_back(*arguments)

    monkeypatch.setattr(queue.services.retry, "hand_back", come_late)
    worker.start()
    noted(tmp_path)
    assert worker.hand_back() == 1
    assert queue.get_job(job).error_type == "WorkerStopped"


def test_what_a_job_has_started_is_killed_with_it(
    queue: Queue, make_isolated: MakeWorker, tmp_path: Path
) -> None:
    queue.enqueue({"folder": str(tmp_path)}, max_retries=0)
    worker = make_isolated(isolated.start_another)
    worker.start()
    pid = int(noted(tmp_path))
    assert is_there(pid)
    worker.hand_back()
    wait_until(lambda: not is_there(pid))


def test_a_job_that_has_ended_is_stopped_no_more(
    queue: Queue, make_isolated: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a job may be over in the moment when its process has the next one already."""
    ran: list[RunningJob] = []
    run = InProcess.run

    def run_and_stop_the_last(self: InProcess, running: RunningJob) -> Any:
        for each in ran:
            assert each._interrupt is not None
            each._interrupt()  # as by a thread that was told to just before the end
        ran.append(running)
        return run(self, running)

    monkeypatch.setattr(InProcess, "run", run_and_stop_the_last)
    queue.enqueue_batch([{"payload": {}}] * 3)
    worker = make_isolated(isolated.process_id, jobs_per_process=3)
    worker.start()
    assert queue.wait_until_empty(60)
    assert worker.get_stats()["processed"] == 3


def test_a_time_limit_that_was_over_before_the_process_began_is_kept(queue: Queue) -> None:
    function = pickle.dumps(isolated.process_id)
    runner = InProcess(function, 2, Repertoire(isolated.process_id), queue)
    queue.enqueue({})
    job = queue.pop_job("w")
    assert job is not None
    running = RunningJob(job, queue, 5)
    running.stop(StopReason.TIMEOUT)
    assert isinstance(runner.run(running).error, JobTimeoutError)
    assert runner.run(RunningJob(job, queue)).success
    runner.close()


@pytest.mark.parametrize(
    ("number", "outcome"), [(signal.SIGINT, None), (signal.SIGTERM, "killed by SIGTERM")]
)
def test_a_child_ignores_what_is_typed_at_the_terminal_and_can_be_asked_to_end(
    queue: Queue, make_isolated: MakeWorker, number: int, outcome: str | None
) -> None:
    job = queue.enqueue({"number": number}, keep_result=60, max_retries=0)
    make_isolated(isolated.signal_itself).start()
    wait_until(lambda: queue.get_job(job).is_terminal)
    found = queue.get_job(job)
    assert found.is_completed if outcome is None else outcome in str(found.last_error)


@pytest.mark.parametrize("asked", [["__main__"], ["__main__", "json"]])
def test_the_server_imports_ours_and_what_the_program_asked_for_but_not_its_main_module(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forkserver._forkserver, "_preload_modules", asked)  # type: ignore[attr-defined]
    for _ in range(2):
        child_process._preload(multiprocessing.get_context("forkserver"))
    preloaded = forkserver._forkserver._preload_modules  # type: ignore[attr-defined]
    ours = [name for name in preloaded if name.startswith("queue_max.")]
    assert preloaded == [*ours, *asked[1:]]
    assert ours[0] == "queue_max.workers.child"


# No process is left


def test_no_process_is_left_when_the_worker_has_stopped(queue: Queue, results: RunJob) -> None:
    assert results(isolated.process_id, *[{}] * 3, jobs_per_process=2)
    assert children() == []


def test_no_process_is_left_when_the_queue_is_closed(
    make_queue: MakeQueue, make_isolated: MakeWorker, data_dir: Path
) -> None:
    queue = make_queue(shards=1)
    worker = make_isolated(isolated.process_id, queue=queue)
    worker.start()
    wait_until(children)
    queue.close()
    wait_until(lambda: not children())


def test_descriptors_are_given_back(queue: Queue, results: RunJob) -> None:
    results(isolated.process_id, {})
    before = len(os.listdir("/proc/self/fd"))
    results(isolated.process_id, *[{}] * 12)
    # A few more may be open by now: each database opens its connections when they are needed.
    assert len(os.listdir("/proc/self/fd")) < before + 10


def test_a_child_that_dies_between_two_jobs_is_replaced(
    queue: Queue, make_isolated: MakeWorker
) -> None:
    worker = make_isolated(isolated.process_id, jobs_per_process=5)
    worker.start()
    pid = queue.enqueue({}, keep_result=60).result(60)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_there(pid))
    job = queue.enqueue({}, keep_result=60, max_retries=0)
    assert job.result(60) != pid


def test_a_job_waits_for_a_worker_whose_child_can_load_the_function(
    queue: Queue, make_isolated: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    class Module(type(os)): ...  # type: ignore[misc]

    module = Module("only_here")
    exec("def work(payload): ...", vars(module))
    sys.modules["only_here"] = module
    try:
        worker = make_isolated(module.work)
    finally:
        del sys.modules["only_here"]
    job = queue.enqueue({}, max_retries=0)
    worker.start()
    wait_until(lambda: "cannot load the function: ModuleNotFoundError" in caplog.text)
    assert queue.get_job(job).is_pending
