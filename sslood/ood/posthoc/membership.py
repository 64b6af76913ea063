"""Energy and class membership, the latter by the features outside the directions of the classifier.

Our reading of CORE (2026, arXiv:2603.18290), of which the abstract alone was at hand: so it has a name of
its own.
"""

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import LeftOut
from sslood.core.needs import LABELS
from sslood.core.rows import unit_rows
from sslood.ood.geometry.logits import free_energy, head_logits, head_state
from sslood.ood.geometry.products import product
from sslood.ood.geometry.standard import usable_spread
from sslood.ood.kit.detector import Arrays, Tensors, check_counts
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, class_sums, collected
from sslood.ood.kit.outputs import Outputs, chunks


class Membership(Streaming):
    """Energy minus cos(r, m_c*), each standardised on ID train; c* is the predicted class.

    r are the features without their part in the span of the classifier's weights, m_c the mean of r over ID
    train images of class c. Fitting needs all features: N * D * 4 bytes.
    """

    piece = WHOLE
    needs = (LABELS,)
    reads = ("features",)
    needs_head = True

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "features", "labels")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        state, features, labels = head_state(source.need_head()), sums["features"].all, sums["labels"].all
        _, values, directions = np.linalg.svd(state["weight"])
        rank = int((values > values.max() * 1e-12).sum())
        if rank == len(directions):
            raise LeftOut(
                f"the classifier's weights span all {rank} dimensions of the features, so nothing lies "
                "outside of them",
                f"{source.name}: ",
            )
        state["rest"] = np.ascontiguousarray(directions[rank:].T)
        means = np.zeros((max(source.need_classes(), len(state["weight"])), len(directions) + 1))
        for rows, of in zip(chunks(features), chunks(labels), strict=True):
            means += class_sums(rows, of, len(means))
        check_counts(means[: source.need_classes(), -1], source.name)
        state["members"] = unit_rows(means[:, :-1] / np.maximum(means[:, -1:], 1) @ state["rest"])
        tensors = {key: torch.from_numpy(array) for key, array in state.items()}
        both = np.concatenate(
            [_parts(torch.from_numpy(rows.astype(np.float64)), tensors).numpy() for rows in chunks(features)]
        )
        centre = both.mean(axis=0)
        spread = usable_spread(both.std(axis=0), np.maximum(np.abs(centre), 1.0))
        return {**state, "centre": centre, "spread": spread}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return ((_parts(parts["features"], state) - state["centre"]) / state["spread"]).sum(1)


def _parts(rows: Tensor, state: Tensors) -> Tensor:
    """Return the energy and -cos(r, m_c*) of rows [n, D]: [n, 2]."""
    rest = unit_rows(product(rows, state["rest"]))
    member = state["members"][head_logits(state, rows).argmax(1)]
    return torch.stack([free_energy(state, rows), -(rest * member).sum(1)], 1)
