"""Examples, as a person runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def run() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run Python in the folder of the examples, to its end."""

    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *options],
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
            cwd=CHECKOUT / "examples",
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run
