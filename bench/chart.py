"""The ratios as a picture in SVG: who is faster, and by how much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.rounds import Row

LABELS, PLOT, MARGIN = 680, 330, 60
LINE, BAR = 26, 14
AHEAD, BEHIND, INK, GRID = "#2a7f62", "#b5651d", "#222222", "#d8d8d8"


@dataclass(frozen=True)
class Bar:
    """One line: what was done, beside whom, and how many times as much was done by us."""

    label: str
    ratio: float


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Take the rows that compare, the best first."""
    found = [
        Bar(f"{row.scenario.title.partition(';')[0]} | {row.scenario.peer.contender}", row.ratio)
        for row in rows
        if row.ratio and row.scenario.peer and row.target.figure == "jobs_per_second"
    ]
    return sorted(found, key=lambda bar: bar.ratio, reverse=True)


def svg(chosen: Sequence[Bar]) -> str:
    """Draw bars to the right of the line for 1 where we are ahead, else to its left.

    The scale is logarithmic, so that twice and half as fast look alike.
    """
    logs = [math.log2(bar.ratio) for bar in chosen]
    low, high = math.floor(min([0.0, *logs])), math.ceil(max([1.0, *logs]))

    def x(power: float) -> float:
        return LABELS + PLOT * (power - low) / (high - low)

    height = LINE * (len(chosen) + 1) + 20
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABELS + PLOT + MARGIN}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="{INK}">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for power in range(low, high + 1):
        colour = INK if power == 0 else GRID
        drawn += [
            f'<line x1="{x(power):.1f}" x2="{x(power):.1f}" y1="{LINE}" y2="{height - 12}" '
            f'stroke="{colour}"/>',
            f'<text x="{x(power):.1f}" y="{LINE - 8}" text-anchor="middle">{2.0**power:g}x</text>',
        ]
    for at, (bar, log) in enumerate(zip(chosen, logs, strict=True), start=1):
        middle, left, right = LINE * at + LINE / 2, x(min(0.0, log)), x(max(0.0, log))
        drawn += [
            f'<text x="{LABELS - 12}" y="{middle + 4}" text-anchor="end">'
            f"{escape(bar.label)}</text>",
            f'<rect x="{left:.1f}" y="{middle - BAR / 2}" width="{right - left:.1f}" '
            f'height="{BAR}" fill="{AHEAD if log >= 0 else BEHIND}"/>',
            f'<text x="{right + 6:.1f}" y="{middle + 4}">{bar.ratio:.2g}</text>',
        ]
    return "\n".join([*drawn, "</svg>", ""])
