import os
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.core.checks.messages import CheckMessage
from django.test import override_settings

BACKEND = "queue_max.contrib.django.QueueMaxBackend"


def found(**settings: Any) -> list[CheckMessage]:
    with override_settings(**settings):
        return [each for each in run_checks() if str(each.id).startswith("queue_max.")]


def test_nothing_is_wrong_with_good_settings_and_no_file_is_made(data_dir: Path) -> None:
    assert found() == []
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("said", "number", "words"),
    [
        ([4], "E001", "should be a dict"),
        ({"SHARD": 4}, "E002", "'SHARD'"),
        ({"shards": 4}, "E002", "'shards'"),
        ({"SHARDS": 0}, "E003", "shards=0"),
        ({"RATE_LIMIT": "fast"}, "E003", "rate_limit='fast'"),
        ({"IMMEDIATE": "no"}, "E003", "immediate='no'"),
        ({"RETRY": 3}, "E003", "retry=3"),
        ({"RATE_LIMITER_TIMEOUT": -1}, "E003", "rate_limiter_timeout=-1"),
        ({"DATA_DIR": "file"}, "E003", "is a file"),
        ({"DATA_DIR": "file/data"}, "E004", "is no folder"),
    ],
)
def test_bad_values_of_queue_max_are_named(
    said: Any, number: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    [problem] = found(QUEUE_MAX=said)
    assert problem.id == f"queue_max.{number}"
    assert words in problem.msg


def test_an_unknown_key_comes_with_the_nearest_one() -> None:
    [problem] = found(QUEUE_MAX={"RETRIES": 4})
    assert "Did you mean MAX_RETRIES?" in str(problem.hint)


def test_a_folder_that_may_not_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # root may write anywhere
    [problem] = found(QUEUE_MAX={"DATA_DIR": tmp_path / "a" / "b"})
    assert problem.id == "queue_max.E004"
    assert f"may not write to {tmp_path}" in problem.msg


@pytest.mark.parametrize(
    ("said", "number", "words"),
    [
        ({"OPTIONS": {"keep": 5}}, "E005", "keep is no option; did you mean keep_result?"),
        ({"OPTIONS": {"keep_result": 0}}, "E005", "keep_result=0"),
        ({"OPTIONS": {"enqueue_on_commit": 1}}, "E005", "enqueue_on_commit=1"),
        ({"OPTIONS": {"max_retries": -1}}, "E005", "max_retries=-1"),
        ({"OPTIONS": {"timeout": "5"}}, "E005", "timeout='5'"),
        ({"QUEUES": "default"}, "E006", "should be a list of names"),
        ({"QUEUES": ["a,b"]}, "E006", "'a,b'"),
    ],
)
def test_bad_values_of_a_backend_are_named(said: Any, number: str, words: str) -> None:
    [problem] = found(TASKS={"default": {"BACKEND": BACKEND, **said}})
    assert problem.id == f"queue_max.{number}"
    assert words in problem.msg
    assert "TASKS['default']" in problem.msg


def test_a_backend_without_the_app_is_warned_of() -> None:
    others = [each for each in settings.INSTALLED_APPS if not each.startswith("queue_max")]
    problem, _other = found(INSTALLED_APPS=others)
    assert problem.id == "queue_max.W001"
