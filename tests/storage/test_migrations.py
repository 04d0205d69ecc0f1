"""The two histories: what they lead to, and what becomes of jobs on the way."""

import ast
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from support import predecessor
from support.postgres import PostgresServer
from support.predecessor import FROM_CODE, JOBS, LAST_ID, LATER, Release, payload_of

from queue_max.exceptions import SchemaError, ShardError
from queue_max.storage import driver, migrations
from queue_max.storage.database import Database
from queue_max.storage.migrations import BASELINE, CONTROL, SHARD, History
from queue_max.storage.sqlite import SqliteDatabase

MakeDatabase = Callable[..., SqliteDatabase]
StartProcess = Callable[..., Any]

both_histories = pytest.mark.parametrize("history", [SHARD, CONTROL], ids=lambda each: each.name)

ONE_FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TIMES = {
    "fila": ["heartbeat", "created_at", "started_at", "completed_at", "next_retry_at"],
    "dead_letter_queue": ["failed_at"],
    "shard_metadata": ["created_at", "last_vacuum"],
}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Iterator[Database]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield make_database()
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with server.new_database("template1") as database:
            yield database


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def alembic(database: Database, history: History, verb: str, target: str) -> None:
    with database.writing() as connection:
        config = Config(attributes={"connection": connection, "history": history})
        folder = migrations.scripts()
        config.set_main_option("script_location", str(folder))
        config.set_main_option("version_locations", str(folder / history.name))
        config.set_main_option("path_separator", "os")
        getattr(command, verb)(config, target)


def rows(database: Database, table: str, order: str = "id") -> list[dict[str, Any]]:
    with database.reading() as connection:
        found = connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}"))
        return [dict(row) for row in found.mappings()]


def run(database: Database, *statements: str) -> None:
    with database.writing() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def names(found: list[dict[str, Any]]) -> list[str]:
    """Tell jobs by what their payload says."""
    return [name for each in found for name in JOBS if payload_of(name, 0) == each["payload"]]


def fill(database: Database) -> None:
    """Store the jobs of a 0.1.1 file in a database at the baseline."""
    gone = {"payload": payload_of("completed", 0)}
    with database.writing() as connection:
        for name, columns in JOBS.items():
            values = {"payload": payload_of(name, 0), "max_tentativas": 4} | columns
            marks = ", ".join(f":{column}" for column in values)
            into = f"INSERT INTO fila ({', '.join(values)}) VALUES ({marks})"
            connection.execute(text(into), values)
        connection.execute(text("INSERT INTO fila (payload) VALUES (:payload)"), gone)
        connection.execute(text("DELETE FROM fila WHERE payload = :payload"), gone)
        connection.execute(
            text(
                "INSERT INTO dead_letter_queue (original_job_id, payload, error, error_type) "
                "VALUES (6, :payload, 'boom', 'ValueError')"
            ),
            {"payload": payload_of("failed", 0)},
        )
        connection.execute(text("INSERT INTO shard_metadata (shard_id) VALUES (0)"))


@both_histories
def test_the_second_new_database_is_made_as_alembic_made_the_first(
    make_database: MakeDatabase,
    tmp_path: Path,
    backups: Path,
    monkeypatch: pytest.MonkeyPatch,
    history: History,
) -> None:
    monkeypatch.setattr(migrations, "_blueprints", {})
    first, second, third = (make_database(tmp_path / f"{name}.db") for name in "abc")
    migrations.upgrade(first, history, backups)
    with monkeypatch.context() as without_alembic:
        without_alembic.setattr(command, "upgrade", None)
        migrations.upgrade(second, history, backups)
    made, built = dump(first), dump(second)
    assert sorted(built.pop("")) == sorted(made.pop(""))
    assert built == made
    # One that holds anything goes the whole way.
    run(third, "CREATE TABLE strange (id INTEGER)")
    migrations.upgrade(third, history, backups)
    assert dump(third).keys() == {"strange", *dump(first)}


def next_job_id(database: Database) -> int:
    statement = text(
        "INSERT INTO fila (payload, uid, created_at) "
        "VALUES ('{}', 'new', '2026-01-01T00:00:00.000Z') RETURNING id"
    )
    with database.writing() as connection:
        return int(connection.execute(statement).scalar_one())


