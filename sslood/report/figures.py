"""Figures as SVG text: score distributions, ROC curves, training curves. Same input, same bytes, anywhere."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text: small files, searchable, the page's own font
    "svg.hashsalt": "sslood",  # stable element ids
    "font.family": "sans-serif",
}
# Okabe and Ito's palette: distinguishable with any colour vision
COLOURS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999999"]
WIDE = 40  # letters of a title that a panel has room for
ALARMS = 0.05  # share of ID beyond the dotted threshold


@contextmanager
def drawing() -> Iterator[Figure]:
    """Yield an empty figure in the style of the report."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        yield Figure(layout="constrained")


def svg(figure: Figure, name: str) -> str:
    """Return the SVG of a figure; `name` keeps its ids apart from those of other figures of the page.

    Coordinates are rounded to hundredths of a point, and ids, which matplotlib derives from unrounded ones,
    are numbered: matrix products differ in the last bit between processors.
    """
    text = StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()[text.getvalue().index("<svg") :]
    drawing = re.sub(r"<[^!>]*>", lambda tag: re.sub(r"-?\d+\.\d+", _shorter, tag[0]), drawing)
    names = dict.fromkeys(re.findall(r'\bid="([^"]+)"', drawing))
    new = {old: f"{name}-{place}" for place, old in enumerate(names, 1)}
    return re.sub(
        r'(\bid="|href="#|url\(#)([^")]+)', lambda match: match[1] + new.get(match[2], match[2]), drawing
    )


