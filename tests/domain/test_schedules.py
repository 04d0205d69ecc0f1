import math
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_max.domain.clock import from_text, to_text
from queue_max.domain.retry import RetryPolicy
from queue_max.domain.rhythms import ALIASES, Cron, Interval, check_cron
from queue_max.domain.schedules import (
    MAX_NAME,
    Misfire,
    NewSchedule,
    Overlap,
    Schedule,
    check_schedule,
)
from queue_max.exceptions import ConfigurationError, InvalidJobError, PayloadError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BERLIN = "Europe/Berlin"


def declare(**declared: Any) -> NewSchedule:
    given: dict[str, Any] = {"name": "n", "task": "t", "options": {}} | declared
    if "interval" not in given and "cron" not in given:
        given["interval"] = 60
    return check_schedule(given.pop("name"), given.pop("task"), **given)


def a_schedule(**facts: Any) -> Schedule:
    """A schedule whose next tick is at noon, unless something else is said."""
    state = {
        "is_paused": False,
        "next_at": NOON,
        "last_at": None,
        "last_job": None,
        "created_at": NOON,
        "updated_at": NOON,
        "revision": 1,
    }
    state |= {name: facts.pop(name) for name in state.keys() & facts.keys()}
    new = declare(**facts)
    return Schedule(**{each.name: getattr(new, each.name) for each in fields(new)} | state)


def seconds(*later: float) -> list[datetime]:
    """Give moments so many seconds after noon."""
    return [NOON + timedelta(seconds=each) for each in later]


def times(cron: str, tz: str, since: str, until: str) -> list[str]:
    """Give the ticks after a moment, up to another, as the clocks there show them."""
    found = []
    rhythm, tick, end = Cron(cron, tz), from_text(since), from_text(until)
    while (tick := rhythm.next_after(tick)) <= end:
        local = tick.astimezone(zone_of(tz))
        found.append(local.strftime("%d %H:%M %Z"))
    return found


def zone_of(tz: str) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(tz)


# Intervals


def test_an_interval_keeps_its_phase_for_good() -> None:
    rhythm = Interval(1.001, NOON)
    tick = NOON
    for _ in range(10_000):
        tick = rhythm.next_after(tick)
    assert tick == NOON + timedelta(seconds=10_010)


@pytest.mark.parametrize(
    ("moment", "following"),
    [(-60, 0), (-0.001, 0), (0, 60), (59.999, 60), (60, 120), (-61, -60)],
)
def test_the_next_tick_is_the_first_after_a_moment(moment: float, following: float) -> None:
    assert Interval(60, NOON).next_after(seconds(moment)[0]) == seconds(following)[0]


@pytest.mark.parametrize(
    ("until", "count", "ticks"),
    [
        (-1, 3, []),
        (0, 3, [0]),
        (59, 3, [0]),
        (60, 3, [0, 60]),
        (600, 3, [480, 540, 600]),
        (600, 1, [600]),
    ],
)
def test_the_newest_ticks_come_in_order(until: float, count: int, ticks: list[float]) -> None:
    rhythm = Interval(60, NOON)
    assert rhythm.newest(NOON, seconds(until)[0], count) == seconds(*ticks)


@pytest.mark.parametrize(
    "interval", [0, 0.999, -5, math.nan, math.inf, 1e12, True, "60", [1], timedelta(seconds=60)]
)
def test_a_bad_interval_is_refused_with_its_value_and_an_example(interval: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"interval=.*from 1 to 315360000, such as 300"):
        declare(interval=interval)


def test_an_interval_may_have_fractions_to_the_millisecond() -> None:
    assert declare(interval=1).interval == 1.0
    assert declare(interval=1.5).interval == 1.5
    assert declare(interval=1.00049).interval == 1.0


# Cron


