import json
from collections.abc import Callable

import pytest
from click.testing import Result

from queue_max import Queue

Cli = Callable[..., Result]


def test_without_limits_there_is_nothing_to_show(cli: Cli, queue: Queue) -> None:
    assert cli("limits", "--rate-limit", "none").stderr == "  No limits.\n"


def test_limits_are_shown_with_what_is_left_of_them(cli: Cli, queue: Queue) -> None:
    cli("limits", "set", "queue:mail", "--rate", "10/s, 1000/d", "--concurrency", "4")
    cli("limits", "set", "key:customer-*", "--rate", "5/s burst 9")
    shown = cli("limits", "--rate-limit", "60")
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[2:]] == [
        "all",
        "key:customer-*",
        "queue:mail",
    ]
    told = json.loads(cli("limits", "--rate-limit", "60", "--json").stdout)
    assert told[0] == {
        "scope": "all",
        "rate": "60/m",
        "concurrency": None,
        "tokens": 60.0,
        "next_token_in": 0.0,
        "running": None,
        "set_by_hand": False,
    }
    assert (told[1]["rate"], told[1]["tokens"]) == ("5/s burst 9", None)  # it is of many keys
    assert (told[2]["rate"], told[2]["concurrency"]) == ("10/s, 1000/d", 4)
    assert (told[2]["running"], told[2]["set_by_hand"]) == (0, True)


def test_a_limit_that_was_set_can_be_lifted_or_reset(cli: Cli, queue: Queue) -> None:
    cli("limits", "set", "all", "--rate", "10/s")
    assert queue.limits.get("all").rates[0].number == 10  # type: ignore[index]
    said = cli("limits", "set", "all", "--rate", "none", "--concurrency", "none")
    assert said.stderr == "  all: rate none, concurrency none.\n"
    assert queue.limits.get("all").rates == ()
    assert queue.rate_limiter.rate_limit == float("inf")
    assert "what the code says holds" in cli("limits", "reset", "all").stderr
    assert "nothing was set" in cli("limits", "reset", "all").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["set", "mail", "--rate", "1/s"], "scope='mail': should be all, queue:NAME"),
        (["set", "shard:1", "--rate", "1/s"], "scope='shard:1': should be"),
        (["set", "all", "--rate", "fast"], "rate 'fast': should be as"),
        (["set", "all", "--rate", "1/s,2/s"], "no two for the same time"),
        (["set", "all", "--concurrency", "0"], "concurrency=0: should be"),
        (["set", "all", "--concurrency", "few"], "'few' should be a whole number from 1, or none"),
        (["set", "all"], "nothing to set: give --rate or --concurrency"),
        (["penalise", "key:nobody", "3"], "no rate limits it"),
        (["penalise", "all", "-3"], "No such option"),
        (["penalise", "key:*", "3"], "scope='key:*': no rate limits it"),
        (["refill", "key:nobody"], "no rate limits it"),
    ],
)
def test_what_is_no_limit_is_refused_in_words(
    cli: Cli, queue: Queue, words: list[str], said: str
) -> None:
    refused = cli("limits", *words)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_scope_can_be_slowed_for_a_time(cli: Cli, queue: Queue) -> None:
    queue.limits.set("key:a", rate="10/s")
    told = cli("limits", "penalise", "key:a", "60").stderr
    assert told == "  key:a: no job starts for 60 s; `queue-max limits refill` lifts that.\n"
    [*_, limit] = json.loads(cli("limits", "--json").stdout)
    assert limit["tokens"] == 0.0
    assert 50 < limit["next_token_in"] <= 60
    assert cli("limits", "refill", "key:a").exit_code == 0
    [*_, limit] = json.loads(cli("limits", "--json").stdout)
    assert limit["next_token_in"] == 0.0