def _shorter(number: re.Match[str]) -> str:
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _grid(
    figure: Figure, count: int, height: float, *, sharex: bool = False, sharey: bool = False
) -> list[Axes]:
    """Return the axes of `count` panels of 3.6 x `height` inches, three in a row."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure.set_size_inches(3.6 * columns, height * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return list(axes.flat[:count])


def distributions(panels: Mapping[str, Mapping[str, np.ndarray]], id_name: str) -> str:
    """Return an SVG with one panel per key: how the scores of every set are distributed.

    `panels` maps a title to {set: scores [N]}, larger = more OOD. x: interquartile ranges of the ID scores
    above their median, on an asinh scale (linear near 0, logarithmic far out), since far sets lie orders of
    magnitude away. Each set is drawn to its own height. The dotted line is the threshold with 5 % false
    alarms; the number beside a set says how much of it lies to the right.
    """
    with drawing() as figure:
        names = list(next(iter(panels.values())))
        axes = _grid(figure, len(panels), 0.5 + 0.3 * len(names), sharey=True)
        for axis, (title, sets) in zip(axes, panels.items(), strict=True):
            _ridges(axis, sets, id_name)
            axis.set_title(_in_lines(title), fontsize=9)
        figure.supxlabel("score: ID interquartile ranges above the ID median", fontsize=9)
        return svg(figure, "distributions")


def _in_lines(title: str) -> str:
    """Return a title "model · detector" in two lines if it is wider than its panel."""
    return title if len(title) <= WIDE else title.replace(" · ", "\n")


def _ridges(axis: Axes, sets: Mapping[str, np.ndarray], id_name: str) -> None:
    finite = np.concatenate(list(sets.values()))
    finite = finite[np.isfinite(finite)] if np.isfinite(finite).any() else np.zeros(1)
    # infinite scores are drawn at the end of the finite ones
    sets = {name: np.clip(scores, finite.min(), finite.max()) for name, scores in sets.items()}
    low, middle, high = np.quantile(sets[id_name], [0.25, 0.5, 0.75])
    unit = high - low or np.std(sets[id_name]) or 1.0
    scaled = {name: np.arcsinh((scores - middle) / unit) for name, scores in sets.items()}
    first, last = (pick([pick(values) for values in scaled.values()]) for pick in (np.min, np.max))
    edges = np.linspace(first, last, 81) if last > first else np.linspace(first - 1, first + 1, 81)
    # the value that at most 5 % of ID lie above
    threshold = np.quantile(scaled[id_name], 1 - ALARMS, method="higher")
    others = [name for name in sets if name != id_name]
    for place, (name, values) in enumerate(scaled.items()):
        counts = np.histogram(values, edges)[0]
        colour = "#999999" if name == id_name else COLOURS[others.index(name) % len(COLOURS)]
        heights = -place + 0.85 * counts / counts.max()
        axis.stairs(heights, edges, baseline=-place, fill=True, color=colour)
        axis.text(
            1.01, -place, f"{100 * np.mean(values > threshold):.0f} %", transform=_beside(axis), fontsize=7
        )
    axis.axvline(threshold, color="#666666", linewidth=0.8, linestyle=":")
    axis.set_yticks([-place for place in range(len(sets))], list(sets))
    axis.tick_params(left=False)
    axis.spines["left"].set_visible(False)
    _asinh_ticks(axis, edges[0], edges[-1])


def _beside(axis: Axes) -> Any:
    return axis.get_yaxis_transform()  # x in parts of the panel, y in data


def _asinh_ticks(axis: Axes, first: float, last: float) -> None:
    """Label 0 and powers of ten, at most about six of them, on an axis that holds arcsinh of the value."""
    reach = int(np.log10(np.sinh(min(max(abs(first), abs(last)), 300.0)) + 1)) + 1
    powers = range(0, reach + 1, max(1, -(-reach // 5)))
    ticks = [sign * 10**power for sign in (-1, 1) for power in powers] + [0]
    shown = sorted(tick for tick in ticks if first <= np.arcsinh(float(tick)) <= last)
    axis.set_xticks(np.arcsinh(np.array(shown, float)), [_power(tick) for tick in shown])
    axis.set_xlim(first, last)


def _power(value: int) -> str:
    size = abs(value)
    text = f"{size}" if size <= 100 else f"1e{len(str(size)) - 1}"
    return f"−{text}" if value < 0 else text


def roc_panels(panels: Mapping[str, Mapping[str, np.ndarray]], id_name: str) -> str:
    """Return an SVG with one panel per key: the ROC curve of every OOD set against the ID test set.

    `panels` maps a title to {set: scores [N]}, larger = more OOD. x: share of ID that is flagged (false
    alarms), logarithmic, since that is where a threshold is chosen; y: share of the OOD set that is
    flagged. The dotted line marks 5 % false alarms.
    """
    with drawing() as figure:
        axes = _grid(figure, len(panels), 2.4, sharex=True, sharey=True)
        for index, (axis, (title, sets)) in enumerate(zip(axes, panels.items(), strict=True)):
            _roc(axis, sets, id_name)
            axis.set_title(_in_lines(title), fontsize=9)
            if index >= len(panels) - 3:
                axis.tick_params(labelbottom=True)
                axis.set_xlabel("share of ID flagged (false alarms)")
        figure.supylabel("share of OOD flagged", fontsize=9)
        _legend_below(figure, axes)
        return svg(figure, "roc")


def _legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put one legend for all panels under them, as many names in a row as fit."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    letters = max(map(len, handles), default=1)
    across = max(1, min(len(handles), int(figure.get_figwidth() / (0.45 + 0.075 * letters))))
    figure.set_figheight(figure.get_figheight() + 0.2 + 0.2 * -(-len(handles) // across))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=across, frameon=False)


def _roc(axis: Axes, sets: Mapping[str, np.ndarray], id_name: str) -> None:
    reference = np.sort(sets[id_name])
    alarms = np.geomspace(1 / len(reference), 1, 60)
    # the highest thresholds at which these shares of ID are flagged
    thresholds = reference[
        np.clip(np.floor(len(reference) * (1 - alarms)).astype(int), 0, len(reference) - 1)
    ]
    for index, name in enumerate(name for name in sets if name != id_name):
        ordered = np.sort(sets[name])
        caught = 1 - np.searchsorted(ordered, thresholds, side="left") / len(ordered)
        axis.plot(alarms, caught, color=COLOURS[index % len(COLOURS)], label=name, linewidth=1.3)
    axis.axvline(ALARMS, color="#666666", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", xlim=(alarms[0], 1), ylim=(0, 1.02))
    axis.set_xticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    axis.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])


def energies(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return an SVG with one panel per model: histograms of energies before and after a training.

    `panels` maps a model to {"edges": [B + 1], name of a histogram: counts [B]}. A histogram shows shares of
    its images; those called "… before" are outlines.
    """
    with drawing() as figure:
        axes = _grid(figure, len(panels), 2.4)
        for axis, (title, panel) in zip(axes, panels.items(), strict=True):
            names = dict.fromkeys(name.rsplit(" ", 1)[0] for name in panel if name != "edges")
            for name, counts in ((name, counts) for name, counts in panel.items() if name != "edges"):
                of, time = name.rsplit(" ", 1)
                colour, after = COLOURS[1 + list(names).index(of)], time == "after"
                heights = np.asarray(counts) / max(1, sum(counts))
                axis.stairs(
                    heights, panel["edges"], color=colour, fill=after, alpha=0.6 if after else 1, label=name
                )
            axis.set(xlabel="energy", title=title)
            axis.set_yticks([])
        _legend_below(figure, axes)
        return svg(figure, "energies")


def curves(runs: Mapping[str, Mapping[str, Sequence[float]]], wanted: Mapping[str, str]) -> str:
    """Return an SVG of training curves: one panel per {column: title} of `wanted`, one line per run.

    A run has the same colour in every panel.
    """
    panels = [name for name in wanted if any(name in run for run in runs.values())]
    colours = {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(runs)}
    with drawing() as figure:
        axes = _grid(figure, len(panels), 2.6)
        for axis, name in zip(axes, panels, strict=True):
            for label, run in runs.items():
                _curve(axis, run, name, label, colours[label])
            axis.set(xlabel="epoch", title=wanted[name])
        _legend_below(figure, axes)
        return svg(figure, "training")


def _curve(axis: Axes, run: Mapping[str, Sequence[float]], name: str, label: str, colour: str) -> None:
    # what is measured in some epochs only (kNN) is joined from one measurement to the next
    points = [(x, y) for x, y in zip(run["epoch"], run.get(name, []), strict=False) if not np.isnan(y)]
    if points:
        marker = "." if len(points) < len(run["epoch"]) or len(points) == 1 else None
        axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=label, linewidth=1)