@pytest.mark.parametrize(
    ("cron", "following"),
    [
        ("* * * * *", "2026-01-01T12:01:00.000Z"),
        ("30 2 * * *", "2026-01-02T02:30:00.000Z"),
        ("*/15 8-18 * * MON-FRI", "2026-01-01T12:15:00.000Z"),
        ("0 0 * * 7", "2026-01-04T00:00:00.000Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00.000Z"),
        # Where day and weekday are both restricted, either will do.
        ("0 0 13 * FRI", "2026-01-02T00:00:00.000Z"),
        ("@hourly", "2026-01-01T13:00:00.000Z"),
        ("@daily", "2026-01-02T00:00:00.000Z"),
        ("@midnight", "2026-01-02T00:00:00.000Z"),
        ("@weekly", "2026-01-04T00:00:00.000Z"),
        ("@monthly", "2026-02-01T00:00:00.000Z"),
        ("@yearly", "2027-01-01T00:00:00.000Z"),
        ("@Annually", "2027-01-01T00:00:00.000Z"),
    ],
)
def test_the_five_fields_and_their_aliases_name_times(cron: str, following: str) -> None:
    assert to_text(declare(cron=cron).first_after(NOON)) == following


def test_the_times_are_those_of_the_time_zone() -> None:
    assert declare(cron="0 9 * * *", tz=BERLIN).first_after(NOON) == datetime(
        2026, 1, 2, 8, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "@often",
        "* * * *",
        "0 * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 31 2 *",
        "x" * 5000,
        f"{'9' * 5000} * * * *",
        "² * * * *",
        7,
        None,
        b"* * * * *",
    ],
)
def test_a_bad_cron_is_refused_with_its_value_and_an_example(cron: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cron=.*such as '30 2 \* \* MON-FRI', or one of @hourly"
    ):
        check_cron(cron)


def test_what_is_bad_in_a_cron_is_named() -> None:
    with pytest.raises(ConfigurationError, match="Bad hour"):
        check_cron("0 25 * * *")


def test_a_cron_is_kept_as_it_is_given_but_for_the_space_between_its_fields() -> None:
    assert check_cron("  0  2 *\t* mon ") == "0 2 * * mon"
    assert check_cron("@daily") == "@daily"


@given(st.text(alphabet="0159*/,-#LW MONJAN", max_size=20))
def test_any_text_is_a_cron_or_refused_as_such(text: str) -> None:
    try:
        expression = check_cron(text)
    except ConfigurationError:
        return
    assert len(ALIASES.get(expression, expression).split()) == 5


