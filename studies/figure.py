"""The figure of a study: AUROC of each model by the detectors with a column of their own, near and far."""

from collections.abc import Sequence

import pandas as pd

from sslood.report.figures import COLOURS, drawing, svg

ROW = 0.24  # inches
MARKERS = "osD^vP*X"


def near_and_far(groups: pd.DataFrame, detectors: Sequence[str]) -> str:
    """Return an SVG: a row per part and model, a mark per detector with its interval over images."""
    groups = groups[groups["detector"].isin(detectors)]
    models = list(dict.fromkeys(zip(groups["part"], groups["model"], strict=True)))
    roles = [role for role in ("near", "far") if role in set(groups["role"])]
    if not models:
        return ""
    with drawing() as figure:
        figure.set_size_inches(4.6 * len(roles) + 1.4, 1.0 + ROW * len(models) * 1.3)
        axes = figure.subplots(1, len(roles), sharey=True, squeeze=False)[0]
        for axis, role in zip(axes, roles, strict=True):
            for place, name in enumerate(detectors):
                if name not in set(groups["detector"]):
                    continue  # it would be in the legend without a mark
                rows = groups[(groups["detector"] == name) & (groups["role"] == role)]
                heights = [models.index(key) + (place - 3) * 0.1
                           for key in zip(rows["part"], rows["model"], strict=True)]  # fmt: skip
                middle = 100 * rows["auroc"]
                wide = [(middle - 100 * rows["low"]).fillna(0), (100 * rows["high"] - middle).fillna(0)]
                axis.errorbar(middle, heights, xerr=wide, fmt=MARKERS[place], ms=4, lw=0.8,
                              color=COLOURS[place], label=name)  # fmt: skip
            axis.set_title(f"{role}-OOD", loc="left")
            axis.set_xlabel("AUROC in %")
            axis.grid(axis="y", lw=0.3)
        axes[0].set_yticks(range(len(models)), [f"{part} · {model}" for part, model in models])
        axes[0].set_ylim(len(models) - 0.4, -0.6)  # from the top, without the empty rows of a long list
        columns = 4 * len(roles)  # as many as the figure is wide
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        return svg(figure, "study")
