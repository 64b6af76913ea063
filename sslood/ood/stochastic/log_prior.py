"""Density of the prior at the embedding's mean."""

from torch import Tensor

from sslood.ood.geometry.gaussians import log_density, prior_state
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs


class LogPrior(Detector):
    """-log p(mu) in nats, p the prior that the model was trained with: the less likely, the more OOD."""

    reads = ("mu", "log_variance")

    def _fit(self, source: Outputs) -> Arrays:
        return prior_state(source)

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return -log_density(parts["mu"], state)
