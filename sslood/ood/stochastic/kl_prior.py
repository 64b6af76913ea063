"""Divergence of an image's Gaussian from the prior."""

from dataclasses import dataclass

import numpy as np

from sslood.core.seeding import numpy_stream
from sslood.ood.geometry.gaussians import LOG_2PI, Laws, kl, log_density
from sslood.ood.geometry.prior import prior_state
from sslood.ood.kit.detector import Detector, positive
from sslood.ood.kit.outputs import Outputs, Prior

NUMBERS = 2**21  # of one block of draws: 16 MiB


@dataclass(frozen=True)
class KlPriorSettings:
    """samples: draws of each image where the prior is a mixture, whose divergence has no closed form."""

    samples: int = 256

    def __post_init__(self):
        positive("kl_prior", samples=self.samples)


class KlPrior(Detector):
    """KL(q_x || p) in nats, p the prior that the model was trained with; larger = more OOD.

    Training pays for each nat by which an embedding leaves the prior, so images of the data that were
    worth it lie far from p too: the sign is declared, and an AUROC below 0.5 tells of such a model.
    """

    reads = ("mu", "log_variance")
    Settings = KlPriorSettings

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        state = prior_state(source)
        if len(state["log_weights"]) > 1:
            # the same draws for every image: its score depends neither on the batch nor on the order
            size = (self.settings.samples, source.mu.shape[1])
            state["noise"] = numpy_stream(self.seed, "kl_prior").standard_normal(size)
        return state

    def _score(self, outputs: Outputs) -> np.ndarray:
        prior = Prior(*(self.state[part] for part in ("log_weights", "mu", "log_variance")))
        if "noise" not in self.state:
            laws = Laws.of(outputs.mu, outputs.log_variance), Laws.of(prior.mu, prior.log_variance)
            return kl(*laws).numpy()
        step = max(1, NUMBERS // self.state["noise"].size)
        starts = range(0, len(outputs), step)
        return np.concatenate([self._estimate(outputs, slice(i, i + step), prior) for i in starts])

    def _estimate(self, outputs: Outputs, rows: slice, prior: Prior) -> np.ndarray:
        """Return -H(q), exact, minus the mean of log p over the draws."""
        mu, log_variance = (part[rows].astype(np.float64) for part in (outputs.mu, outputs.log_variance))
        draws = mu[:, None] + np.exp(0.5 * log_variance)[:, None] * self.state["noise"]
        entropy = 0.5 * (log_variance + LOG_2PI + 1).sum(axis=1)
        return -entropy - log_density(draws, prior).mean(axis=1)