@pytest.mark.parametrize(
    "tz", ["", "Europe", "Europe/Atlantis", "../etc/passwd", "/etc/localtime", "CEST!", 7, None]
)
def test_an_unknown_time_zone_is_refused_with_its_value_and_an_example(tz: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tz=.*such as 'Europe/Berlin'"):
        declare(cron="@daily", tz=tz)


def test_an_interval_has_no_time_zone() -> None:
    with pytest.raises(ConfigurationError, match="tz='Europe/Berlin': is for cron"):
        declare(interval=60, tz=BERLIN)


@pytest.mark.parametrize("both", [{"interval": None}, {"interval": 60, "cron": "@daily"}])
def test_either_interval_or_cron_is_given(both: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="either interval"):
        declare(**both)


@pytest.mark.parametrize("rhythm", [Interval(60, NOON), Cron("* * * * *", BERLIN)])
def test_of_years_of_ticks_the_newest_are_found_at_once(rhythm: Interval | Cron) -> None:
    until = NOON + timedelta(days=3650)
    newest = rhythm.newest(NOON, until, 3)
    assert newest == [until - timedelta(minutes=back) for back in (2, 1, 0)]


def test_the_newest_ticks_are_found_however_far_apart() -> None:
    leap_days = Cron("0 0 29 2 *", "UTC")
    found = leap_days.newest(NOON, datetime(2045, 1, 1, tzinfo=UTC), 3)
    assert [tick.year for tick in found] == [2036, 2040, 2044]
    assert leap_days.newest(NOON, datetime(2027, 1, 1, tzinfo=UTC), 3) == []


# When clocks are changed: on 29 March 2026 Berlin goes from 2:00 to 3:00, on 25 October from
# 3:00 back to 2:00.

MARCH = "2026-03-28T12:00Z", "2026-03-30T12:00Z"
OCTOBER = "2026-10-24T12:00Z", "2026-10-26T12:00Z"


@pytest.mark.parametrize("cron", ["30 2 * * *", "0,30 2 * * *", "30 2,2 * * *"])
def test_a_fixed_time_that_is_skipped_comes_once_right_after_the_gap(cron: str) -> None:
    on_the_day = [each for each in times(cron, BERLIN, *MARCH) if each.startswith("29")]
    assert on_the_day == ["29 03:00 CEST"]


def test_a_fixed_time_after_the_gap_does_not_come_twice() -> None:
    assert times("0 2,3 * * *", BERLIN, *MARCH) == [
        "29 03:00 CEST",
        "30 02:00 CEST",
        "30 03:00 CEST",
    ]


def test_a_fixed_time_that_comes_twice_counts_the_first_time() -> None:
    assert times("30 2 * * *", BERLIN, *OCTOBER) == ["25 02:30 CEST", "26 02:30 CET"]


def test_from_amid_the_repeated_hour_no_time_of_before_comes_again() -> None:
    between = "2026-10-25T01:10Z"  # 2:10 in the second turn: half past two has been
    assert times("30 2 * * *", BERLIN, between, OCTOBER[1]) == ["26 02:30 CET"]
    due = a_schedule(cron="30 2 * * *", tz=BERLIN, next_at=from_text("2026-10-25T00:30Z"))
    assert due.due_ticks(from_text(between)).ticks == [due.next_at]


def test_wildcards_follow_real_time() -> None:
    hours = times("0 * * * *", BERLIN, "2026-03-29T00:00Z", "2026-03-29T02:00Z")
    assert hours == ["29 03:00 CEST", "29 04:00 CEST"]
    hours = times("0 * * * *", BERLIN, "2026-10-24T23:00Z", "2026-10-25T02:00Z")
    assert hours == ["25 02:00 CEST", "25 02:00 CET", "25 03:00 CET"]
    quarters = times("*/30 2 * * *", BERLIN, *OCTOBER)
    assert quarters[:4] == ["25 02:00 CEST", "25 02:30 CEST", "25 02:00 CET", "25 02:30 CET"]
    assert "29" not in {each[:2] for each in times("*/30 2 * * *", BERLIN, *MARCH)}


def test_an_interval_follows_real_time() -> None:
    rhythm = Interval(86_400, from_text("2026-03-28T08:00Z"))
    assert rhythm.next_after(from_text(MARCH[0])) == from_text("2026-03-29T08:00Z")


@given(
    st.sampled_from(["30 2 * * *", "0,59 1-3 * * *", "*/20 * * * *", "0 * * * *", "* 2 * * *"]),
    st.sampled_from([MARCH, OCTOBER]),
    st.integers(0, 48 * 60),
    st.integers(0, 600),
)
def test_whenever_one_looks_the_ticks_are_the_same(
    cron: str, around: tuple[str, str], begin: int, length: int
) -> None:
    rhythm, since = Cron(cron, BERLIN), from_text(around[0]) + timedelta(minutes=begin)
    until = since + timedelta(minutes=length)
    expected, tick = [], from_text(around[0]) - timedelta(days=1)
    while (tick := rhythm.next_after(tick)) <= until:
        if tick > since:
            expected.append(tick)
    found, tick = [], since
    while (tick := rhythm.next_after(tick)) <= until:
        found.append(tick)
    assert found == expected
    assert list(rhythm.newest(since + timedelta(milliseconds=1), until, 7)) == expected[-7:]


# What is due


@pytest.mark.parametrize("misfire", Misfire)
def test_nothing_is_due_before_the_next_tick(misfire: Misfire) -> None:
    due = a_schedule(misfire=misfire).due_ticks(seconds(-0.001)[0])
    assert (due.ticks, due.next_at) == ((), NOON)


@pytest.mark.parametrize("misfire", Misfire)
@pytest.mark.parametrize("late", [0, 0.001, 59.999])
def test_a_tick_in_time_is_fired_whatever_becomes_of_missed_ones(
    misfire: Misfire, late: float
) -> None:
    due = a_schedule(misfire=misfire).due_ticks(seconds(late)[0])
    assert (list(due.ticks), due.next_at) == ([NOON], seconds(60)[0])


MISFIRES: list[tuple[str, float, float, list[float]]] = [
    # misfire, interval, seconds late, ticks
    ("skip", 3600, 60, [0]),
    ("skip", 3600, 60.001, []),
    ("skip", 60, 130, [120]),
    ("skip", 5, 11, [10]),
    ("skip", 3600, 3700, []),
    ("once", 3600, 60.001, [0]),
    ("once", 3600, 3 * 3600 + 100, [3 * 3600]),
    ("once", 60, 130, [120]),
    ("all", 3600, 3 * 3600 + 100, [0, 3600, 7200, 10800]),
    ("all", 60, 130, [0, 60, 120]),
]


@pytest.mark.parametrize(("misfire", "interval", "late", "ticks"), MISFIRES)
def test_what_becomes_of_missed_ticks(
    misfire: str, interval: float, late: float, ticks: list[float]
) -> None:
    now = seconds(late)[0]
    due = a_schedule(misfire=misfire, interval=interval).due_ticks(now)
    assert list(due.ticks) == seconds(*ticks)
    assert now < due.next_at <= now + timedelta(seconds=interval)
    assert (due.next_at - NOON) % timedelta(seconds=interval) == timedelta(0)


def test_of_too_many_missed_ticks_the_newest_are_fired_oldest_first() -> None:
    schedule = a_schedule(misfire="all", misfire_cap=3, interval=10)
    assert schedule.due_ticks(seconds(1000)[0]).ticks == seconds(980, 990, 1000)


def test_the_ticks_of_cron_are_missed_alike() -> None:
    schedule = a_schedule(cron="0 12 * * *", misfire="all")
    late = NOON + timedelta(days=2, hours=3)
    due = schedule.due_ticks(late)
    assert list(due.ticks) == [NOON + timedelta(days=day) for day in range(3)]
    assert due.next_at == NOON + timedelta(days=3)


def test_the_next_ticks_are_previewed() -> None:
    schedule = a_schedule()
    assert schedule.preview(3, seconds(-5)[0]) == seconds(0, 60, 120)
    assert schedule.preview(2, seconds(70)[0]) == seconds(120, 180)


# What is changed


def test_another_rhythm_begins_anew_and_the_same_goes_on() -> None:
    schedule = a_schedule(interval=60)
    assert schedule.next_as(declare(interval=60, args=[1]), seconds(-5)[0]) == NOON
    assert schedule.next_as(declare(interval=7), seconds(-5)[0]) == seconds(2)[0]
    assert schedule.next_as(declare(cron="* * * * *"), seconds(-61)[0]) == seconds(-60)[0]


def test_no_tick_comes_twice_when_the_clock_was_put_back() -> None:
    schedule = a_schedule(cron="0 * * * *", next_at=seconds(3600)[0], last_at=NOON)
    put_back = seconds(-600)[0]
    assert schedule.due_ticks(put_back).ticks == ()
    assert schedule.next_as(declare(cron="0,30 * * * *"), put_back) == seconds(1800)[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "other"},
        {"interval": 61},
        {"args": [1]},
        {"misfire": "skip"},
        {"misfire_cap": 7},
        {"overlap": "skip"},
        {"options": {"priority": 2}},
    ],
)
def test_what_is_declared_alike_is_the_same_and_nothing_else(changed: dict[str, Any]) -> None:
    assert a_schedule(revision=7, is_paused=True).is_as(declare())
    assert not a_schedule().is_as(declare(**changed))


