from dataclasses import fields
from importlib.util import find_spec

from bench.contenders.protocol import Request
from bench.environments import contenders
from bench.report import _FORMS
from bench.rounds import requests
from bench.scenarios import SCENARIOS, at_scale


def test_no_two_scenarios_have_one_name_or_title() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert len({scenario.title for scenario in SCENARIOS}) == len(SCENARIOS)


def test_each_contender_of_a_scenario_has_a_script() -> None:
    known = contenders()
    for request in requests(SCENARIOS):
        assert find_spec(f"bench.{known[request.contender].module}")


def test_each_figure_of_a_target_has_a_form() -> None:
    assert {target.figure for each in SCENARIOS for target in each.targets} <= _FORMS.keys()


def test_scale_changes_the_amount_of_work_and_nothing_else() -> None:
    for scenario in SCENARIOS:
        small = at_scale(scenario, 0.1)
        assert small.ours.jobs < scenario.ours.jobs
        assert _differences(small.ours, scenario.ours) <= {"jobs", "rows", "seconds"}
        assert (small.peer is None) == (scenario.peer is None)


def test_what_two_scenarios_share_is_measured_once() -> None:
    asked = [request for each in SCENARIOS for request in (each.ours, each.peer) if request]
    measured = requests(SCENARIOS)
    assert set(measured) == set(asked)
    assert len(measured) == len(set(asked)) < len(asked)


def _differences(one: Request, other: Request) -> set[str]:
    names = [field.name for field in fields(Request)]
    return {name for name in names if getattr(one, name) != getattr(other, name)}
