"""`queue-max stats`."""

import math

import click

from queue_max.cli import output
from queue_max.cli.base import json_option, open_queue, queue_options

_METRICS = {
    "pending": "Pending",
    "scheduled": "  of these scheduled",
    "held": "  of these set aside",
    "processing": "Processing",
    "failed": "Failed",
    "completed": "Completed",
    "num_shards": "Shards",
    "unavailable_shards": "  of these unavailable",
    "circuit_state": "Circuit State",
    "tokens_available": "Tokens Available",
}


@click.command()
@click.option("--shard", type=int, metavar="N", help="Only this shard.")
@json_option
@queue_options
@click.pass_context
def stats(ctx: click.Context, /, shard: int | None, as_json: bool) -> None:
    """Count the jobs by state; circuit and tokens are those of all processes together."""
    queue = open_queue(ctx)
    found = queue.get_stats() if shard is None else queue.shard_manager.get_stats(shard)
    if as_json:
        output.as_json(found, indent=2)
        return
    click.echo("  Queue Max Statistics")
    click.echo("  " + "=" * 45)
    rows = [(title, _told(found[name])) for name, title in _METRICS.items() if name in found]
    output.table(("Metric", "Value"), rows)


def _told(value: str | float | list[int]) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float) and value != math.inf:
        return f"{value:.1f}"
    return value if isinstance(value, str) else output.number(value)