def test_values_that_json_has_one_form_for_are_the_same() -> None:
    policy = RetryPolicy.delays([1, 2])
    loose = declare(args=(1, (2,)), options={"retry": policy, "timeout": 5, "priority": None})
    assert loose == declare(args=[1, [2]], options={"timeout": 5.0, "retry": policy})
    assert loose.options["retry"]["waits"] == [1, 2]


# Its jobs


def test_a_job_calls_the_task_with_the_arguments() -> None:
    job = a_schedule(args=["x"], kwargs={"n": 1}).job()
    assert job == {
        "task": "t",
        "payload": {"task": "t", "version": 1, "args": ["x"], "kwargs": {"n": 1}},
    }


def test_a_payload_takes_the_place_of_arguments() -> None:
    assert a_schedule(payload={"task": "t", "version": 2}).job()["payload"] == {
        "task": "t",
        "version": 2,
    }
    with pytest.raises(ConfigurationError, match="in place of args and kwargs"):
        declare(payload={}, args=[1])


def test_the_job_of_a_tick_has_a_key_that_names_it() -> None:
    job = a_schedule(name="nightly report").job(NOON)
    assert job["unique_key"] == "schedule:nightly report:2026-01-01T12:00:00.000Z"
    assert job["unique_for"] == 7 * 86_400


