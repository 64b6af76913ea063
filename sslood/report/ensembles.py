"""What temperature, step and members change of a leave-out ensemble, as a figure."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from sslood.core.files import load_json
from sslood.report.figures import COLOURS, drawing, svg

LINES = {"predicted": "-", "entropy": "--"}  # of the target of the step


class Swept(NamedTuple):
    """An ensemble: the chosen setting, settings with their AUROC by set, AUROC by members, disagreement."""

    chosen: dict[str, Any]
    points: list[dict[str, Any]]
    members: list[dict[str, float]]
    disagreement: dict[str, dict[str, float]]


def read_sweeps(files: Iterable[Path]) -> dict[str, Swept]:
    """Return {ensemble: its sweep} of the results files that hold one."""
    found = {}
    for content in map(load_json, files):
        for model, own in content.get("sweep", {}).items():
            rows = content["models"][model]
            count = sum(name.removeprefix("eloc_").isdecimal() for name in rows)
            names = [f"eloc_{k}" for k in range(1, count + 1)] + ["eloc"]
            members = [{key: value["auroc"] for key, value in rows[name].items()} for name in names]
            found[model] = Swept(own["chosen"], own["points"], members, own["disagreement"])
    return found


def sweeps(found: Mapping[str, Swept], roles: Mapping[str, str], id_name: str) -> str:
    """Return an SVG with a row of four panels per ensemble.

    Mean AUROC of near and far sets against the step (at the chosen temperature), the temperature (at the
    chosen step) and the number of members; dotted: what was chosen. Then the mean share of the members that
    do not predict the class that most predict, by set.
    """
    with drawing() as figure:
        figure.set_size_inches(13, 2.6 * len(found) + 0.3)
        axes = figure.subplots(len(found), 4, squeeze=False)
        for row, (model, swept) in zip(axes, found.items(), strict=True):
            for axis, name in zip(row, ("epsilon", "temperature"), strict=False):
                _along(axis, swept, name, roles)
            _by_members(row[2], swept, roles)
            _disagreement(row[3], swept, id_name)
            row[0].set_ylabel(f"{model}\nAUROC in %")
        drawn = [axis.get_legend_handles_labels() for axis in axes[:, :2].flat]
        known = {
            label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)
        }
        if known:
            figure.legend(known.values(), known, loc="outside lower center", ncols=len(known), frameon=False)
        return svg(figure, "sweeps")


def _means(auroc: Mapping[str, float], roles: Mapping[str, str]) -> dict[str, float]:
    """Return {role: mean AUROC in %}."""
    groups: dict[str, list[float]] = {}
    for name, value in auroc.items():
        groups.setdefault(roles[name], []).append(100 * value)
    return {role: float(np.mean(groups[role])) for role in dict.fromkeys(roles.values()) if role in groups}


def _along(axis: Axes, swept: Swept, name: str, roles: Mapping[str, str]) -> None:
    """Draw AUROC against one part of the setting, the other as it was chosen; a line per role and target."""
    other = "temperature" if name == "epsilon" else "epsilon"
    points = [point for point in swept.points if point[other] == swept.chosen[other]]
    targets = dict.fromkeys([swept.chosen["target"], *(point["target"] for point in points)])
    for target in targets:
        own = [p for p in points if p["target"] == target or not p["epsilon"]]
        values = [(point[name], _means(point["auroc"], roles)) for point in own]
        for place, role in enumerate(values[0][1] if values else ()):
            label = f"{role}, step by {target}"
            across = [(x, means[role]) for x, means in sorted(values, key=lambda pair: pair[0])]
            colour = COLOURS[1 + place]
            style = LINES.get(target, ":")
            axis.plot(*zip(*across, strict=True), style, color=colour, marker=".", label=label, linewidth=1.2)
    axis.axvline(swept.chosen[name], color="#666666", linewidth=0.8, linestyle=":")
    axis.set(xlabel="step in pixels of [0, 1]" if name == "epsilon" else "temperature")
    if name == "temperature":
        axis.set_xscale("log")


def _by_members(axis: Axes, swept: Swept, roles: Mapping[str, str]) -> None:
    means = [_means(auroc, roles) for auroc in swept.members]
    for place, role in enumerate(means[0]):
        values = [own[role] for own in means]
        axis.plot(range(1, len(means) + 1), values, color=COLOURS[1 + place], marker=".", linewidth=1.2)
    axis.set(xlabel="members", xticks=range(1, len(means) + 1))


def _disagreement(axis: Axes, swept: Swept, id_name: str) -> None:
    names = [id_name, *(name for name in swept.disagreement if name != id_name)]
    values = [100 * swept.disagreement[name]["variation_ratio"] for name in names]
    colours = ["#999999", *[COLOURS[5]] * (len(names) - 1)]
    axis.barh(range(len(names)), values, color=colours)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="members against the majority, %")
