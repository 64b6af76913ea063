"""ViM, virtual-logit matching (Wang et al. 2022): residual of the features against the logits."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.special import logsumexp

from sslood.core.errors import InputError
from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.subspace import dimensions, eigenvectors, lengths_along
from sslood.ood.kit.fitting import Sums, TwoPass
from sslood.ood.kit.outputs import Head, Outputs


@dataclass(frozen=True)
class VimSettings(Settings):
    share: Annotated[float | Auto, inside(0, 1), "share of the feature dimensions that are principal"] = 0.5


class Vim(TwoPass):
    """alpha |R^T (z - o)| - log sum_c exp(f_c), ranked as the softmax of the virtual logit.

    o = -W^+ b is where all logits are zero; alpha = mean of max_c f_c over mean residual on ID train,
    which takes a second pass.
    """

    reads = ("features",)
    needs_head = True
    Settings = VimSettings
    space = {"share": (0.1, 0.25, 0.5, 0.75, 0.9)}

    def _gather(self, source: Outputs) -> Sums:
        count = np.array(len(source))
        if self.found is not None:
            lengths = lengths_along(source.features, self.found["origin"], self.found["basis"])
            return {"residual": lengths.sum(), "count": count}
        largest = source.head.logits(source.features).max(axis=1)
        shifted = source.features.astype(np.float64) - _origin(source.head)
        return {"moments": shifted.T @ shifted, "logit": largest.sum(), "count": count}

    def _between(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        kept = dimensions(self.settings.share, len(sums["moments"]))
        basis = eigenvectors(sums["moments"] / sums["count"])[:, kept:]
        return {
            "origin": _origin(source.head),
            "basis": basis,
            "logit": sums["logit"],
            "count": sums["count"],
        }

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        if not sums["residual"] > 0:
            raise InputError(f"{source.name}: the features have no residual; lower vim.share")
        learned = {key: self.found[key] for key in ("origin", "basis")}
        alpha = np.array([self.found["logit"] / sums["residual"]])
        return {"weight": source.head.weight.astype(np.float64), "bias": source.head.bias.astype(np.float64),
                **learned, "alpha": alpha}  # fmt: skip

    def _score(self, outputs: Outputs) -> np.ndarray:
        state = self.state
        virtual = state["alpha"] * lengths_along(outputs.features, state["origin"], state["basis"])
        logits = Head(state["weight"], state["bias"]).logits(outputs.features)
        return virtual - logsumexp(logits, axis=1)


def _origin(head: Head) -> np.ndarray:
    """Return -W^+ b: float64 [D]."""
    return -np.linalg.pinv(head.weight.astype(np.float64)) @ head.bias.astype(np.float64)
