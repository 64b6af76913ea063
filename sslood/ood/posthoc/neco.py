"""NECO (Ammar et al. 2024): share of the features within principal directions, times the largest logit."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.subspace import dimensions, eigenvectors, lengths_along
from sslood.ood.kit.fitting import Streaming, Sums, all_moments
from sslood.ood.kit.outputs import Outputs, chunks

CONSTANT = 1e-10  # a spread below this is rounding


@dataclass(frozen=True)
class NecoSettings(Settings):
    share: Annotated[float | Auto, inside(0, 1), "share of the feature dimensions that are principal"] = 0.2


class Neco(Streaming):
    """-max_c f_c * |P^T z| / |z|, z the features standardised on ID train, P its principal directions."""

    reads = ("features", "logits")
    Settings = NecoSettings
    space = {"share": (0.05, 0.1, 0.2, 0.4, 0.6)}

    def _gather(self, source: Outputs) -> Sums:
        return {"all": all_moments(source)}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        mean, moments = sums["all"].means[0], sums["all"].covariance
        std = np.sqrt(np.diag(moments))
        std = np.where(std < CONSTANT, 1.0, std)
        kept = dimensions(self.settings.share, len(mean))
        return {"mean": mean, "std": std, "basis": eigenvectors(moments / np.outer(std, std))[:, :kept]}

    def _score(self, outputs: Outputs) -> np.ndarray:
        mean, std, basis = (self.state[key] for key in ("mean", "std", "basis"))
        inside = lengths_along(outputs.features, mean, basis / std[:, None])
        rows = [np.linalg.norm((piece - mean) / std, axis=1) for piece in chunks(outputs.features)]
        whole = np.maximum(np.concatenate(rows), 1e-12)
        return -outputs.logits.max(axis=1).astype(np.float64) * inside / whole
