"""NECO (Ammar et al. 2024): share of the features within principal directions, times the largest logit."""

from dataclasses import dataclass

import numpy as np

from stages.ood.detector import Detector, fraction
from stages.ood.outputs import Outputs
from stages.ood.subspace import dimensions, eigenvectors, lengths_along

CONSTANT = 1e-10  # a spread below this is rounding


@dataclass(frozen=True)
class NecoSettings:
    """share: of the feature dimensions that count as principal."""

    share: float = 0.2

    def __post_init__(self):
        fraction("neco", share=self.share)


class Neco(Detector):
    """-max_c f_c * |P^T z| / |z|, z the features standardised on ID train, P its principal directions."""

    reads = ("features", "logits")
    Settings = NecoSettings

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        mean = source.features.mean(axis=0, dtype=np.float64)
        std = source.features.std(axis=0, dtype=np.float64)
        std = np.where(std < CONSTANT, 1.0, std)
        rows = (source.features - mean) / std
        kept = dimensions(self.settings.share, len(mean))
        return {"mean": mean, "std": std, "basis": eigenvectors(rows, np.zeros(len(mean)))[:, :kept]}

    def _score(self, outputs: Outputs) -> np.ndarray:
        rows = (outputs.features - self.state["mean"]) / self.state["std"]
        whole = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
        inside = lengths_along(rows, np.zeros(rows.shape[1]), self.state["basis"])
        return -outputs.logits.max(axis=1).astype(np.float64) * inside / whole
