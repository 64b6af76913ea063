"""Energies before and after a training against outliers: what tables and figures show, and a warning."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslood.core.rounding import decimal
from sslood.nets.methods.energy import energy, quantiles
from sslood.nets.methods.outliers import Outliers

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles that tables show
BINS = 40  # of the histograms
REACHED = 0.1  # a margin is reached where the median is within this share of the gap from it
Energies = dict[str, Tensor]


def energies_of(task: Outliers) -> Energies:
    """Return energies, float64 [N], of clean images of ID validation, the auxiliary and the tuning set."""
    sets = {"validation": task.validation.images, "auxiliary": task.outliers.images, "tuning": task.tuning}
    return {name: energy(task.predict(images)).cpu().double() for name, images in sets.items()}


def unreached(
    margins: Mapping[str, Any], after: Energies, own: tuple[float, float], *, fresh_head: bool = False
) -> str:
    """Return which margins the median energies did not come near to, and what to do; "" if they did.

    margins: with m_in, m_out and `margins`, whether they are fixed, or {}; own: those of the setting auto. Of
    a fresh head these are no measured energies, and what does not reach them has mostly not learned enough.
    """
    if not margins:
        return ""
    m_in, m_out = margins["m_in"], margins["m_out"]
    near, half = REACHED * (m_out - m_in), torch.tensor([0.5], dtype=torch.float64)
    inside, outside = (quantiles(after[name], half).item() for name in ("validation", "auxiliary"))
    sides = [f"of ID validation stays at {inside:.4g}, above m_in {m_in:.4g}"] * (inside > m_in + near)
    sides += [f"of the outliers stays at {outside:.4g}, below m_out {m_out:.4g}"] * (outside < m_out - near)
    if not sides:
        return ""
    proposed = f"m_in {own[0]:.4g}, m_out {own[1]:.4g}"
    if not fresh_head:
        ways = [
            "train longer",
            f"use margins that the network's own energies propose (margins: auto, gap: 0): {proposed}",
        ]
    else:
        ways = ["the head was new: train longer (epochs), at a higher rate (lr), or from a classifier"]
        if margins["margins"] == "fixed":
            ways.append(f"use the margins of a new head (margins: auto): {proposed}")
    return f"the median energy {' and '.join(sides)}; {', or '.join(ways)}"


def before_and_after(before: Energies, after: Energies) -> dict[str, Any]:
    """Return means, quantiles (at `levels`) and histograms (between `edges`) of energies, for a JSON file."""
    everything = torch.cat([*before.values(), *after.values()])
    low, high = decimal(everything.min().item(), 4), decimal(everything.max().item(), 4)
    edges, levels = np.linspace(low, high, BINS + 1), torch.tensor(LEVELS, dtype=torch.float64)

    def numbers(values: Tensor) -> dict[str, Any]:
        return {
            "n": len(values),
            "mean": decimal(values.mean().item()),
            "quantiles": [decimal(value) for value in quantiles(values, levels).tolist()],
            "counts": np.histogram(np.clip(values.numpy(), low, high), edges)[0].tolist(),
        }

    times = {"before": before, "after": after}
    found = {time: {name: numbers(values) for name, values in sets.items()} for time, sets in times.items()}
    return {"levels": list(LEVELS), "edges": [decimal(edge) for edge in edges.tolist()], **found}
