import json
import xml.etree.ElementTree as ET

import pytest

from bench import report
from bench.chart import AHEAD, BEHIND, Bar, bars, svg
from bench.contenders.protocol import Request
from bench.measuring import Measurement
from bench.rounds import Results, Row, rows
from bench.scenarios import Scenario, Target

OURS = Request(contender="ours", task="drain")
THEIRS = Request(contender="theirs", task="drain")
BESIDE = Scenario(name="race", title="a race", ours=OURS, peer=THEIRS, targets=(Target(limit=1.5),))
ALONE = Scenario(
    name="wait",
    title="a wait",
    ours=OURS,
    targets=(Target(limit=2, figure="p50_ms", is_ceiling=True),),
)


def results(ours: list[float], theirs: list[float]) -> Results:
    made = Results()
    made.measured[OURS] = [Measurement({"jobs_per_second": each, "p50_ms": 3.0}) for each in ours]
    made.measured[THEIRS] = [Measurement({"jobs_per_second": each}) for each in theirs]
    return made


def row_of(scenario: Scenario, found: Results) -> Row:
    return rows([scenario], found)[0]


def test_a_row_compares_the_medians_of_all_rounds() -> None:
    row = row_of(BESIDE, results([100, 9000, 3000], [1000, 2, 2000]))
    assert (row.ours, row.peer, row.ratio, row.is_reached) == (3000, 1000, 3.0, True)


@pytest.mark.parametrize(("ours", "is_reached"), [(1499, False), (1500, True)])
def test_a_ratio_is_reached_from_its_limit_on(ours: float, is_reached: bool) -> None:
    assert row_of(BESIDE, results([ours], [1000])).is_reached is is_reached


@pytest.mark.parametrize(("limit", "is_reached"), [(2.9, False), (3.0, True)])
def test_a_ceiling_is_reached_down_from_its_limit(limit: float, is_reached: bool) -> None:
    target = Target(limit=limit, figure="p50_ms", is_ceiling=True)
    assert Row(ALONE, target, ours=3.0).is_reached is is_reached


def test_the_table_stands_in_columns() -> None:
    found = results([3000], [1000])
    drawn = report.table([row_of(BESIDE, found), row_of(ALONE, found)])
    assert drawn.splitlines() == [
        "scenario  ours          peer                   ratio  required       reached",
        "--------  ------------  ---------------------  -----  -------------  -------",
        "a race    3,000 jobs/s  1,000 jobs/s (theirs)  3.00x  at least 1.5x  yes",
        "a wait    p50 3.0 ms    -                      -      at most 2      no",
    ]


def test_markdown_has_the_conditions_above_the_table() -> None:
    drawn = report.markdown([row_of(BESIDE, results([3000], [1000]))], "Measured somewhere.")
    assert drawn.startswith("Measured somewhere.\n\n| scenario | ours |")
    assert drawn.endswith("| 3.00x | at least 1.5x | yes |\n")


def test_a_peer_that_is_not_installed_leaves_its_row_open_and_says_so() -> None:
    found = results([3000], [])
    found.missing["theirs"] = "no network"
    row = row_of(BESIDE, found)
    assert row.is_reached is None
    assert report.cells(row)[-1] == "skipped: theirs is not installed"


def test_a_failed_measurement_voids_the_rounds_that_went_well() -> None:
    found = results([3000, 3000], [1000])
    found.troubles[OURS] = "failed: 1 of 4 jobs did not run exactly once"
    row = row_of(BESIDE, found)
    assert (row.ours, row.is_reached) == (None, None)
    assert report.cells(row)[-1] == "failed: 1 of 4 jobs did not run exactly once"


def test_json_holds_every_round() -> None:
    found = results([1, 2, 3], [1000])
    facts = json.loads(report.as_json([BESIDE], [row_of(BESIDE, found)], found, 3, 1.0))
    assert facts["rows"][0]["ours"] == 2
    rates = [each["jobs_per_second"] for each in facts["measurements"][0]["rounds"]]
    assert rates == [1, 2, 3]


# The picture

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(drawn: str) -> list[tuple[str, float, float]]:
    """Give colour, begin and end of each bar."""
    found = [each.attrib for each in ET.fromstring(drawn).iter(f"{SVG}rect")][1:]
    return [
        (each["fill"], float(each["x"]), float(each["x"]) + float(each["width"])) for each in found
    ]


def test_rows_that_compare_become_bars_the_best_first() -> None:
    slow, fast = results([500], [1000]), results([3000], [1000])
    found = bars([row_of(BESIDE, slow), row_of(ALONE, fast), row_of(BESIDE, fast)])
    assert found == [Bar("a race | theirs", 3.0), Bar("a race | theirs", 0.5)]


def test_twice_and_half_as_fast_are_equally_far_from_the_line() -> None:
    twice, half = rectangles(svg([Bar("a", 2.0), Bar("b", 0.5)]))
    assert (twice[0], half[0]) == (AHEAD, BEHIND)
    assert twice[1] == half[2]
    assert round(twice[2] - twice[1], 1) == round(half[2] - half[1], 1) > 0


def test_a_name_may_have_any_signs() -> None:
    assert "a &lt; b &amp; c" in svg([Bar("a < b & c", 1.5)])
