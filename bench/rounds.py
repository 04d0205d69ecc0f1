"""All measurements, in interleaved rounds, and the medians of what they gave."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders.protocol import Request
from bench.environments import Contender, NotInstalledError, install
from bench.measuring import Measurement, MeasurementError, measure
from bench.scenarios import Scenario, Target

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the suite is run."""

    rounds: int = 3
    where: Path | None = None
    """Below which folder the data lies; else in the checkout."""
    timeout: float = 1800.0
    """Seconds after which a measurement is given up."""


@dataclass
class Results:
    """What all rounds gave."""

    measured: dict[Request, list[Measurement]] = field(default_factory=lambda: defaultdict(list))
    troubles: dict[Request, str] = field(default_factory=dict)
    """Why a request could not be measured, or must not count."""
    missing: dict[str, str] = field(default_factory=dict)
    """Contenders that could not be installed, and why."""

    def trouble(self, request: Request) -> str | None:
        """Say why there is no figure for a request, if so."""
        if request.contender in self.missing:
            return f"skipped: {request.contender} is not installed"
        return self.troubles.get(request)

    def values(self, request: Request, figure: str) -> list[float]:
        """Give a figure of each round."""
        return [measurement.figures[figure] for measurement in self.measured[request]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of ours, beside the peer's if there is one."""

    scenario: Scenario
    target: Target
    ours: float | None
    peer: float | None = None
    trouble: str | None = None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        if self.ours is None or not self.peer:
            return None
        return self.ours / self.peer

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; None when that is not known."""
        value = self.ratio if self.scenario.peer else self.ours
        return None if value is None else self.target.is_reached_by(value)


def install_all(
    scenarios: Sequence[Scenario], contenders: Mapping[str, Contender], say: Say
) -> dict[str, str]:
    """Make the environments that the scenarios need; gives those that failed, and why."""
    missing = {}
    for name in dict.fromkeys(request.contender for request in requests(scenarios)):
        try:
            install(contenders[name])
        except NotInstalledError as error:
            missing[name] = str(error)
            say(f"{name} could not be installed, its rows are skipped: {error}")
    return missing


def requests(scenarios: Sequence[Scenario]) -> list[Request]:
    """Give what has to be measured, each request once, ours beside the peer's."""
    both = [request for each in scenarios for request in (each.ours, each.peer) if request]
    return list(dict.fromkeys(both))


def run_rounds(
    scenarios: Sequence[Scenario], contenders: Mapping[str, Contender], plan: Plan, say: Say
) -> Results:
    """Measure all in turn, then all again: what disturbs the machine for a while meets all."""
    results = Results(missing=install_all(scenarios, contenders, say))
    for number in range(1, plan.rounds + 1):
        for request in requests(scenarios):
            if results.trouble(request):
                continue
            label = f"round {number}/{plan.rounds}: {request.contender}, {request.task}"
            try:
                measurement = measure(
                    request, contenders[request.contender], where=plan.where, timeout=plan.timeout
                )
            except MeasurementError as error:
                results.troubles[request] = f"failed: {error}"
                say(f"{label}: failed: {error}")
                continue
            results.measured[request].append(measurement)
            say(f"{label}: {measurement.figures['jobs_per_second']:,.0f} jobs/s")
    return results


def rows(scenarios: Sequence[Scenario], results: Results) -> list[Row]:
    """Make the lines of the table, from the medians of all rounds."""
    return [
        _row(scenario, target, results) for scenario in scenarios for target in scenario.targets
    ]


def _row(scenario: Scenario, target: Target, results: Results) -> Row:
    ours = _median(results, scenario.ours, target.figure)
    peer = _median(results, scenario.peer, target.figure) if scenario.peer else None
    troubles = [results.trouble(each) for each in (scenario.ours, scenario.peer) if each]
    return Row(scenario, target, ours, peer, next(filter(None, troubles), None))


def _median(results: Results, request: Request, figure: str) -> float | None:
    values = results.values(request, figure)
    return statistics.median(values) if values and not results.trouble(request) else None
