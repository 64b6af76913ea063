"""ViM, virtual-logit matching (Wang et al. 2022): residual of the features against the logits."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stages.core.errors import InputError
from stages.ood.detector import Detector, fraction
from stages.ood.outputs import Head, Outputs
from stages.ood.subspace import dimensions, eigenvectors, lengths_along, second_moments


@dataclass(frozen=True)
class VimSettings:
    """share: of the feature dimensions that count as principal; the paper keeps half of small widths."""

    share: float = 0.5

    def __post_init__(self):
        fraction("vim", share=self.share)


class Vim(Detector):
    """alpha |R^T (z - o)| - log sum_c exp(f_c), ranked as the softmax of the virtual logit.

    o = -W^+ b is where all logits are zero; alpha = mean of max_c f_c over mean residual on ID train.
    """

    reads = ("features",)
    needs_head = True
    Settings = VimSettings
    space = {"share": (0.1, 0.25, 0.5, 0.75, 0.9)}

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        weight, bias = source.head.weight.astype(np.float64), source.head.bias.astype(np.float64)
        origin = -np.linalg.pinv(weight) @ bias
        kept = dimensions(self.settings.share, len(origin))
        basis = eigenvectors(second_moments(source.features, origin))[:, kept:]
        residual = lengths_along(source.features, origin, basis).mean()
        if not residual > 0:
            raise InputError(f"{source.name}: the features have no residual; lower vim.share")
        alpha = source.head.logits(source.features).max(axis=1).mean() / residual
        return {"weight": weight, "bias": bias, "origin": origin, "basis": basis, "alpha": np.array([alpha])}

    def _score(self, outputs: Outputs) -> np.ndarray:
        state = self.state
        virtual = state["alpha"] * lengths_along(outputs.features, state["origin"], state["basis"])
        logits = Head(state["weight"], state["bias"]).logits(outputs.features)
        return virtual - logsumexp(logits, axis=1)
