"""The figure of what a factor of a sweep does, as SVG text."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from sslood.report.figures import COLOURS, drawing, svg


class Level(NamedTuple):
    """A level of a factor: its name, and the mean there with its spread, None if it is not known."""

    name: str
    mean: float
    spread: float | None = None


def levels(
    facets: Mapping[str, Mapping[str, Mapping[str, Sequence[Level]]]], factor: str, titles: Mapping[str, str]
) -> str:
    """Return an SVG of what a factor does: a column per facet, a row per panel, a line per detector.

    `facets` maps a facet ("" without any) to {panel: {line: its levels}}; titles: of panels that are not
    near or far AUROC. Bars are spreads. Levels that are numbers are joined by lines, names are not.
    """
    panels = list(dict.fromkeys(panel for found in facets.values() for panel in found))
    named = {
        panel: list(dict.fromkeys(x for own in facets.values() for x in own.get(panel, {})))
        for panel in panels
    }
    across = {facet: _in_order(found) for facet, found in facets.items()}  # panels of a column share its axis
    with drawing() as figure:
        most = max(map(len, across.values()))
        figure.set_size_inches(1.5 + max(2.6, 0.8 * most) * len(facets), 0.6 + 2.3 * len(panels))
        grid = figure.subplots(len(panels), len(facets), squeeze=False, sharex="col", sharey="row")
        for place, (row, panel) in enumerate(zip(grid, panels, strict=True)):
            for axis, (facet, found) in zip(row, facets.items(), strict=True):
                _panel(axis, found.get(panel, {}), named[panel], across[facet])
                axis.set_title("" if place else facet, fontsize=9)
            row[0].set_ylabel(f"{titles.get(panel, f'AUROC, {panel}')}, %")
            if not place or named[panel] != named[panels[place - 1]]:
                row[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7, frameon=False)
        for axis in grid[-1]:
            axis.set_xlabel(factor)
        return svg(figure, f"levels-{factor}")


def _in_order(panels: Mapping[str, Mapping[str, Sequence[Level]]]) -> list[str]:
    """Return the names of all levels in the order of the line that has most; what it lacks comes last."""
    lines = [points for found in panels.values() for points in found.values()]
    return list(dict.fromkeys(p.name for points in sorted(lines, key=len, reverse=True) for p in points))


def _panel(
    axis: Axes, lines: Mapping[str, Sequence[Level]], named: Sequence[str], names: Sequence[str]
) -> None:
    """Draw the lines of a panel, beside each other so that their bars do not hide one another.

    named: all lines of this panel in any facet; names: the levels, from left to right.
    """
    for place, line in enumerate(named):
        points = lines.get(line, [])
        style = ("-" if place < len(COLOURS) else "--") if all(map(_is_number, names)) else "none"
        axis.errorbar(
            [names.index(point.name) + 0.4 * ((place + 0.5) / len(named) - 0.5) for point in points],
            [100 * point.mean for point in points], yerr=[100 * (point.spread or 0.0) for point in points],
            color=COLOURS[place % len(COLOURS)], linestyle=style, linewidth=1, elinewidth=0.7,
            marker="." if place < len(COLOURS) else "x", markersize=5, label=line,
        )  # fmt: skip
    long = max(map(len, names), default=0) > 8
    axis.set_xticks(range(len(names)), list(names), rotation=20 * long, ha="right" if long else "center")
    axis.margins(x=0.1)
    axis.grid(axis="y", color="#eeeeee")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d[\d.]*(e-?\d+)?", text) is not None
