"""Weighted energy: free energy in which each class has a weight.

Du, Wang, Cai and Li: VOS: Learning What You Don't Know by Virtual Outlier Synthesis, ICLR 2022,
arXiv:2202.01197, eq. 6. There the weights are trained with the network. For a network that was trained
without them they are ours: those that even out the classes.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.needs import LABELS
from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.products import number
from sslood.ood.kit.detector import Arrays, Tensors, check_counts, known_labels
from sslood.ood.kit.fitting import Streaming, Sums, class_sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class WeightedEnergySettings(Settings):
    """Hyperparameters of the weighted energy."""

    strength: Annotated[
        float | Auto, inside(0, 1.01), "share of the differences between classes that is evened out"
    ] = 0.5


class WeightedEnergy(Streaming):
    """-log sum_c w_c exp(f_c(x)), log w_c = strength (E_c - mean of E), E_c the mean energy of ID train
    images of class c.

    A class with large logits, and so a low energy, hides what resembles it: at strength 1 its weight takes
    away what its images have more than others.
    """

    reads = ("logits",)
    needs = (LABELS,)
    Settings = WeightedEnergySettings
    space = {"strength": (0.25, 0.5, 0.75, 1.0)}  # our own

    def _gather(self, source: Outputs) -> Sums:
        logits = torch.from_numpy(source.need("logits").astype(np.float64))
        energies = -torch.logsumexp(logits, 1, keepdim=True).numpy()
        count = max(source.need_classes(), logits.shape[1])
        return {"energies": class_sums(energies, known_labels(source), count)}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        energies, counts = sums["energies"].T
        check_counts(counts, source.name)
        means = energies / counts
        return {"log_weights": means - means.mean()}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        weights = number(self.settings.strength) * state["log_weights"][: parts["logits"].shape[1]]
        return -torch.logsumexp(parts["logits"] + weights, 1)
