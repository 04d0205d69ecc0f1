"""An integration whose framework is missing says which extra has it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("extra", ["fastapi", "flask"])
def test_a_missing_framework_is_told_with_the_extra_that_has_it(extra: str) -> None:
    code = f"import sys; sys.modules[{extra!r}] = None; import queue_max.contrib.{extra}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"ImportError: queue_max.contrib.{extra} needs {extra}: pip install 'queue-max[{extra}]'\n"
    )


def test_the_package_alone_loads_no_framework() -> None:
    code = "import queue_max, queue_max.contrib, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"fastapi", "flask", "starlette"} & set(done.stdout.split())
