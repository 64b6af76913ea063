"""ODIN: temperature, and a step towards the predicted class.

Liang, Li and Srikant: Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks,
ICLR 2018, arXiv:1706.02690.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, above, at_least
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened
from sslood.ood.kit.perturbation import choose_epsilon, gradient_sign, perturb
from sslood.ood.kit.tempered import largest_above_uniform


@dataclass(frozen=True)
class ODINSettings(Settings):
    """Hyperparameters of ODIN."""

    temperature: Annotated[float, above(0), "temperature T of the logits; the paper uses 1000"] = 1000.0
    epsilon: Annotated[float | Auto, at_least(0), "step towards the predicted class, in pixels of [0, 1]"] = (
        "auto"
    )


class ODIN(NetworkDetector):
    """1 / K - max_c softmax(f(x') / T) for x' = x - epsilon sign(gradient at x of CE(f(x) / T, argmax f(x))).

    Fitting replaces an epsilon that is "auto" by the value of `space` with the highest AUROC for ID
    validation against the tuning images, the smallest of equals.
    """

    reads = ("gradients",)
    Settings = ODINSettings
    space = {"epsilon": (0.0, 0.001, 0.002, 0.004)}  # the range of the paper's grid of 21 values

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        if self.settings.epsilon != "auto":
            return {}
        epsilons = self.space["epsilon"]
        inside, outside = (
            np.concatenate(
                [
                    torch.stack(self._stepped(network, batch, epsilons), 1).cpu().numpy()
                    for batch in network.batches(images[split], progress)
                ]
            )
            for split in self.fitted_on
        )
        epsilon, candidates = choose_epsilon(epsilons, inside.T, outside.T)
        source = "highest AUROC for ID validation against tuning"
        self.chosen = {"epsilon": {"value": epsilon, "source": source, "candidates": candidates}}
        self.settings = replace(self.settings, epsilon=epsilon)
        return {}

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return self._stepped(network, batch, [self.settings.epsilon])[0]

    def _stepped(self, network: Network, batch: Tensor, epsilons: Sequence[float]) -> list[Tensor]:
        """Return the score [N] of each epsilon; the gradient is computed once, and not for 0 alone."""
        if not any(epsilons):
            return [self._largest(network, batch)] * len(epsilons)
        sign, _ = gradient_sign(network.need_gradients(), batch, self.settings.temperature)
        return [self._largest(network, perturb(batch, sign, epsilon, network.std)) for epsilon in epsilons]

    @torch.inference_mode()
    def _largest(self, network: Network, batch: Tensor) -> Tensor:
        logits = widened(network.need_gradients()(batch))
        return -largest_above_uniform(logits, self.settings.temperature)