@pytest.fixture(params=Release)
def old_shard(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The first shard of a directory that each release left."""
    folder = predecessor.make_directory(tmp_path / "old", 1, request.param)
    return folder / "shard_0.db"


@pytest.fixture
def upgraded(old_shard: Path, make_database: MakeDatabase, backups: Path) -> SqliteDatabase:
    """That shard, brought to the newest revision."""
    database = make_database(old_shard, shard_id=0)
    migrations.upgrade(database, SHARD, backups)
    return database


# What the histories are.


@both_histories
def test_a_history_is_one_line_that_ends_where_the_code_says(history: History) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.scripts()))
    config.set_main_option("version_locations", str(migrations.scripts() / history.name))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    revisions = list(script.walk_revisions())

    assert script.get_heads() == [history.head]
    assert len(script.get_bases()) == 1
    assert len(revisions) == len(list((migrations.scripts() / history.name).glob("*.py")))
    assert not any(each.is_branch_point or each.is_merge_point for each in revisions)


REVISIONS = sorted(migrations.scripts().glob("*/[0-9]*.py"))


@pytest.mark.parametrize("revision", REVISIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_revision_outlives_the_code(revision: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(revision.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])

    assert imported - sys.stdlib_module_names <= {"sqlalchemy", "alembic"}


def test_there_are_revisions_to_look_at() -> None:
    assert {path.parent.name for path in REVISIONS} == {"shard", "control"}


# What they lead to.


def shape_of_sqlite(path: Path, make_database: MakeDatabase) -> dict[str, Any]:
    """Describe the tables and indexes of a file, as PRAGMA tells of them."""
    shape: dict[str, Any] = {}
    with make_database(path).reading() as connection:
        master = connection.exec_driver_sql(
            "SELECT type, name, sql FROM sqlite_master "
            "WHERE name NOT LIKE 'sqlite_%' AND name NOT LIKE 'alembic%'"
        )
        for kind, name, sql in master.all():
            if kind == "table":
                # A key is never null, whether that is said or not.
                columns = connection.exec_driver_sql(
                    'SELECT cid, name, type, pk OR "notnull", dflt_value, pk '
                    f"FROM pragma_table_info('{name}')"
                )
                shape[name] = columns.all(), "AUTOINCREMENT" in sql
            else:
                columns = connection.exec_driver_sql(f"PRAGMA index_xinfo({name})")
                shape[name] = columns.all(), sql.partition("WHERE")[2].strip()
    return shape


def test_the_baseline_is_a_file_of_0_1_1_to_the_letter(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    original = predecessor.make_empty_shard(tmp_path / "original.db")
    alembic(make_database(tmp_path / "ours.db"), SHARD, "upgrade", BASELINE)

    ours = shape_of_sqlite(tmp_path / "ours.db", make_database)

    assert ours == shape_of_sqlite(original, make_database)


def test_what_a_downgrade_leaves_is_a_file_of_0_1_1_to_the_letter(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    original = predecessor.make_empty_shard(tmp_path / "original.db")
    database = make_database(tmp_path / "ours.db")
    alembic(database, SHARD, "upgrade", "head")
    alembic(database, SHARD, "downgrade", BASELINE)

    ours = shape_of_sqlite(tmp_path / "ours.db", make_database)

    assert ours == shape_of_sqlite(original, make_database)


def ddl_of_sqlite(database: Database) -> dict[str, str]:
    with database.reading() as connection:
        found = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master "
            "WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'alembic%'"
        ).all()
    return {
        name: re.sub(r'[\s"]+', " ", sql).replace("( ", "(").replace(" )", ")").replace(" ,", ",")
        for name, sql in found
    }


ON_POSTGRESQL = {
    "columns": (
        "SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'public'"
    ),
    "constraints": (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
        "FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
        "AND contype <> 'n'"  # that a column is NOT NULL is told with the columns
    ),
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "sequences": (
        "SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = 'public'"
    ),
}


def ddl_of_postgresql(database: Database) -> dict[str, list[str]]:
    with database.reading() as connection:
        return {
            kind: sorted(
                str(row)
                for row in connection.execute(text(query))
                if not str(row[0]).startswith("alembic")
            )
            for kind, query in ON_POSTGRESQL.items()
        }


@both_histories
def test_a_migrated_file_has_the_tables_the_code_knows(
    history: History, make_database: MakeDatabase, tmp_path: Path, backups: Path
) -> None:
    migrated, made = make_database(tmp_path / "migrated.db"), make_database(tmp_path / "made.db")
    migrations.upgrade(migrated, history, backups)
    with made.writing() as connection:
        history.tables.create_all(connection)

    assert ddl_of_sqlite(migrated) == ddl_of_sqlite(made)


def test_an_upgraded_file_of_a_predecessor_has_the_tables_the_code_knows(
    upgraded: SqliteDatabase, make_database: MakeDatabase, tmp_path: Path
) -> None:
    made = make_database(tmp_path / "made.db")
    with made.writing() as connection:
        SHARD.tables.create_all(connection)

    assert ddl_of_sqlite(upgraded) == ddl_of_sqlite(made)


@both_histories
def test_a_migrated_database_on_postgresql_has_the_tables_the_code_knows(
    history: History, postgres: PostgresServer, backups: Path
) -> None:
    with (
        postgres.new_database("template1") as migrated,
        postgres.new_database("template1") as made,
    ):
        migrations.upgrade(migrated, history, backups)
        with made.writing() as connection:
            history.tables.create_all(connection)

        assert ddl_of_postgresql(migrated) == ddl_of_postgresql(made)
        assert all(ddl_of_postgresql(made)[kind] for kind in ("columns", "constraints", "indexes"))


@both_histories
def test_a_history_is_walked_back_to_nothing_and_forth_again(
    empty: Database, history: History, backups: Path
) -> None:
    migrations.upgrade(empty, history, backups)
    alembic(empty, history, "downgrade", "base")
    assert migrations.revision(empty, history) is None

    migrations.upgrade(empty, history, backups)

    assert migrations.revision(empty, history) == history.head


def test_two_histories_may_lie_in_one_database(empty: Database, backups: Path) -> None:
    migrations.upgrade(empty, CONTROL, backups)
    migrations.upgrade(empty, SHARD, backups)

    assert migrations.revision(empty, CONTROL) == CONTROL.head
    assert migrations.revision(empty, SHARD) == SHARD.head


# What becomes of jobs.


def test_up_and_down_and_up_again_keeps_every_job(empty: Database) -> None:
    alembic(empty, SHARD, "upgrade", BASELINE)
    fill(empty)
    before = rows(empty, "fila")

    alembic(empty, SHARD, "upgrade", "head")
    upgraded = rows(empty, "fila")
    alembic(empty, SHARD, "downgrade", BASELINE)
    after = rows(empty, "fila")
    alembic(empty, SHARD, "upgrade", "head")
    again = rows(empty, "fila")

    assert names(before) == names(upgraded) == names(after) == names(again) == list(JOBS)
    uids = {row["id"]: row["uid"] for row in upgraded}
    assert len(set(uids.values())) == len(JOBS)
    for old, new in zip(before, after, strict=True):
        kept = {name: value for name, value in old.items() if name not in TIMES["fila"]}
        assert {name: new[name] for name in kept} == kept
    without_uid = [{k: v for k, v in row.items() if k != "uid"} for row in upgraded]
    assert [{k: v for k, v in row.items() if k != "uid"} for row in again] == without_uid


def test_up_and_down_and_up_again_keeps_dead_letters_and_counters(empty: Database) -> None:
    alembic(empty, SHARD, "upgrade", BASELINE)
    fill(empty)
    run(empty, "UPDATE shard_metadata SET total_jobs_processed = 7, total_jobs_failed = 2")

    for target in ("head", BASELINE, "head"):
        alembic(empty, SHARD, "downgrade" if target == BASELINE else "upgrade", target)

    (letter,) = rows(empty, "dead_letter_queue")
    assert (letter["original_job_id"], letter["error"]) == (6, "boom")
    assert letter["payload"] == payload_of("failed", 0)
    (counters,) = rows(empty, "shard_metadata", "shard_id")
    assert (counters["total_jobs_processed"], counters["total_jobs_failed"]) == (7, 2)


def test_no_number_is_given_to_a_second_job_after_a_migration(empty: Database) -> None:
    alembic(empty, SHARD, "upgrade", BASELINE)
    fill(empty)

    alembic(empty, SHARD, "upgrade", "head")

    assert next_job_id(empty) == LAST_ID + 1


def test_no_number_is_given_to_a_second_job_after_up_and_down_and_up_again(
    empty: Database,
) -> None:
    alembic(empty, SHARD, "upgrade", BASELINE)
    fill(empty)
    run(empty, "DELETE FROM fila")

    for target in ("head", BASELINE, "head"):
        alembic(empty, SHARD, "downgrade" if target == BASELINE else "upgrade", target)

    assert next_job_id(empty) == LAST_ID + 1


def test_what_waits_for_its_time_becomes_scheduled_on_every_database(empty: Database) -> None:
    alembic(empty, SHARD, "upgrade", BASELINE)
    fill(empty)

    alembic(empty, SHARD, "upgrade", "head")

    states = dict(zip(JOBS, (row["status"] for row in rows(empty, "fila")), strict=True))
    assert states == {
        "waiting": "pending",
        "urgent": "pending",
        "not yet due": "scheduled",
        "due again": "pending",
        "orphaned": "processing",
        "failed": "failed",
    }


def test_every_job_of_a_predecessor_is_there_with_all_it_had(upgraded: SqliteDatabase) -> None:
    found = rows(upgraded, "fila")

    assert [row["id"] for row in found] == list(range(1, len(JOBS) + 1))
    for row, (name, columns) in zip(found, JOBS.items(), strict=True):
        expected = {
            "payload": payload_of(name, 0),
            "pagina_id": None,
            "priority": 0,
            "tentativas": 0,
            "max_tentativas": 4,
            "retry_delay": 60,
            "created_at": "2026-01-02T03:04:05.000Z",
            **dict.fromkeys(
                [
                    "last_error",
                    "error_type",
                    "error_stack",
                    "worker_id",
                    "heartbeat",
                    "started_at",
                    "completed_at",
                    "next_retry_at",
                ]
            ),
            **columns,
            "status": "scheduled" if name == "not yet due" else columns["status"],
        }
        assert {column: row[column] for column in expected} == expected


def test_every_job_of_a_predecessor_gets_an_uid_and_the_defaults(
    upgraded: SqliteDatabase,
) -> None:
    found = rows(upgraded, "fila")

    uids = [UUID(row["uid"]) for row in found]
    assert len(set(uids)) == len(JOBS)
    assert [str(uid) for uid in uids] == [row["uid"] for row in found]
    assert {uid.version for uid in uids} == {4}
    defaults = {(row["queue"], row["fence"], row["cost"], row["progress"]) for row in found}
    assert defaults == {("default", 0, 1, 0.0)}


def test_a_dead_letter_of_a_predecessor_is_there_and_points_to_its_job(
    upgraded: SqliteDatabase,
) -> None:
    (letter,) = rows(upgraded, "dead_letter_queue")
    failed = rows(upgraded, "fila")[-1]

    assert letter["payload"] == failed["payload"] == payload_of("failed", 0)
    assert (letter["id"], letter["original_job_id"], letter["shard_id"]) == (1, failed["id"], 0)
    assert (letter["error"], letter["error_type"]) == ("boom", "ValueError")
    assert letter["failed_at"] == "2026-01-02T03:04:05.000Z"
    assert letter["uid"] == failed["uid"]


def test_the_counters_of_a_predecessor_go_on(upgraded: SqliteDatabase) -> None:
    (counters,) = rows(upgraded, "shard_metadata", "shard_id")

    assert (counters["shard_id"], counters["total_jobs_processed"]) == (0, 1)
    assert counters["total_jobs_failed"] == 1


def test_both_forms_of_time_become_one(upgraded: SqliteDatabase) -> None:
    for table, columns in TIMES.items():
        order = "shard_id" if table == "shard_metadata" else "id"
        found = [row[column] for row in rows(upgraded, table, order) for column in columns]

        assert found
        assert all(moment is None or ONE_FORM.fullmatch(moment) for moment in found)


def test_numbers_go_on_where_the_predecessor_was(upgraded: SqliteDatabase) -> None:
    assert next_job_id(upgraded) == LAST_ID + 1


def test_what_a_killed_process_left_in_the_wal_is_there(
    tmp_path: Path, make_database: MakeDatabase, backups: Path
) -> None:
    folder = predecessor.make_directory(tmp_path / "old", 1, killed=True)
    database = make_database(folder / "shard_0.db", shard_id=0)

    migrations.upgrade(database, SHARD, backups)

    assert names(rows(database, "fila")) == list(JOBS)
    copy = make_database(backups / "shard_0.before-1.0.db")
    assert names(rows(copy, "fila")) == list(JOBS)


@pytest.mark.parametrize(
    ("columns", "becomes"),
    [
        ({"status": None}, {"status": "pending"}),
        ({"priority": None}, {"priority": 0}),
        ({"tentativas": None, "max_tentativas": None}, {"tentativas": 0, "max_tentativas": 3}),
        ({"retry_delay": None}, {"retry_delay": 60}),
        ({"next_retry_at": "2999-01-01 00:00:00"}, {"status": "scheduled", "next_retry_at": LATER}),
        ({"next_retry_at": "soon"}, {"status": "pending", "next_retry_at": None}),
        ({"status": "processing", "started_at": FROM_CODE}, {"heartbeat": FROM_CODE}),
        ({"status": "failed", "started_at": FROM_CODE}, {"completed_at": FROM_CODE}),
        ({"status": "stuck?"}, {"status": "failed"}),
    ],
    ids=lambda columns: " ".join(columns),
)
def test_a_job_with_holes_in_it_is_mended(
    columns: dict[str, Any],
    becomes: dict[str, Any],
    tmp_path: Path,
    make_database: MakeDatabase,
    backups: Path,
) -> None:
    database = make_database(predecessor.make_empty_shard(tmp_path / "old.db"))
    values = {"payload": "{}", "status": "pending"} | columns
    marks = ", ".join(f":{name}" for name in values)
    with database.writing() as connection:
        into = f"INSERT INTO fila ({', '.join(values)}) VALUES ({marks})"
        connection.execute(text(into), values)

    migrations.upgrade(database, SHARD, backups)

    (job,) = rows(database, "fila")
    assert {name: job[name] for name in becomes} == becomes
    assert ONE_FORM.fullmatch(job["created_at"])


# Copies of old files.


def dump(database: SqliteDatabase) -> dict[str, list[tuple[Any, ...]]]:
    """Give all that is in a file."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with database.reading() as connection:
        master = connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master").all()
        found[""] = [tuple(row) for row in master]
        for kind, name, _sql in master:
            if kind == "table":
                all_rows = connection.exec_driver_sql(f"SELECT rowid, * FROM {name}").all()
                found[name] = [tuple(row) for row in all_rows]
    return found


def test_an_old_file_is_copied_before_it_is_changed(
    old_shard: Path, make_database: MakeDatabase, backups: Path
) -> None:
    database = make_database(old_shard)
    before = dump(database)

    migrations.upgrade(database, SHARD, backups)

    assert [path.name for path in backups.iterdir()] == ["shard_0.before-1.0.db"]
    assert dump(make_database(backups / "shard_0.before-1.0.db")) == before


@pytest.mark.parametrize("umask", [0o000, 0o022], indirect=True)
def test_only_the_owner_can_read_the_copies(umask: int, upgraded: Any, backups: Path) -> None:
    (copy,) = backups.iterdir()

    assert backups.stat().st_mode & 0o777 == 0o700
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_copy_is_not_overwritten_when_an_old_file_comes_back(
    upgraded: SqliteDatabase, make_database: MakeDatabase, backups: Path
) -> None:
    (copy,) = backups.iterdir()
    kept = copy.read_bytes()
    upgraded.close()
    shutil.copy(copy, upgraded.path)
    restored = make_database(upgraded.path)
    run(restored, "DELETE FROM fila")

    migrations.upgrade(restored, SHARD, backups)

    assert copy.read_bytes() == kept
    assert list(backups.iterdir()) == [copy]


def test_a_new_file_is_not_copied(make_database: MakeDatabase, backups: Path) -> None:
    migrations.upgrade(make_database(), SHARD, backups)

    assert not backups.exists()


# What is refused, and what fails.


@contextmanager
def untouched(path: Path) -> Iterator[None]:
    before, mode = path.read_bytes(), path.stat().st_mode
    yield
    assert path.read_bytes() == before
    assert path.stat().st_mode == mode


STRANGERS = {
    "other columns": ["CREATE TABLE fila (id INTEGER PRIMARY KEY, titulo TEXT)"],
    "one column more": ["ALTER TABLE fila ADD COLUMN titulo TEXT"],
    "one column less": ["ALTER TABLE fila DROP COLUMN retry_delay"],
    "no dead letters": ["DROP TABLE dead_letter_queue"],
    "other metadata": ["ALTER TABLE shard_metadata RENAME COLUMN version TO edition"],
}


@pytest.fixture
def make_stranger(tmp_path: Path) -> Callable[[str], Path]:
    """Make a file that is not quite a shard of 0.1.1."""

    def make(kind: str, journal_mode: str = "wal") -> Path:
        path = tmp_path / "stranger.db"
        if kind != "other columns":
            predecessor.make_empty_shard(path)
        connection = driver.choose().module.connect(path, isolation_level=None)
        for statement in [*STRANGERS[kind], f"PRAGMA journal_mode = {journal_mode}"]:
            connection.execute(statement)
        connection.close()
        return path

    return make


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_file_that_merely_has_such_a_table_is_refused_and_left_alone(
    kind: str, make_stranger: Callable[[str], Path], make_database: MakeDatabase, backups: Path
) -> None:
    path = make_stranger(kind)

    with untouched(path):
        database = make_database(path)
        with pytest.raises(SchemaError, match=r"shard 3: .*not touched"):
            migrations.upgrade(database, SHARD, backups)
        database.close()


def test_a_strangers_file_is_not_even_switched_to_the_wal(
    make_stranger: Callable[[str, str], Path], make_database: MakeDatabase, backups: Path
) -> None:
    path = make_stranger("other columns", "delete")

    with untouched(path):
        database = make_database(path)
        with pytest.raises(SchemaError):
            migrations.upgrade(database, SHARD, backups)
        database.close()


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the revisions that tests may add to."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrations.scripts(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "scripts", lambda: copy)
    return copy


def add_revision(scripts: Path, *body: str) -> History:
    """Add a revision to the history of shards; gives that history."""
    lines = "\n    ".join(body)
    (scripts / "shard" / "0999_more.py").write_text(
        "from alembic import op\n"
        f"revision = '0999'\ndown_revision = {SHARD.head!r}\n"
        f"def upgrade() -> None:\n    {lines}\n"
    )
    return replace(SHARD, head="0999")


HALF_WAY = (
    "op.execute('DELETE FROM fila')",
    "op.execute('CREATE TABLE half_way (n INTEGER)')",
    "op.execute('ALTER TABLE fila ADD COLUMN half_way INTEGER')",
)
FAILURES = {"in SQL": ("op.execute('SELECT nonsense()')", ShardError)} | {
    "in Python": ("raise RuntimeError('half-way')", RuntimeError)
}


@pytest.mark.parametrize(("failure", "error"), FAILURES.values(), ids=FAILURES)
def test_a_revision_that_fails_leaves_the_database_as_it_was(
    empty: Database, scripts: Path, backups: Path, failure: str, error: type[Exception]
) -> None:
    alembic(empty, SHARD, "upgrade", BASELINE)
    fill(empty)
    alembic(empty, SHARD, "upgrade", SHARD.head)
    before = rows(empty, "fila")
    history = add_revision(scripts, *HALF_WAY, failure)

    with pytest.raises(error):
        migrations.upgrade(empty, history, backups)

    assert migrations.revision(empty, SHARD) == SHARD.head
    assert rows(empty, "fila") == before
    with pytest.raises(ShardError):
        rows(empty, "half_way", "n")


def test_a_revision_that_fails_leaves_an_old_file_readable_for_the_old_version(
    old_shard: Path, scripts: Path, make_database: MakeDatabase, backups: Path
) -> None:
    database = make_database(old_shard)
    before = dump(database)
    history = add_revision(scripts, *HALF_WAY, FAILURES["in SQL"][0])

    with pytest.raises(ShardError):
        migrations.upgrade(database, history, backups)

    after = dump(database)
    assert {name: after[name] for name in before if name} == {
        name: before[name] for name in before if name
    }
    assert migrations.revision(database, SHARD) in {None, BASELINE}


def test_a_revision_that_failed_is_tried_again(
    make_database: MakeDatabase, scripts: Path, backups: Path
) -> None:
    database = make_database()
    history = add_revision(scripts, "op.execute('SELECT nonsense()')")
    with pytest.raises(ShardError):
        migrations.upgrade(database, history, backups)

    add_revision(scripts, "op.execute('CREATE TABLE more (n INTEGER)')")
    shutil.rmtree(scripts / "shard" / "__pycache__", ignore_errors=True)
    migrations.upgrade(database, history, backups)

    assert migrations.revision(database, history) == "0999"


@both_histories
def test_a_database_that_is_newer_than_the_code_is_refused_and_left_alone(
    empty: Database, history: History, backups: Path
) -> None:
    migrations.upgrade(empty, history, backups)
    run(empty, f"UPDATE {history.version_table} SET version_num = '9999'")

    with pytest.raises(SchemaError, match=r"revision 9999.*upgrade queue-max"):
        migrations.upgrade(empty, history, backups)
    with pytest.raises(SchemaError, match=r"revision 9999.*upgrade queue-max"):
        migrations.require(empty, history, "do something else")

    assert migrations.revision(empty, history) == "9999"


@both_histories
@pytest.mark.parametrize("revision", [None, BASELINE])
def test_what_is_to_be_done_is_said_where_nothing_may_be_done(
    make_database: MakeDatabase, history: History, revision: str | None
) -> None:
    database = make_database()
    history = replace(history, head="0009")
    if revision:
        alembic(database, history, "upgrade", revision)

    with pytest.raises(SchemaError, match=rf"revision {revision or 'none'}.* needs 0009; do this"):
        migrations.require(database, history, "do this")

    assert migrations.revision(database, history) == revision


@both_histories
def test_a_current_database_is_accepted_and_needs_no_lock(
    empty: Database, history: History, backups: Path
) -> None:
    migrations.upgrade(empty, history, backups)

    with empty.writing() as connection:
        connection.execute(text("SELECT 1"))
        migrations.require(empty, history, "never said")
        if isinstance(empty, SqliteDatabase):
            migrations.upgrade(empty, history, backups)


def test_many_threads_may_upgrade_a_database_each_at_once(
    make_database: MakeDatabase, tmp_path: Path, backups: Path
) -> None:
    databases = [make_database(tmp_path / f"{number}.db") for number in range(6)]
    start = threading.Barrier(6)

    def work(database: SqliteDatabase) -> None:
        start.wait()
        migrations.upgrade(database, SHARD, backups)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, databases))

    assert {migrations.revision(database, SHARD) for database in databases} == {SHARD.head}


