"""Figures as SVG text: score histograms, ROC curves, training curves. Same input, same bytes."""

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


def histograms(panels: Mapping[str, Mapping[str, np.ndarray]], id_name: str) -> str:
    """Return an SVG with one panel per key: the score densities of the ID test set and every OOD set.

    `panels` maps a title to {set: scores [N]}, larger = more OOD. The x axis is the ID test
    quantile (0 to 1, right of 0.95 = what a 5 % false-alarm threshold flags), so that detectors of
    any scale can be compared.
    """
    with plt.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.4 * rows), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, sets) in zip(axes.flat, panels.items(), strict=False):
            _ranks(axis, sets, id_name)
            axis.set_title(title, fontsize=9)
        axes.flat[0].set_ylabel("share of the set")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), frameon=False)
        return _svg(figure)


def _ranks(axis, sets: Mapping[str, np.ndarray], id_name: str) -> None:
    reference = np.sort(sets[id_name])
    levels = np.linspace(0, 1, 21)
    ordered = [id_name, *(name for name in sets if name != id_name)]
    for index, name in enumerate(ordered):
        rank = np.searchsorted(reference, sets[name], side="right") / len(reference)
        share = np.histogram(rank, bins=levels)[0] / len(rank)
        colour = COLOURS[index % len(COLOURS)]
        axis.stairs(
            share,
            levels,
            color=colour,
            label=name,
            fill=name == id_name,
            alpha=0.35 if name == id_name else 1,
        )
    axis.axvline(0.95, color="#666666", linewidth=0.8, linestyle=":")
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="quantile among ID test scores")


def curves(runs: Mapping[str, Mapping[str, Sequence[float]]], wanted: Sequence[str]) -> str:
    """Return an SVG of training curves: one panel per quantity of `wanted`, one line per run."""
    panels = [name for name in wanted if any(name in run for run in runs.values())]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 2.6), squeeze=False)
        for axis, name in zip(axes.flat, panels, strict=True):
            shown = [(label, run) for label, run in runs.items() if name in run]
            for index, (label, run) in enumerate(shown):
                axis.plot(
                    run["epoch"], run[name], color=COLOURS[index % len(COLOURS)], label=label, linewidth=1
                )
            axis.set(xlabel="epoch", title=name.replace("_", " "))
            axis.legend(frameon=False, fontsize=7)
        return _svg(figure)
