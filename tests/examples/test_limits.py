"""The examples of limits, as a person runs them: every job has the outcome it should have."""

import re
import subprocess
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow


def test_an_api_is_asked_no_more_often_than_it_allows_and_answers_every_question(run: Run) -> None:
    done = run("ai_rate_limited.py")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) answers from (\d+) calls, (\d+) of them refused", done.stdout)
    assert found, done.stdout
    answers, calls, refused = map(int, found.groups())
    assert answers == 100
    assert calls == answers + refused
    assert refused >= 2


def test_it_says_so_if_there_were_too_many_calls(run: Run) -> None:
    spoilt = (
        "import sys, ai_rate_limited as it; api = it.Api()\n"
        "api.calls = [(n / 100, 'acme') for n in range(100)]\n"
        "sys.exit(it.tell(api, [str(n) for n in range(100)]))"
    )
    done = run("-c", spoilt)
    assert done.returncode == 1
    assert "Not as expected: 100 calls within a second" in done.stderr


def test_webhooks_arrive_once_and_in_order_though_an_account_is_down_for_a_while(run: Run) -> None:
    done = run("webhook_processor.py")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "All others have theirs; 15 events of bolts wait." in lines
    counts = {line.split()[0]: line.split()[1:] for line in lines[-4:]}
    assert {account: int(found[0]) for account, found in counts.items()} == dict.fromkeys(
        ("acme", "bolts", "corner-shop", "dairy"), 15
    )
    assert {account for account, found in counts.items() if int(found[2]) > 0} == {"bolts"}


def test_it_says_so_if_an_event_is_lost(run: Run) -> None:
    spoilt = (
        "import sys, webhook_processor as it; taken = it.Receivers.receive\n"
        "def lose(self, account, event):\n"
        "    return 200 if (account, event) == ('dairy', 7) else taken(self, account, event)\n"
        "it.Receivers.receive = lose; it.Receivers.count = lambda self, but: 45\n"
        "sys.exit(it.main())"
    )
    done = run("-c", spoilt)
    assert done.returncode == 1
    assert "Not as expected: dairy got" in done.stderr
