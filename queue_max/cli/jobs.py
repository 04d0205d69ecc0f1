"""Commands on jobs: `enqueue`, `list`, `show`, `cancel`, `retry`, `purge`."""

import json
from collections.abc import Sequence
from typing import Any

import click

from queue_max.cli import details, output
from queue_max.cli.base import (
    NOT_FOUND,
    Fault,
    json_object,
    json_option,
    open_queue,
    queue_options,
)
from queue_max.domain import gates
from queue_max.domain.attempts import Attempt
from queue_max.domain.job import Job, JobStatus

_LEFT_OUT = (
    *("queue", "task", "concurrency_key", "rate_key", "breaker", "held_by"),
    *("fence", "retry_policy", "keep_result"),
)
"""What is stored of a job, beyond its fields in the 0.1 API."""

_HEADERS = ("Key", "ID", "Shard", "Status", "Priority", "Attempts", "Payload", "Error")


@click.command()
@click.option("--payload", metavar="JSON", help="The job's payload, a JSON object.")
@click.option("--priority", type=click.IntRange(0, 2), default=0, show_default=True)
@click.option("--pagina-id", type=int, metavar="N", help="Jobs of one N share a shard.")
@click.option("--max-retries", type=int, metavar="N", help="Attempts after the first.")
@click.option("--queue", metavar="NAME", help="The named queue it goes to.")
@click.option("--task", metavar="NAME", help='Its task; the payload has "args" and "kwargs".')
@click.option("--delay", type=float, metavar="SECONDS", help="How long it waits first.")
@click.option("--run-at", metavar="TIME", help="Until when it waits, ISO 8601 with a time zone.")
@click.option("--unique-key", metavar="KEY", help="There is one job of KEY at a time.")
@click.option("--concurrency-key", metavar="KEY", help="Jobs of KEY run one after the other.")
@click.option("--rate-key", metavar="KEY", help="It starts under the rate of key:KEY.")
@click.option("--breaker", metavar="NAME", help="It runs behind this circuit breaker.")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False),
    help="Take many jobs from a file instead: all of them, or none when a line is bad.",
)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["jsonl", "csv"]),
    help="How the file is written [csv if its name ends in .csv, else jsonl].",
)
@json_option
@queue_options
@click.pass_context
def enqueue(
    ctx: click.Context,
    /,
    payload: str | None,
    priority: int,
    pagina_id: int | None,
    max_retries: int | None,
    path: str | None,
    fmt: str | None,
    as_json: bool,
    **further: Any,
) -> None:
    """Store a job, or a file of them."""
    if (payload is None) == (path is None):
        raise click.UsageError("Give either --payload or --file.")
    given = {name: value for name, value in further.items() if value is not None}
    if path is not None and given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"With --file each job says this by itself: {options}.")
    item = None if payload is None else json_object(payload, "--payload")
    queue = open_queue(ctx, create=True)
    if path is not None:
        taken = queue.enqueue_from_file(path, fmt or _format_of(path))
        output.as_json(taken) if as_json else click.echo(f"  Jobs enqueued: {taken['total']}")
        return
    handle = queue.enqueue(item, pagina_id, priority, max_retries, **given)  # type: ignore[arg-type]
    if as_json:
        output.as_json(handle)
    else:
        click.echo(f"  Job enqueued: id={handle['id']}, shard={handle['shard_id']}")


@click.command("list")
@click.option(
    "--status",
    type=click.Choice([*map(str, JobStatus), "all"]),
    default=str(JobStatus.FAILED),
    show_default=True,
    help="pending includes scheduled.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--shard", type=int, metavar="N", help="Only this shard.")
@json_option
@queue_options
@click.pass_context
def list_jobs(
    ctx: click.Context, /, status: str, limit: int, shard: int | None, as_json: bool
) -> None:
    """Show jobs, the newest first."""
    found = open_queue(ctx).list_jobs(None if status == "all" else status, limit, shard)
    if as_json:
        output.as_json([job.to_dict() for job in found], indent=2)
    elif not found:
        output.say("  No jobs." if status == "all" else f"  No jobs with status '{status}'.")
    else:
        output.table(_HEADERS, [_row(job) for job in found])


