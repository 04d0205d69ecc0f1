"""The blocks of README and docs do what they say: each is run, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("tasks", "limits", "events", "integrations")),
)

DJANGO = "DJANGO_SETTINGS_MODULE"
"""Other tests of this process may have set it, for themselves."""

pytestmark = pytest.mark.slow

_BLOCK = re.compile(r"^```(?P<language>\w+)(?P<mark> not-run)?\n(?P<code>.*?)^```$", re.M | re.S)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Give the place, language and code of each block that is to be run."""
    text = (ROOT / page).read_text()
    return [
        (
            f"{page} line {text.count(chr(10), 0, found.start()) + 1}",
            found["language"],
            found["code"],
        )
        for found in _BLOCK.finditer(text)
        if not found["mark"]
    ]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_blocks_of_both_kinds(page: str) -> None:
    assert {language for _, language, _ in blocks(page)} == {"python", "bash"}


@pytest.mark.parametrize(
    ("language", "code"),
    [pytest.param(*rest, id=place) for page in PAGES for place, *rest in blocks(page)],
)
def test_a_block_runs(language: str, code: str, tmp_path: Path) -> None:
    command = {
        "python": [sys.executable, "-W", "error", "-c", code],
        "bash": ["bash", "-euo", "pipefail", "-c", code],
    }[language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != DJANGO} | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