def test_breakers_are_shown_opened_and_closed(cli: Cli, queue: Queue) -> None:
    assert cli("breakers").stderr == "  No breaker has counted a failure.\n"
    assert cli("breakers", "open", "stripe", "--seconds", "60").exit_code == 0
    assert cli("breakers", "open", "default").stderr.endswith("is open until it is closed.\n")
    by_hand, for_a_time = json.loads(cli("breakers", "--json").stdout)
    assert (by_hand["name"], by_hand["state"], by_hand["next_probe_in"]) == (
        "default",
        "open",
        None,
    )
    assert for_a_time["name"] == "stripe"
    assert 0 < for_a_time["next_probe_in"] <= 60
    assert "by hand" in cli("breakers").stdout
    assert not queue.is_healthy
    assert cli("breakers", "close", "strype").stderr == (
        "  Breaker strype is closed, and was: it never failed.\n"
    )
    cli("breakers", "close", "default")
    assert queue.services.controls.refresh().breakers["default"].is_content


def test_a_breaker_is_opened_for_a_year_at_most_or_for_good(cli: Cli, queue: Queue) -> None:
    refused = cli("breakers", "open", "stripe", "--seconds", "1e11")
    assert refused.exit_code == 2
    assert "seconds=100000000000.0: should be 31622400 seconds at most" in refused.stderr


def test_a_breaker_has_a_name(cli: Cli, queue: Queue) -> None:
    refused = cli("breakers", "open", "")
    assert refused.exit_code == 2
    assert "breaker='': should be a str of 1 to 255" in refused.stderr


def test_queues_are_shown_with_jobs_workers_and_pauses(cli: Cli, queue: Queue) -> None:
    queue.enqueue({}, queue="mail")
    queue.enqueue({}, queue="mail", delay=60)
    cli("pause", "slow", "--reason", "for now")
    cli("pause", "--task", "reports.send")
    told = json.loads(cli("queues", "--json").stdout)
    assert told["queues"]["mail"] == {
        "pending": 2,
        "scheduled": 1,
        "processing": 0,
        "held": 0,
        "workers": 0,
        "paused": False,
        "reason": None,
    }
    assert told["queues"]["slow"]["paused"] is True
    assert told["paused"] == {"queue:slow": "for now", "task:reports.send": None}
    shown = cli("queues")
    assert [line.split()[0] for line in shown.stdout.splitlines()[2:]] == ["mail", "slow"]
    assert shown.stderr == "  task:reports.send is paused.\n"


def test_what_is_paused_can_be_resumed_once(cli: Cli, queue: Queue) -> None:
    assert cli("pause", "mail").stderr == "  Queue mail is paused.\n"
    assert cli("pause", "mail").stderr == "  Queue mail is paused already.\n"
    assert cli("resume", "mail").stderr == "  Queue mail goes on.\n"
    assert cli("resume", "mail").stderr == "  Queue mail was not paused.\n"
    assert cli("pause", "--shard", "0").stderr == "  Shard 0 is paused.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name one: a queue, or --task, or --shard"),
        (["mail", "--task", "x"], "name one: a queue, or --task, or --shard"),
        (["--shard", "7"], "7: there are 0 to 0"),
        (["a,b"], "queue='a,b': should be a str"),
    ],
)
def test_who_names_nothing_that_can_be_paused_is_told(
    cli: Cli, queue: Queue, words: list[str], said: str
) -> None:
    refused = cli("pause", *words)
    assert refused.exit_code == 2
    assert said in refused.stderr


def test_why_tells_all_reasons_as_data_and_in_words(cli: Cli, queue: Queue) -> None:
    job = queue.enqueue({}, queue="mail", delay=3600)
    cli("pause", "mail", "--reason", "the provider moves")
    told = json.loads(cli("why", job.key, "--json").stdout)
    assert (told["job"], told["status"]) == (job.key, "scheduled")
    assert [reason["kind"] for reason in told["reasons"]] == ["paused", "not_due", "no_worker"]
    shown = cli("why", f"{job['shard_id']}-{job['id']}").stdout.splitlines()
    assert shown[0] == f"  Job {job.key} is scheduled:"
    assert shown[1].startswith("    - queue:mail is paused: the provider moves")
    assert len(shown) == 4


@pytest.mark.parametrize(("key", "code"), [("0-99", 4), ("nonsense", 2), ("9-1", 4)])
def test_why_of_no_job_is_told_by_words_and_exit_code(
    cli: Cli, queue: Queue, key: str, code: int
) -> None:
    refused = cli("why", key)
    assert refused.exit_code == code
    assert "Traceback" not in refused.stderr