def test_the_longest_name_makes_a_key_that_is_taken() -> None:
    key = a_schedule(name="x" * MAX_NAME).job(NOON)["unique_key"]
    assert len(key) <= 255


def test_options_are_those_of_enqueue() -> None:
    options = {"priority": 2, "max_retries": 0, "retry_delay": 5, "timeout": 1.5, "pagina_id": 7}
    policy = RetryPolicy.linear(3)
    job = a_schedule(options=options | {"retry": policy, "keep_result": math.inf}).job()
    assert job.pop("retry") == policy
    assert job.pop("keep_result") < math.inf
    assert job.items() >= options.items()


BAD: list[tuple[dict[str, Any], type[ValueError], str]] = [
    ({"name": ""}, ConfigurationError, "name=''"),
    ({"name": "x" * 201}, ConfigurationError, "1 to 200"),
    ({"name": "a\nb"}, ConfigurationError, "printable"),
    ({"name": 7}, ConfigurationError, "name=7"),
    ({"task": ""}, InvalidJobError, "task=''"),
    ({"task": None}, ConfigurationError, "task=None"),
    ({"args": "abc"}, ConfigurationError, "args='abc'"),
    ({"kwargs": [1]}, ConfigurationError, r"kwargs=\[1\]"),
    ({"args": [{1, 2}]}, PayloadError, r"\['args'\]\[0\]"),
    ({"payload": [1]}, PayloadError, "should be a dict"),
    ({"misfire": "never"}, ConfigurationError, "misfire='never'.*skip, once, all"),
    ({"misfire": []}, ConfigurationError, r"misfire=\[\]"),
    ({"overlap": "all"}, ConfigurationError, "overlap='all'.*allow, skip"),
    ({"misfire_cap": 0}, ConfigurationError, "misfire_cap=0"),
    ({"options": {"delay": 5}}, ConfigurationError, "unknown 'delay'; there are breaker"),
    ({"options": {"priority": 3}}, InvalidJobError, "priority=3"),
    ({"options": {"retry": "often"}}, InvalidJobError, "retry='often'"),
    ({"options": {"timeout": 0}}, InvalidJobError, "timeout=0"),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD)
def test_what_is_bad_is_refused_and_named(
    bad: dict[str, Any], error: type[ValueError], words: str
) -> None:
    with pytest.raises(error, match=words):
        declare(**bad)


def test_a_schedule_is_told_in_plain_values() -> None:
    facts = a_schedule(cron="@daily", overlap="skip", last_at=NOON).to_dict()
    assert facts["next_at"] == facts["last_at"] == "2026-01-01T12:00:00.000Z"
    assert (facts["cron"], facts["interval"], facts["overlap"]) == ("@daily", None, "skip")
    assert list(facts) == [each.name for each in fields(Schedule)]


def test_the_defaults_are_these() -> None:
    new = check_schedule("n", "t", interval=1, options={})
    assert (new.tz, new.misfire, new.misfire_cap, new.overlap) == (
        "UTC",
        Misfire.ONCE,
        100,
        Overlap.ALLOW,
    )
