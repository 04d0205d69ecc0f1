"""docs/reliability.md names tests that there are, and commands that there are."""

import re
from pathlib import Path

import click
import pytest

from queue_max.cli.main import commands

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text()

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_COMMAND = re.compile(r"^(?:timeout .*)?queue-max ((?:[a-z]+ ?)+)", re.M)

TESTS = sorted(set(_TEST.findall(TEXT)))
COMMANDS = sorted({tuple(words.split()) for words in _COMMAND.findall(TEXT)})


def test_there_are_tests_and_commands_to_look_at() -> None:
    assert len(TESTS) > 30
    assert len(COMMANDS) > 5


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_each_test_that_is_named_is_there(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_that_is_named_is_there(words: tuple[str, ...]) -> None:
    command: click.Command | None = commands
    for word in words:
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), word)
    assert command is not None
    assert not isinstance(command, click.Group) or command.invoke_without_command
