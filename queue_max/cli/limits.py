"""`queue-max limits`, `breakers`, `queues`, `pause`, `resume` and `why`: what holds jobs back."""

import math
from typing import Any

import click

from queue_max.cli import output
from queue_max.cli.base import Commands, json_option, open_queue, queue_options
from queue_max.domain.clock import to_text
from queue_max.limits.breaker import Breaker
from queue_max.limits.circuit_breaker import CircuitState
from queue_max.limits.rates import text_of
from queue_max.limits.scopes import paused_in_words
from queue_max.queue import Queue
from queue_max.services.limits import LimitState


@click.group(cls=Commands, invoke_without_command=True)
@json_option
@queue_options
@click.pass_context
def limits(ctx: click.Context, /, as_json: bool) -> None:
    """How many jobs start in what time, and run at once: show, set, reset limits.

    Without a command, shows all limits. A scope is all, queue:NAME, task:NAME or key:KEY, or as
    key:customer-* for each key that begins so.
    """
    if ctx.invoked_subcommand is not None:
        return
    queue = open_queue(ctx)
    found = [_told(queue.limits.state(limit)) for limit in queue.limits.list()]
    if as_json:
        output.as_json(found, indent=2)
    elif not found:
        output.say("  No limits.")
    else:
        headers = ("Scope", "Rate", "Concurrency", "Tokens", "Next in", "Running", "Set by")
        output.table(headers, [_row(each) for each in found])


@limits.command("set")
@click.argument("scope")
@click.option("--rate", metavar="RATE", help="As 10/s, 100/15m, '10/s, 1000/d burst 50', or none.")
@click.option("--concurrency", metavar="N", help="How many run at once, or none.")
@queue_options
@click.pass_context
def set_limit(ctx: click.Context, /, scope: str, rate: str | None, concurrency: str | None) -> None:
    """Set the limit of SCOPE, in all processes and for good; it beats what the code declares."""
    if rate is None and concurrency is None:
        raise click.UsageError("nothing to set: give --rate or --concurrency")
    queue = open_queue(ctx)
    queue.limits.set(scope, rate=rate, concurrency=_places(concurrency))
    told = _told(queue.limits.state(queue.limits.get(scope)))
    output.say(f"  {scope}: rate {told['rate'] or 'none'}, concurrency {_or_none(told)}.")


@limits.command("reset")
@click.argument("scope")
@queue_options
@click.pass_context
def reset_limit(ctx: click.Context, /, scope: str) -> None:
    """Let what the code declares for SCOPE hold again."""
    had_one = open_queue(ctx).limits.forget(scope)
    output.say(f"  {scope}: {'what the code says holds' if had_one else 'nothing was set'}.")


@limits.command()
@click.argument("scope")
@click.argument("seconds", type=float)
@queue_options
@click.pass_context
def penalise(ctx: click.Context, /, scope: str, seconds: float) -> None:
    """Let no job of SCOPE start for so many SECONDS, as when a server has asked for that."""
    left = open_queue(ctx).limits.penalise(scope, seconds)
    output.say(f"  {scope}: no job starts for {left:,.0f} s; `queue-max limits refill` lifts that.")


@limits.command()
@click.argument("scope")
@queue_options
@click.pass_context
def refill(ctx: click.Context, /, scope: str) -> None:
    """Let SCOPE have all the tokens its rate lets it hold; that lifts a penalty."""
    open_queue(ctx).limits.refill(scope)
    output.say(f"  {scope}: jobs may start, as many as its burst.")


@click.group(cls=Commands, invoke_without_command=True)
@json_option
@queue_options
@click.pass_context
def breakers(ctx: click.Context, /, as_json: bool) -> None:
    """What keeps jobs from something that fails: show, open, close circuit breakers.

    Without a command, shows all that have ever counted a failure, or were opened by hand.
    """
    if ctx.invoked_subcommand is not None:
        return
    queue = open_queue(ctx)
    found = [_breaker(queue, each) for each in queue.breakers.list().values()]
    if as_json:
        output.as_json(found, indent=2)
    elif not found:
        output.say("  No breaker has counted a failure.")
    else:
        headers = ("Name", "State", "Failures", "Next probe in", "Since", "Last error")
        output.table(headers, [_breaker_row(each) for each in found])


@breakers.command("open")
@click.argument("name")
@click.option("--seconds", type=float, metavar="S", help="Then a probe passes; else by hand only.")
@queue_options
@click.pass_context
def open_breaker(ctx: click.Context, /, name: str, seconds: float | None) -> None:
    """Hold back all jobs behind the breaker NAME ("default": all jobs)."""
    open_queue(ctx).breakers.open(name, seconds)
    until = "until it is closed" if seconds is None else f"for {seconds:g} s"
    output.say(f"  Breaker {name} is open {until}.")


@breakers.command("close")
@click.argument("name")
@queue_options
@click.pass_context
def close_breaker(ctx: click.Context, /, name: str) -> None:
    """Let pass all jobs behind the breaker NAME, and forget its failures."""
    breakers = open_queue(ctx).breakers
    is_known = name in breakers.list()
    breakers.close(name)
    output.say(f"  Breaker {name} is closed{'' if is_known else ', and was: it never failed'}.")


