"""What is built and installed: the sdist, the wheel made from it, and a queue in a clean place."""

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from support import predecessor

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]


def run(*command: object, cwd: Path) -> str:
    """Run a command that must succeed; gives its standard output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def copy_source(target: Path) -> None:
    """Copy the checkout: what git has, or would take."""
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=CHECKOUT)
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel; `build` makes the one from the other."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("needs a git checkout")
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    copy_source(source)
    run(sys.executable, "-m", "build", "--outdir", folder, cwd=source)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def in_wheel(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The programs of a clean environment with nothing but the wheel and what it asks for."""
    environment = tmp_path_factory.mktemp("installed") / "100% clean"
    venv.create(environment, with_pip=True)
    pip = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", wheel, cwd=environment)
    run(*pip, "check", cwd=environment)
    return environment / "bin"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside of the checkout, whose name is no format string."""
    folder = tmp_path / "50%s off"
    folder.mkdir()
    return folder


def test_the_sdist_holds_what_is_needed_to_build_and_test(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}

    assert {
        "pyproject.toml",
        "alembic.ini",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        ".env.example",
        "queue_max/py.typed",
        "migrations/env.py",
        "migrations/script.py.mako",
        "tests/conftest.py",
    } <= inside
    assert not {name for name in inside if name.startswith((".git/", ".venv", "dist/"))}


def test_the_wheel_installs_one_package_and_nothing_beside_it(in_wheel: list[str]) -> None:
    top = {name.partition("/")[0] for name in in_wheel}

    assert {name for name in top if not name.endswith(".dist-info")} == {"queue_max"}


def test_the_migrations_travel_inside_of_the_package(in_wheel: list[str]) -> None:
    folder = CHECKOUT / "migrations"
    sources = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}

    inside = {name.removeprefix("queue_max/migrations/") for name in in_wheel}

    assert sources <= inside
    assert len([name for name in sources if name.startswith(("shard/", "control/"))]) >= 3


def test_the_wheel_is_typed_and_carries_its_license(in_wheel: list[str]) -> None:
    assert "queue_max/py.typed" in in_wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel)


def test_the_wheel_holds_every_module_and_no_litter(in_wheel: list[str]) -> None:
    modules = {path.relative_to(CHECKOUT).as_posix() for path in CHECKOUT.glob("queue_max/**/*.py")}

    assert modules <= set(in_wheel)
    assert not [name for name in in_wheel if name.endswith(".pyc") or "tests" in name]


def test_the_wheel_asks_for_five_distributions_and_others_only_as_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))

    required = fields.get_all("Requires-Dist") or []
    core = {each.split(">")[0].split("<")[0] for each in required if "extra ==" not in each}
    assert core == {"sqlalchemy", "alembic", "pydantic-settings", "click", "cronsim"}
    assert "all" in (fields.get_all("Provides-Extra") or [])
    assert fields["Requires-Python"] == ">=3.11"


def test_what_was_installed_is_not_the_checkout(installed: Path, outside: Path) -> None:
    where = run(
        installed / "python", "-c", "import queue_max; print(queue_max.__file__)", cwd=outside
    )

    assert where.startswith(str(installed.parent))
    site_packages = Path(where.strip()).parents[1]
    assert (site_packages / "queue_max" / "migrations" / "env.py").is_file()
    assert not (site_packages / "migrations").exists()


def test_a_new_queue_is_made_and_passes_its_check(installed: Path, outside: Path) -> None:
    queue_max = installed / "queue-max"

    run(queue_max, "enqueue", "--shards", "3", "--payload", '{"n": 1}', cwd=outside)
    checked = run(queue_max, "db", "check", "--json", cwd=outside)

    found = {each["database"]: each["is_current"] for each in json.loads(checked)}
    assert found == dict.fromkeys(["control database", "shard 0", "shard 1", "shard 2"], True)
    stats = json.loads(run(queue_max, "stats", "--json", cwd=outside))
    assert (stats["num_shards"], stats["pending"]) == (3, 1)


def test_three_shards_of_0_1_1_are_migrated(installed: Path, outside: Path) -> None:
    predecessor.make_directory(outside / "data", 3)
    queue_max = installed / "queue-max"

    run(queue_max, "db", "upgrade", cwd=outside)

    run(queue_max, "db", "check", cwd=outside)
    stats = json.loads(run(queue_max, "stats", "--json", cwd=outside))
    assert stats["pending"] + stats["processing"] + stats["failed"] == 3 * len(predecessor.JOBS)
    assert len(list((outside / "data" / "backups").iterdir())) == 3


def test_the_version_is_told(installed: Path, outside: Path, wheel: Path) -> None:
    said = run(installed / "queue-max", "--version", cwd=outside)

    assert wheel.name.split("-")[1] in said
