import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings
from support.django_project.shop import tasks

import queue_max
from queue_max import ConfigurationError, JobStatus, Queue, set_default_queue
from queue_max.contrib.django import DjangoTask, get_queue, task
from queue_max.contrib.django.apps import QueueMaxConfig

UNCONFIGURED = """
import os
from queue_max.contrib.django import task

@task
def one(n): return n

@task(queue="mail", priority=2, max_retries=1, timeout=5)
def two(n): return n

assert one(3) == two(3) == 3
assert two.queue_name == "mail" and two.priority == 2 and two.max_retries == 1
assert not os.listdir(), os.listdir()
"""


def test_tasks_are_made_and_called_without_settings_and_without_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", UNCONFIGURED]
    env = {"PYTHONPATH": str(Path(queue_max.__file__).parents[1])}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=60)


def test_a_job_goes_to_the_queue_that_the_settings_describe(queue_settings: dict[str, Any]) -> None:
    handle = tasks.note.delay("hello")
    assert isinstance(tasks.note, DjangoTask)
    assert tasks.note.get_queue() is get_queue()
    with Queue(data_dir=queue_settings["DATA_DIR"]) as same:
        assert same.num_shards == 2
        assert same.get_job(handle).task == "support.django_project.shop.tasks.note"


def test_a_task_may_name_a_queue_of_the_project_its_priority_and_its_retries(queue: Queue) -> None:
    job = queue.get_job(tasks.send.delay("ada"))
    assert (job.queue, job.priority, job.max_attempts) == ("mail", 2, 1)


def test_a_task_may_have_a_queue_of_its_own(make_queue: Any, tmp_path: Path) -> None:
    other = make_queue(data_dir=tmp_path / "other")
    assert task(other)(test_a_task_may_have_a_queue_of_its_own).get_queue() is other


def test_what_a_job_enqueues_goes_to_the_queue_of_its_worker(
    make_queue: Any, tmp_path: Path
) -> None:
    other = make_queue(data_dir=tmp_path / "other")
    other.enqueue({})
    other.drain(lambda _payload: tasks.send.delay("ada"))
    assert tasks.made == ["ada"]


def test_tasks_of_the_library_use_the_queue_of_the_project_too(queue: Queue) -> None:
    QueueMaxConfig.create("queue_max.contrib.django").ready()
    try:
        assert tasks.plain.get_queue() is queue
    finally:
        set_default_queue(None)


def test_a_call_can_wait_for_the_commit(queue: Queue) -> None:
    with transaction.atomic():
        tasks.send.delay_on_commit("ada")
        assert queue.is_empty()
    assert queue.get_pending_count() == 1
    with transaction.atomic():
        tasks.send.delay_on_commit("ada")
        transaction.set_rollback(True)
    assert queue.get_pending_count() == 1


def test_a_changed_setting_holds_from_then_on(tmp_path: Path) -> None:
    first = get_queue()
    with override_settings(QUEUE_MAX={"DATA_DIR": tmp_path / "second", "SHARDS": 1}):
        assert get_queue().num_shards == 1
    assert get_queue() is not first


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["SHARDS"], "should be a dict"),
        ({"SHARD": 4}, "SHARD is no key of it; did you mean SHARDS"),
    ],
)
def test_a_queue_is_not_opened_by_bad_settings(said: Any, words: str) -> None:
    with override_settings(QUEUE_MAX=said), pytest.raises(ConfigurationError, match=words):
        get_queue()


def test_status_of_tasks_run_by_drain(queue: Queue) -> None:
    handle = tasks.note.using(keep_result=60).delay("hello")
    assert queue.drain() == 1
    assert queue.get_job(handle).status is JobStatus.COMPLETED
    assert handle.result() == "hello"
