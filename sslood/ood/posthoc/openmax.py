"""OpenMax: probability of an unknown class, from how far the logits are from the mean of the likely classes.

Bendale and Boult: Towards Open Set Deep Networks, CVPR 2016, arXiv:1511.06233, algorithms 1 and 2.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.needs import LABELS
from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.products import length
from sslood.ood.kit.detector import Arrays, Tensors, check_counts
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class OpenMaxSettings(Settings):
    """Hyperparameters of OpenMax."""

    tail: Annotated[int | Auto, at_least(2), "largest distances of a class that its tail is fitted to"] = 20
    top: Annotated[int | Auto, at_least(1), "most likely classes whose logits are revised"] = 10


class OpenMax(Streaming):
    """v_0 - log sum_c exp v_c: log-odds of the unknown class among revised logits v.

    They rank as its probability, the paper's score, and do not saturate where that is near 1. v_c = f_c (1 -
    w_c) and v_0 = sum_c f_c w_c. Of the i-th likeliest class w is (1 - (i - 1) / m) F(d), m = min(top, K),
    but 0 from i = m + 1 on: d is the distance of the logits from the mean of that class, over its images
    that are classified correctly (or all, if none is), and F the distribution of its `tail` largest
    distances in ID train. The authors' F is a Weibull distribution that begins 10,000 below the tail. Its
    limit, to four digits, is a Gumbel distribution, which needs no such number: F is that.
    """

    piece = WHOLE
    needs = (LABELS,)
    reads = ("logits",)
    Settings = OpenMaxSettings
    space = {"tail": (10, 20, 50), "top": (1, 3, 10)}  # OpenOOD's 20 and 3, and about them

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "logits", "labels")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        logits, labels = sums["logits"].all.astype(np.float64), sums["labels"].all
        check_counts(np.bincount(labels, minlength=logits.shape[1]), source.name)
        right = logits.argmax(1) == labels
        means, tails = [], []
        for k in range(logits.shape[1]):
            rows = logits[(labels == k) & right] if (right & (labels == k)).any() else logits[labels == k]
            means.append(rows.mean(axis=0))
            distances = np.sort(np.linalg.norm(rows - means[-1], axis=1))
            tails.append(_gumbel(distances[-self.settings.tail :]))
        return {"means": np.stack(means), "tails": np.array(tails)}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        logits, count = parts["logits"], min(self.settings.top, parts["logits"].shape[1])
        order = logits.topk(count, dim=1).indices
        share = torch.arange(count, 0, -1, dtype=torch.float64, device=logits.device) / count
        weights = torch.zeros_like(logits).scatter(1, order, share.expand_as(order))
        far = torch.stack([length(logits - mean) for mean in state["means"]], 1)
        # F = 1 - exp(-exp u), u large far away
        u = ((far - state["tails"][:, 0]) / state["tails"][:, 1]).clamp(-700.0, 700.0)
        weights = weights * -torch.expm1(-u.exp())
        return (logits * weights).sum(1) - torch.logsumexp(logits * (1.0 - weights), 1)


def _gumbel(distances: np.ndarray) -> tuple[float, float]:
    """Return (location, scale) of the likeliest Gumbel distribution (of minima) of distances [n].

    Equal distances have no spread: theirs is a millionth of the distance, a step at it.
    """
    from scipy.stats import gumbel_l  # a quarter of a second that no other detector needs

    least = 1e-6 * max(float(distances.max()), np.finfo(np.float64).tiny)
    if np.ptp(distances) <= least:
        return float(distances.mean()), least
    unit = float(np.ptp(distances))
    location, scale = gumbel_l.fit(distances / unit)
    return float(location * unit), max(float(scale * unit), least)
