"""ODIN: temperature, and a step towards the predicted class.

Liang, Li and Srikant: Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks,
ICLR 2018, arXiv:1706.02690.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.settings import Settings, above, at_least
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened
from sslood.ood.kit.perturbation import best_epsilon, gradient_sign, perturb


@dataclass(frozen=True)
class ODINSettings(Settings):
    """Hyperparameters of ODIN; the paper's grid of epsilons has 21 values up to 0.004."""

    temperature: Annotated[float, above(0), "temperature of the logits; the paper uses 1000"] = 1000.0
    epsilons: Annotated[tuple[float, ...], at_least(0), "candidates for the step, in pixels of [0, 1]"] = (
        0.0,
        0.0005,
        0.001,
        0.0014,
        0.002,
        0.0028,
        0.004,
    )

    def _check(self) -> None:
        if not self.epsilons:
            raise InputError("epsilons must list at least one step")


class ODIN(NetworkDetector):
    """-max_c softmax(f(x') / T) for x' = x - epsilon sign(gradient at x of CE(f(x) / T, argmax f(x))).

    epsilon is the candidate with the highest AUROC for ID validation against the tuning images; a single
    candidate needs no images.
    """

    reads = ("gradients",)
    fitted_on: tuple[str, ...] = ("validation", "tuning")
    Settings = ODINSettings
    candidates = {"epsilons": "epsilon"}

    def __init__(self, settings: ODINSettings | None = None):
        super().__init__(settings)
        if len(self.settings.epsilons) == 1:
            self.fitted_on = ()

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        epsilons = self.settings.epsilons
        if not self.fitted_on:
            self.chosen = {"epsilon": {"value": epsilons[0], "source": "the only candidate"}}
            return {"epsilon": np.array(epsilons[0])}
        inside, outside = (
            np.concatenate(
                [
                    torch.stack(self._stepped(network, batch, epsilons), 1).cpu().numpy()
                    for batch in network.batches(images[split], progress)
                ]
            )
            for split in self.fitted_on
        )
        epsilon, candidates = best_epsilon(epsilons, list(inside.T), list(outside.T))
        source = "highest AUROC for ID validation against tuning"
        self.chosen = {"epsilon": {"value": epsilon, "source": source, "candidates": candidates}}
        return {"epsilon": np.array(epsilon)}

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return self._stepped(network, batch, [float(state["epsilon"])])[0]

    def _stepped(self, network: Network, batch: Tensor, epsilons: Sequence[float]) -> list[Tensor]:
        """Return the score [N] of each epsilon; the gradient is computed once, and not for 0 alone."""
        if not any(epsilons):
            return [self._largest(network, batch)] * len(epsilons)
        sign, _ = gradient_sign(network.need_gradients(), batch, self.settings.temperature)
        return [self._largest(network, perturb(batch, sign, epsilon, network.std)) for epsilon in epsilons]

    @torch.inference_mode()
    def _largest(self, network: Network, batch: Tensor) -> Tensor:
        # at T = 1000 the probabilities of two images differ in the fifth digit
        logits = widened(network.need_gradients()(batch)) / self.settings.temperature
        return -logits.softmax(1).max(1).values
