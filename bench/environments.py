"""A virtual environment for each contender, since two of them have one import name."""

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from bench.scenarios import HUEY, NEW, NEW_ORJSON, OLD

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Where a contender lives: its script, its environment, and what has to be in there."""

    module: str
    environment: str
    requirements: tuple[str, ...]
    is_checkout: bool = False
    """Whether it imports the package that lies in this checkout."""

    @property
    def folder(self) -> Path:
        """The virtual environment's folder."""
        return CHECKOUT / f".venv-bench-{self.environment}"

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    def variables(self) -> dict[str, str]:
        """Give the variables of its processes: no setting of the caller reaches a queue."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | ({"PYTHONPATH": str(CHECKOUT)} if self.is_checkout else {})


class NotInstalledError(Exception):
    """An environment could not be made."""


def _own_requirements() -> tuple[str, ...]:
    """Read what this checkout needs; the package itself is imported from here."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return (*project["dependencies"], *project["optional-dependencies"]["sqlite"])


def contenders() -> dict[str, Contender]:
    """Give all contenders by their names."""
    own = _own_requirements()
    new = Contender(
        module="contenders.queue_max_new", environment="new", requirements=own, is_checkout=True
    )
    return {
        NEW: new,
        NEW_ORJSON: Contender(
            module=new.module,
            environment="new-orjson",
            requirements=(*own, "orjson>=3.10"),
            is_checkout=True,
        ),
        OLD: Contender(
            module="contenders.queue_max_old",
            environment="0.1.1",
            requirements=("queue-max==0.1.1",),
        ),
        HUEY: Contender(
            module="contenders.huey_", environment="huey", requirements=("huey==3.5.4",)
        ),
        "raw SQLite": Contender(
            module="contenders.raw_sqlite", environment="new", requirements=own, is_checkout=True
        ),
        "threads": Contender(module="contenders.bare_threads", environment="new", requirements=own),
    }


def install(contender: Contender) -> None:
    """Make the contender's environment, unless it is there and has what is required.

    Raises NotInstalledError with pip's last words.
    """
    stamp = contender.folder / ".installed"
    wanted = "\n".join(contender.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    _run(sys.executable, "-m", "venv", "--clear", str(contender.folder))
    pip = (str(contender.python), "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", "--upgrade", "pip")
    _run(*pip, "install", "--quiet", *contender.requirements)
    stamp.write_text(wanted)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NotInstalledError(words[-1] if words else f"exit code {done.returncode}")