@click.command()
@json_option
@queue_options
@click.pass_context
def queues(ctx: click.Context, /, as_json: bool) -> None:
    """Show the named queues: their jobs, who takes them, and which are paused."""
    queue = open_queue(ctx)
    found, paused = queue.queues(), queue.paused()
    if as_json:
        output.as_json({"queues": found, "paused": paused}, indent=2)
        return
    headers = ("Queue", "Pending", "Scheduled", "Processing", "Held", "Workers", "Paused")
    output.table(headers, [_queue_row(name, each) for name, each in found.items()])
    others = {scope: why for scope, why in paused.items() if not scope.startswith("queue:")}
    for scope, reason in others.items():
        output.say(f"  {paused_in_words(scope, reason)}.")


def _pausing(command: Any) -> Any:
    for decorate in (
        click.option("--shard", type=int, metavar="N", help="A shard, by its number."),
        click.option("--task", metavar="TASK", help="A task, in whichever queue its jobs are."),
        click.argument("name", required=False),
    ):
        command = decorate(command)
    return command


@click.command()
@_pausing
@click.option("--reason", metavar="TEXT", help="Shown to whoever asks why a job does not run.")
@queue_options
@click.pass_context
def pause(
    ctx: click.Context,
    /,
    name: str | None,
    task: str | None,
    shard: int | None,
    reason: str | None,
) -> None:
    """Let no job of the queue NAME, of a task, or of a shard start, in any process.

    What runs goes on, and jobs are taken in. It holds until `queue-max resume`.
    """
    queue = open_queue(ctx)
    what = _named(queue, name, task, shard)
    is_new = queue.pause(name, task=task, shard=shard, reason=reason)
    output.say(f"  {what} is paused{'' if is_new else ' already'}.")


@click.command()
@_pausing
@queue_options
@click.pass_context
def resume(ctx: click.Context, /, name: str | None, task: str | None, shard: int | None) -> None:
    """Let the jobs of the queue NAME, of a task, or of a shard start again."""
    queue = open_queue(ctx)
    what = _named(queue, name, task, shard)
    was_paused = queue.resume(name, task=task, shard=shard)
    output.say(f"  {what} {'goes on' if was_paused else 'was not paused'}.")


@click.command()
@click.argument("key")
@json_option
@queue_options
@click.pass_context
def why(ctx: click.Context, /, key: str, as_json: bool) -> None:
    """Tell why the job KEY does not run, as `enqueue` and `list` name it."""
    explanation = open_queue(ctx).why(key)
    if as_json:
        output.as_json(explanation.to_dict(), indent=2)
        return
    click.echo(f"  Job {explanation.job} is {explanation.status or 'out of reach'}:")
    for reason in explanation.reasons:
        output.item(reason.text)


def _told(state: LimitState) -> dict[str, Any]:
    limit = state.limit
    return {
        "scope": limit.scope,
        "rate": text_of(limit.rates) if limit.rates else None,
        "concurrency": limit.concurrency,
        "tokens": None if state.tokens is None else round(state.tokens, 2),
        "next_token_in": round(state.next_token, 3),
        "running": state.running,
        "set_by_hand": limit.is_set,
    }


def _row(told: dict[str, Any]) -> tuple[object, ...]:
    has_tokens = told["tokens"] is not None
    return (
        told["scope"],
        told["rate"] or "",
        _or_none(told) if told["concurrency"] else "",
        told["tokens"] if has_tokens else "",
        f"{told['next_token_in']} s" if has_tokens else "",
        "" if told["running"] is None else told["running"],
        "hand" if told["set_by_hand"] else "code",
    )


def _or_none(told: dict[str, Any]) -> object:
    return told["concurrency"] or "none"


def _places(text: str | None) -> float | None:
    if text is None:
        return None
    if text == "none":
        return math.inf
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} should be a whole number from 1, or none", param_hint="--concurrency"
        ) from None


def _breaker(queue: Queue, breaker: Breaker) -> dict[str, Any]:
    wait = queue.breakers.seconds_until_probe(breaker)
    is_closed = breaker.state is CircuitState.CLOSED
    return {
        "name": breaker.name,
        "state": str(breaker.state),
        "failures": breaker.failures,
        "next_probe_in": None if is_closed or wait == math.inf else round(wait, 3),
        "probe": breaker.probe,
        "changed_at": to_text(breaker.changed_at) if breaker.changed_at else None,
        "last_error": breaker.last_error,
    }


def _breaker_row(told: dict[str, Any]) -> tuple[object, ...]:
    wait = told["next_probe_in"]
    by_hand = "" if told["state"] == CircuitState.CLOSED else "by hand"
    return (
        told["name"],
        told["state"].replace("_", "-"),
        told["failures"],
        by_hand if wait is None else f"{wait} s",
        told["changed_at"] or "",
        output.failure(None, told["last_error"]),
    )


def _queue_row(name: str, told: dict[str, Any]) -> tuple[object, ...]:
    *numbers, is_paused, reason = told.values()
    return (name, *numbers, output.cut(reason or "yes") if is_paused else "")


def _named(queue: Queue, name: str | None, task: str | None, shard: int | None) -> str:
    """Name what is meant in words; a shard has to be there."""
    if shard is not None and shard not in queue.services.store.shard_ids:
        raise click.BadParameter(
            f"{shard}: there are 0 to {queue.num_shards - 1}", param_hint="--shard"
        )
    if sum(each is not None for each in (name, task, shard)) != 1:
        raise click.UsageError("name one: a queue, or --task, or --shard")
    if name is not None:
        return f"Queue {name}"
    return f"Task {task}" if task is not None else f"Shard {shard}"
