"""Figures as SVG text: ROC curves and training curves. Same input, same bytes."""

from collections.abc import Mapping, Sequence
from io import StringIO

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend has to be chosen first)
import numpy as np  # noqa: E402

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text: small files, searchable, the page's own font
    "svg.hashsalt": "sslood",  # stable element ids
    "font.family": "sans-serif",
}
# Okabe and Ito's palette: told apart with any colour vision
COLOURS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999999"]


def _svg(figure) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def roc_panels(panels: Mapping[str, Mapping[str, np.ndarray]], id_name: str) -> str:
    """Return an SVG with one panel per key: the ROC curve of every OOD set against the ID test set.

    `panels` maps a title to {set: scores [N]}, larger = more OOD. x: share of ID that is flagged (false
    alarms), logarithmic, since that is where a threshold is chosen; y: share of the OOD set that is
    flagged. The dotted line marks 5 % false alarms.
    """
    with plt.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        names = len(next(iter(panels.values()))) - 1
        across = min(names, 2 * columns + 1)  # so many names fit side by side
        size = (3.6 * columns, 2.4 * rows + 0.2 + 0.2 * -(-names // across))
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, sets) in zip(axes.flat, panels.items(), strict=False):
            _roc(axis, sets, id_name)
            axis.set_title(title, fontsize=9)
        for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
            axis.set_xlabel("share of ID flagged (false alarms)")
            axis.tick_params(labelbottom=True)
        figure.supylabel("share of OOD flagged", fontsize=9)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=across, frameon=False)
        return _svg(figure)


def _roc(axis, sets: Mapping[str, np.ndarray], id_name: str) -> None:
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
    axis.axvline(0.05, color="#666666", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", xlim=(alarms[0], 1), ylim=(0, 1.02))
    axis.set_xticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    axis.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])


def curves(runs: Mapping[str, Mapping[str, Sequence[float]]], wanted: Sequence[str]) -> str:
    """Return an SVG of training curves: one panel per quantity of `wanted`, one line per run."""
    panels = [name for name in wanted if any(name in run for run in runs.values())]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 2.6), squeeze=False)
        for axis, name in zip(axes.flat, panels, strict=True):
            shown = [(label, run) for label, run in runs.items() if name in run]
            for index, (label, run) in enumerate(shown):
                # what is measured in some epochs only (kNN) is joined from one measurement to the next
                points = [(x, y) for x, y in zip(run["epoch"], run[name], strict=True) if not np.isnan(y)]
                marker = "." if len(points) < len(run["epoch"]) else None
                colour = COLOURS[index % len(COLOURS)]
                axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=label, linewidth=1)
            axis.set(xlabel="epoch", title=name.replace("_", " "))
            axis.legend(frameon=False, fontsize=7)
        return _svg(figure)
