"""pNML: regret of the predictive normalised maximum likelihood of the classifier's last layer.

Bibas, Feder and Hassner: Single Layer Predictive Normalized Maximum Likelihood for Out-of-Distribution
Detection, NeurIPS 2021, arXiv:2110.09246, eq. 11.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import LeftOut
from sslood.core.rows import unit_rows
from sslood.core.settings import Settings, at_least
from sslood.ood.geometry.logits import head_logits, head_state, log_probability_and_rest
from sslood.ood.geometry.products import length, product
from sslood.ood.geometry.subspace import DUST
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import Streaming, Sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class PNMLSettings(Settings):
    """Hyperparameters of pNML."""

    ridge: Annotated[
        float, at_least(0), "share of the mean eigenvalue below which a direction counts as never seen"
    ] = 1e-10


class PNML(Streaming):
    """log sum_c p_c / (p_c + (1 - p_c) p_c^kappa), n = z / |z| and p = softmax(W n + b).

    It is returned as log(1 + x), x what the sum is above 1, to all digits: of a sure classifier x may be
    1e-28, and images still differ. Only where x is no float64 (1e-308) are they tied, at 0.

    kappa = n^T G n / (1 + n^T G n), G the pseudoinverse of X^T X, X the directions of ID train. Of an n that
    leaves the span of X, by more than `ridge` of its squared length, kappa is 1: the limit of that with
    G = (X^T X + lambda I)^-1 as lambda goes to 0. The pseudoinverse would count what is new as nothing.
    """

    reads = ("features",)
    needs_head = True
    least_classes = 2  # a single class has no regret
    Settings = PNMLSettings

    def _gather(self, source: Outputs) -> Sums:
        rows = unit_rows(source.need("features").astype(np.float64))
        return {"gram": rows.T @ rows}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        values, vectors = np.linalg.eigh(sums["gram"])
        seen = values > max(self.settings.ridge * values.mean(), 0.0)
        if not seen.any():
            raise LeftOut("all features are zero, so no direction was ever seen", f"{source.name}: ")
        return {**head_state(source.need_head()), "root": vectors[:, seen] / np.sqrt(values[seen])}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = unit_rows(parts["features"])
        logits = head_logits(state, rows)
        square = (product(rows, state["root"]) ** 2).sum(1, keepdim=True)
        if state["root"].shape[1] < state["root"].shape[0]:  # else there is no direction outside
            square = torch.where(self._is_new(rows, state["root"]), torch.inf, square)
        logs, rest = log_probability_and_rest(logits)
        power = rest - logs / (1.0 + square)  # a term is 1 / (1 + (1 - p) p^(kappa - 1)), this its logarithm
        term = torch.exp(-power.clamp_min(0.0) - torch.log1p(torch.exp(-power.abs())))
        kappa = 1.0 / (1.0 + 1.0 / square)
        # the p sum to 1, and a term is above its p by term (1 - p) (1 - p^kappa): nothing cancels
        return torch.log1p((term * rest.exp() * -torch.expm1(kappa * logs)).sum(1))

    def _is_new(self, rows: Tensor, root: Tensor) -> Tensor:
        """Return which unit rows [n, D] leave the span of root's columns, orthogonal [D, d]: bool [n, 1]."""
        basis = root / length(root.T)
        outside = rows - product(product(rows, basis), basis.T)
        return length(outside)[:, None] > max(self.settings.ridge**0.5, DUST)
