"""`python -m bench`: run the suite, or the scenarios that are named, and print the table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import chart, report
from bench.environments import contenders
from bench.rounds import Plan, rows, run_rounds
from bench.scenarios import SCENARIOS, Scenario, at_scale


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say; gives the exit code: 1 if a measurement failed."""
    options = _parser().parse_args(arguments)
    if options.list:
        _list()
        return 0
    scenarios = [at_scale(each, options.scale) for each in _chosen(options.names, options.full)]
    plan = Plan(rounds=options.rounds, where=options.dir, timeout=options.timeout)
    results = run_rounds(scenarios, contenders(), plan, _say)
    lines = rows(scenarios, results)
    conditions = report.conditions(results, options.rounds, options.scale)
    print(f"\n{conditions}\n\n{report.table(lines)}")
    if options.markdown:
        options.markdown.write_text(report.markdown(lines, conditions))
    if options.svg:
        options.svg.write_text(chart.svg(chart.bars(lines)))
    if options.json:
        facts = report.as_json(scenarios, lines, results, options.rounds, options.scale)
        options.json.write_text(facts)
    return 1 if results.troubles else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--full", action="store_true", help="run the long scenarios, too")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--scale", type=float, default=1.0, help="shrink the numbers of jobs")
    parser.add_argument("--dir", type=Path, help="where the data lies; else in the checkout")
    parser.add_argument(
        "--timeout", type=float, default=1800.0, help="seconds that one measurement may take"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    return parser


def _chosen(names: Sequence[str], is_full: bool) -> list[Scenario]:
    if unknown := set(names) - {scenario.name for scenario in SCENARIOS}:
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}; see --list")
    if names:
        return [scenario for scenario in SCENARIOS if scenario.name in names]
    return [scenario for scenario in SCENARIOS if is_full or not scenario.is_long]


def _list() -> None:
    for scenario in SCENARIOS:
        mark = " (long)" if scenario.is_long else ""
        print(f"{scenario.name:20} {scenario.title}{mark}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
