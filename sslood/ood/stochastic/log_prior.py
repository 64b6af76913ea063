"""Density of the prior at the embedding's mean."""

import numpy as np

from sslood.ood.geometry.gaussians import log_density
from sslood.ood.geometry.prior import prior_state
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Outputs, Prior, chunks


class LogPrior(Detector):
    """-log p(mu) in nats, p the prior that the model was trained with: the less likely, the more OOD."""

    reads = ("mu", "log_variance")

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        return prior_state(source)

    def _score(self, outputs: Outputs) -> np.ndarray:
        prior = Prior(**self.state)
        return -np.concatenate([log_density(mu.astype(np.float64), prior) for mu in chunks(outputs.mu)])