UPGRADE = """
import sys
from pathlib import Path
from sqlalchemy import make_url
from queue_max.storage import migrations
from queue_max.storage.migrations import SHARD
from queue_max.storage.postgresql import PostgresDatabase
import alembic.command
database = PostgresDatabase(make_url(sys.argv[1]), 0)
print("ready", flush=True)
sys.stdin.readline()
migrations.upgrade(database, SHARD, Path("none"))
print(migrations.revision(database, SHARD))
database.close()
"""


def test_many_processes_may_upgrade_one_database_on_postgresql_at_once(
    postgres: PostgresServer, start_process: StartProcess
) -> None:
    with postgres.new_database("template1") as database:
        url = database.url.render_as_string(hide_password=False)
        starters = [start_process(UPGRADE, url) for _ in range(6)]
        for starter in starters:
            assert starter.says() == "ready"
        for starter in starters:
            starter.tell("go")

        outputs = [starter.output() for starter in starters]

    assert outputs == [[SHARD.head]] * 6


def test_the_revisions_of_a_checkout_lie_beside_the_package() -> None:
    assert (migrations.scripts() / "env.py").is_file()
    assert (migrations.scripts().parent / "alembic.ini").is_file()


def test_a_strangers_migrations_beside_an_installed_package_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "queue_max" / "storage" / "migrations.py"
    installed.parent.mkdir(parents=True)
    (tmp_path / "site-packages" / "migrations").mkdir()
    monkeypatch.setattr(migrations, "__file__", str(installed))

    with pytest.raises(FileNotFoundError):
        migrations.scripts()

    (installed.parents[1] / "migrations").mkdir()
    assert migrations.scripts() == installed.parents[1] / "migrations"
