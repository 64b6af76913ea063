"""ViM, virtual-logit matching: residual of the features against the logits.

Wang, Li, Feng and Zhang: ViM: Out-Of-Distribution with Virtual-logit Matching, CVPR 2022, arXiv:2203.10807.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import LeftOut
from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.logits import free_energy, head_logits, head_state
from sslood.ood.geometry.subspace import dimensions, directions, lengths_along
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs, chunks


@dataclass(frozen=True)
class ViMSettings(Settings):
    """Hyperparameters of ViM."""

    share: Annotated[
        float | Auto,
        inside(0, 1),
        "share of the feature dimensions that count as principal; the paper keeps half",
    ] = 0.5


class ViM(Streaming):
    """alpha |R^T (z - o)| - log sum_c exp(f_c), ranked as the softmax of the virtual logit.

    R are the directions of least variance about o = -W^+ b, where all logits are zero; alpha = mean of
    max_c f_c over mean residual on ID train. So fitting needs all features: N * D * 4 bytes.
    """

    piece = WHOLE
    reads = ("features",)
    needs_head = True
    Settings = ViMSettings
    space = {"share": (0.1, 0.25, 0.5, 0.75, 0.9)}  # our own, about the paper's half

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "features")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        head, features = head_state(source.need_head()), sums["features"].all
        origin = -np.linalg.pinv(head["weight"]) @ head["bias"]
        moments = np.zeros((len(origin), len(origin)))
        for rows in chunks(features):
            shifted = rows.astype(np.float64) - origin
            moments += shifted.T @ shifted / len(features)
        count = dimensions(self.settings.share, len(origin))
        _, basis = directions(moments, count, float(origin @ origin + np.trace(moments)))
        state = {**head, "origin": origin, "basis": basis}
        return {**state, "alpha": np.array([_alpha(features, state, source.name)])}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        virtual = lengths_along(parts["features"], state["origin"], state["basis"])
        return state["alpha"] * virtual + free_energy(state, parts["features"])


def _alpha(features: np.ndarray, state: Arrays, name: str) -> float:
    """Return the sum of the largest logits over that of the residuals; LeftOut unless both are above 0."""
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    logits = residual = 0.0
    for piece in chunks(features):
        rows = torch.from_numpy(piece.astype(np.float64))
        logits += float(head_logits(tensors, rows).amax(1).sum())
        residual += float(lengths_along(rows, tensors["origin"], tensors["basis"]).sum())
    if not residual > 0:
        raise LeftOut(f"{name}: the features have no residual; lower vim.share")
    if not logits > 0:
        raise LeftOut(
            f"the largest logits are {logits / len(features):.4g} on average; unless that is above 0, "
            "a large residual would count as ID",
            f"{name}: ",
        )
    return logits / residual
