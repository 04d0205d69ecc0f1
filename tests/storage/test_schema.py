"""The tables as the code knows them, on both kinds of database."""

import re

import pytest
from sqlalchemy import Connection, Table, delete, insert, select
from sqlalchemy.exc import IntegrityError
from support.jobs import a_new_job
from support.predecessor import FROM_CODE

from queue_max.domain.clock import from_text
from queue_max.domain.job import JobStatus
from queue_max.exceptions import ShardError
from queue_max.storage import schema
from queue_max.storage.database import Database
from queue_max.storage.schema import control_tables, dead_letters, jobs, shard_tables

NOW = from_text(FROM_CODE)

OF_0_1_1 = [
    "id",
    "pagina_id",
    "payload",
    "status",
    "priority",
    "tentativas",
    "max_tentativas",
    "retry_delay",
    "last_error",
    "error_type",
    "error_stack",
    "worker_id",
    "heartbeat",
    "created_at",
    "started_at",
    "completed_at",
    "next_retry_at",
]

ALL_TABLES = [*shard_tables.sorted_tables, *control_tables.sorted_tables]


def add_job(connection: Connection, **columns: object) -> int:
    values = {"payload": "{}", "uid": a_new_job().uid, "created_at": NOW}
    return int(connection.execute(insert(jobs).returning(jobs.c.id), values | columns).scalar_one())


def test_jobs_keep_the_columns_of_0_1_1_in_their_order() -> None:
    assert [column.name for column in jobs.columns][: len(OF_0_1_1)] == OF_0_1_1


def test_columns_are_called_in_english_in_python() -> None:
    renamed = {c.name: c.key for table in ALL_TABLES for c in table.columns if c.name != c.key}

    assert renamed == {
        "tentativas": "attempts",
        "max_tentativas": "max_attempts",
        "original_job_id": "job_id",
        "total_jobs_processed": "processed",
        "total_jobs_failed": "failed",
    }


def test_every_column_beyond_0_1_1_may_be_left_out_but_the_uid() -> None:
    beyond = list(jobs.columns)[len(OF_0_1_1) :]

    required = {c.name for c in beyond if not c.nullable and c.server_default is None}

    assert required == {"uid"}


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.name)
def test_constraints_and_indexes_have_names(table: Table) -> None:
    assert all(each.name for each in [*table.constraints, *table.indexes])


@pytest.mark.parametrize("status", JobStatus)
def test_a_job_may_have_each_status(shard: Database, status: JobStatus) -> None:
    with shard.writing() as connection:
        job_id = add_job(connection, status=status)

        by_literal = select(jobs.c.id).where(jobs.c.status == schema.STATUSES[status])
        assert connection.execute(by_literal).scalars().all() == [job_id]


def test_there_is_no_seventh_status(shard: Database) -> None:
    with pytest.raises(ShardError), shard.writing() as connection:
        add_job(connection, status="retrying")


def test_status_literals_are_literals_not_parameters() -> None:
    assert set(schema.STATUSES) == set(JobStatus)
    for status, literal in schema.STATUSES.items():
        compiled = select(jobs.c.id).where(jobs.c.status == literal).compile()
        assert f"fila.status = '{status}'" in str(compiled)
        assert not compiled.params


def test_a_new_job_waits_in_the_default_queue_without_attempts(shard: Database) -> None:
    with shard.writing() as connection:
        add_job(connection)
        job = connection.execute(select(jobs)).one()

    found = (job.status, job.queue, job.priority, job.attempts, job.fence, job.retry_delay)
    assert found == ("pending", "default", 0, 0, 0, 60)
    assert (job.cost, job.progress, job.max_attempts) == (1, 0.0, 3)


def test_no_two_jobs_have_one_uid(shard: Database) -> None:
    with shard.writing() as connection:
        add_job(connection, uid="same")

    with pytest.raises(ShardError) as caught, shard.writing() as connection:
        add_job(connection, uid="same")

    assert isinstance(caught.value.__cause__, IntegrityError)


def test_the_number_of_a_deleted_job_is_not_used_again(shard: Database) -> None:
    with shard.writing() as connection:
        last = [add_job(connection) for _ in range(3)][-1]
        connection.execute(delete(jobs))

        assert add_job(connection) == last + 1


def test_the_number_of_a_deleted_dead_letter_is_not_used_again(shard: Database) -> None:
    values = {"payload": "{}", "error": "e", "error_type": "E", "failed_at": NOW}
    add = insert(dead_letters).values(values).returning(dead_letters.c.id)
    with shard.writing() as connection:
        last = connection.execute(add).scalar_one()
        connection.execute(delete(dead_letters))

        assert connection.execute(add).scalar_one() == last + 1


@pytest.mark.parametrize("beyond_32_bits", [2**31, 2**62])
def test_numbers_of_users_may_have_64_bits(shard: Database, beyond_32_bits: int) -> None:
    with shard.writing() as connection:
        add_job(connection, pagina_id=beyond_32_bits, retry_delay=beyond_32_bits)

        assert connection.execute(select(jobs.c.pagina_id)).scalar_one() == beyond_32_bits


waiting = select(jobs.c.id).where(jobs.c.status == schema.PENDING, jobs.c.queue == "default")
QUERIES = {
    "ix_fila_pending": waiting.order_by(jobs.c.priority.desc(), jobs.c.id).limit(1),
    "ix_fila_scheduled": select(jobs.c.id)
    .where(jobs.c.status == schema.SCHEDULED, jobs.c.next_retry_at <= NOW)
    .order_by(jobs.c.next_retry_at),
    "ix_fila_processing": select(jobs.c.id).where(
        jobs.c.status == schema.PROCESSING, jobs.c.heartbeat < NOW
    ),
    "ix_fila_ended": select(jobs.c.id).where(
        jobs.c.status == schema.FAILED, jobs.c.completed_at < NOW
    ),
    "uq_fila_uid": select(jobs.c.id).where(jobs.c.uid == "u"),
}


@pytest.mark.parametrize("index", QUERIES)
def test_what_the_queue_asks_for_is_found_by_an_index_in_order(shard: Database, index: str) -> None:
    with shard.writing() as connection:
        on_sqlite = connection.dialect.name == "sqlite"
        if not on_sqlite:  # else it reads a table of a few rows from end to end
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        explain = "EXPLAIN QUERY PLAN" if on_sqlite else "EXPLAIN"
        sql = QUERIES[index].compile(connection, compile_kwargs={"literal_binds": True})
        plan = "\n".join(str(row) for row in connection.exec_driver_sql(f"{explain} {sql}"))

    assert re.search(rf"INDEX {index}\b|Index (Only )?Scan using {index}\b", plan), plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan
