"""The README's blocks do what they say: each is run, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"

pytestmark = pytest.mark.slow

_BLOCK = re.compile(r"^```(?P<language>\w+)(?P<mark> not-run)?\n(?P<code>.*?)^```$", re.M | re.S)


def blocks() -> list[tuple[int, str, str]]:
    text = README.read_text()
    return [
        (text.count("\n", 0, found.start()) + 1, found["language"], found["code"])
        for found in _BLOCK.finditer(text)
        if not found["mark"]
    ]


def test_the_readme_has_blocks_of_both_kinds() -> None:
    assert {language for _, language, _ in blocks()} == {"python", "bash"}


@pytest.mark.parametrize(
    ("language", "code"),
    [pytest.param(*rest, id=f"line {line}") for line, *rest in blocks()],
)
def test_a_block_of_the_readme_runs(language: str, code: str, tmp_path: Path) -> None:
    command = {
        "python": [sys.executable, "-W", "error", "-c", code],
        "bash": ["bash", "-euo", "pipefail", "-c", code],
    }[language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
