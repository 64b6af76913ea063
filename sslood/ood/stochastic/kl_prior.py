"""Divergence of an image's Gaussian from the prior."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from sslood.core.seeding import numpy_stream
from sslood.core.settings import Settings, at_least
from sslood.ood.geometry.gaussians import LOG_2PI, DiagonalGaussians, kl, log_density, prior_state
from sslood.ood.geometry.products import number
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs

STEP = 16  # draws at a time, so that a block of images fits the memory


@dataclass(frozen=True)
class KLPriorSettings(Settings):
    """Hyperparameters of the divergence from the prior."""

    samples: Annotated[
        int, at_least(1), "draws per image where the prior is a mixture, whose divergence has no closed form"
    ] = 256


class KLPrior(Detector):
    """KL(q_x || p) in nats, p the prior that the model was trained with; larger = more OOD.

    Training pays for each nat by which an embedding leaves the prior, so images of the training data may lie
    far from p too. The sign is fixed in advance, and an AUROC below 0.5 shows such a model.
    """

    reads = ("mu", "log_variance")
    Settings = KLPriorSettings

    def _fit(self, source: Outputs) -> Arrays:
        state = prior_state(source)
        if len(state["prior_log_weights"]) > 1:
            # the same draws for every image: its score depends neither on the batch nor on the order
            size = (self.settings.samples, source.need("mu").shape[1])
            state["noise"] = numpy_stream(self.seed, "kl_prior").standard_normal(size)
        return state

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        if "noise" not in state:
            prior = DiagonalGaussians(state["prior_mu"], state["prior_log_variance"])
            return kl(DiagonalGaussians.of(parts), prior)
        # -H(q), exact, minus the mean of log p over the draws
        entropy = 0.5 * (parts["log_variance"] + number(LOG_2PI + 1)).sum(1)
        spread = (0.5 * parts["log_variance"]).exp()
        total = torch.zeros_like(entropy)
        for noise in state["noise"].split(STEP):
            total = total + log_density(parts["mu"][:, None] + spread[:, None] * noise, state).sum(1)
        return -entropy - total / len(state["noise"])