@click.command()
@click.argument("key")
@details.traceback_option
@json_option
@queue_options
@click.pass_context
def show(ctx: click.Context, /, key: str, traceback: bool, as_json: bool) -> None:
    """Show all that is known of the job KEY, and of its failed attempts.

    KEY is <shard>-<id>, as `enqueue` and `list` tell them, or <shard>-<uid>.
    """
    queue = open_queue(ctx)
    job = queue.get_job(key)
    attempts = queue.get_attempts(job)
    if as_json:
        output.as_json(_all_of(job, attempts), indent=2)
        return
    _show_job(job)
    details.attempts(attempts, traceback)
    if job.is_failed:
        output.say(f"  Its dead letter, where it is kept: `queue-max dlq show {job.key}`")


@click.command()
@click.argument("key")
@queue_options
@click.pass_context
def cancel(ctx: click.Context, /, key: str) -> None:
    """Cancel the job KEY, which waits or runs.

    The outcome of one that runs counts no more; its worker ends it, as far as
    that is possible. KEY is as for `show`.
    """
    queue = open_queue(ctx)
    job = queue.get_job(key)
    if not queue.cancel(job):
        raise Fault(f"Job {job.key} has ended already.")
    click.echo(f"  Cancelled job {job.key}, which {_activity(job)}.")


@click.command()
@click.option("--shard", type=int, metavar="N", help="Only the jobs of this shard.")
@click.option("--job-id", type=int, metavar="N", help="Only this job; needs --shard.")
@queue_options
@click.pass_context
def retry(ctx: click.Context, /, shard: int | None, job_id: int | None) -> None:
    """Give failed jobs a fresh budget of attempts."""
    if job_id is not None and shard is None:
        raise click.UsageError("--job-id needs --shard: ids are unique within a shard only.")
    queue = open_queue(ctx)
    if job_id is None or shard is None:
        number = queue.retry_failed_jobs(shard)
        where = "across all shards" if shard is None else f"in shard {shard}"
        click.echo(f"  Retried {number} job(s) {where}.")
    elif queue.shard_manager.retry_job(shard, job_id):
        click.echo(f"  Retried job {job_id} in shard {shard}.")
    else:
        raise Fault(
            f"Job {job_id} not found or not in 'failed' status in shard {shard}.", NOT_FOUND
        )


@click.command()
@click.option("--days", type=click.FloatRange(min=0), metavar="N", help="[as the settings say]")
@queue_options
@click.pass_context
def purge(ctx: click.Context, /, days: float | None) -> None:
    """Delete jobs that ended N days ago; those whose dead letter is kept stay.

    Without --days the settings hold for each kind of job, and for dead letters.
    """
    click.echo(f"  Removed {open_queue(ctx).cleanup_old_jobs(days)} old job(s).")


def _format_of(path: str) -> str:
    return "csv" if path.lower().endswith(".csv") else "jsonl"


def _row(job: Job) -> tuple[object, ...]:
    payload = json.dumps(job.payload, ensure_ascii=False)
    key = f"{job.shard_id}-{job.id}"
    facts = job.id, job.shard_id, job.status_str, job.priority_int, _attempts(job)
    error = output.failure(job.error_type, job.last_error)
    return key, *facts, output.cut(payload), error


def _attempts(job: Job) -> str:
    return f"{job.attempts}/{job.max_attempts}"


def _activity(job: Job) -> str:
    return "was running: its worker ends it" if job.is_processing else "was waiting"


def _show_job(job: Job) -> None:
    details.facts(
        {
            "Key": job.key,
            "Shard": job.shard_id,
            "Job ID": job.id,
            "Status": job.status_str,
            "Queue": job.queue,
            "Task": job.task,
            "Pagina ID": job.pagina_id,
            "Priority": job.priority_int,
            "Attempts": _attempts(job),
            "Concurrency key": job.concurrency_key,
            "Rate key": job.rate_key,
            "Breaker": job.breaker,
            "Held by": None if job.held_by is None else gates.in_words(job.held_by),
            "Worker": job.worker_id,
            "Created at": job.created_at,
            "Due at": job.next_retry_at,
            "Started at": job.started_at,
            "Heartbeat at": job.heartbeat,
            "Ended at": job.completed_at,
            "Progress": f"{job.progress:g} %",
            "Error type": job.error_type,
        }
    )
    details.json_text("Payload", json.dumps(job.payload))
    if job.result is not None:
        details.json_text("Result", job.result)
    details.failure(job.last_error, job.error_stack)


def _all_of(job: Job, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Give the facts that `list` has, and those that it leaves out; `result` only if it is kept."""
    facts = {"key": job.key} | job.to_dict()
    facts |= {name: getattr(job, name) for name in _LEFT_OUT}
    if job.result is not None:
        facts["result"] = json.loads(job.result)
    return facts | {"attempts": [attempt.to_dict() for attempt in attempts]}
