"""MC dropout: what a classifier says of an image while its units are dropped at random, again and again.

Gal and Ghahramani: Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep Learning,
ICML 2016, arXiv:1506.02142.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, at_least, inside
from sslood.ood.kit.committee import COMMITTEE
from sslood.ood.kit.drawing import RATE, drawn
from sslood.ood.kit.network_choice import choose
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress


@dataclass(frozen=True)
class MCDropoutSettings(Settings):
    """Hyperparameters of MC dropout."""

    draws: Annotated[int, at_least(2), "networks drawn, the same for all images"] = 30
    rate: Annotated[
        float, inside(0, 1), "share of the features dropped, of a network without dropout layers"
    ] = RATE
    score: Annotated[
        Literal["msp", "entropy", "mutual_information", "variation_ratio"] | Auto, "of the draws together"
    ] = "auto"


class MCDropout(NetworkDetector):
    """A score of the probabilities under all draws: minus the largest mean, entropy of the mean, mutual
    information or variation ratio.

    A draw drops the same units for all images, so that an image's score depends on no other image. It drops
    what the network's dropout layers drop in training or, if it has none, features before the classifier (as
    OpenOOD does for all networks); the theory is of networks that were trained with dropout.
    """

    reads = ("stages", "head")
    Settings = MCDropoutSettings
    space = {"score": tuple(COMMITTEE)}

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        if not self.fitted_on:
            return {}
        found = {split: self._all(network, images[split], progress) for split in self.fitted_on}

        def scores(settings: Any, split: str) -> np.ndarray:
            return found[split][settings.score]

        self.settings, self.chosen = choose(self.settings, self.space, scores)
        return {}

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return COMMITTEE[self.settings.score](self._drawn(network, batch))

    def _all(self, network: Network, images: np.ndarray, progress: Progress) -> dict[str, np.ndarray]:
        drawn = (self._drawn(network, batch) for batch in network.batches(images, progress))
        parts = [{name: score(one).cpu() for name, score in COMMITTEE.items()} for one in drawn]
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in COMMITTEE}

    def _drawn(self, network: Network, batch: Tensor) -> Tensor:
        return drawn(network, batch, self.settings.draws, self.settings.rate)
