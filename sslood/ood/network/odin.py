"""ODIN (Liang, Li and Srikant 2018): temperature, and a step towards the predicted class."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.ood.kit.detector import positive
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened
from sslood.ood.measures.metrics import ood_metrics
from sslood.views.ensemble import gradient_sign, perturb


@dataclass(frozen=True)
class OdinSettings:
    """temperature T; epsilons: candidates for the step, in pixels of [0, 1]."""

    temperature: float = 1000.0
    epsilons: tuple[float, ...] = (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.0028, 0.004)

    def __post_init__(self):
        positive("odin", temperature=self.temperature)
        if not self.epsilons or min(self.epsilons) < 0:
            raise InputError(f"odin.epsilons must be a list of steps of at least 0, found {self.epsilons}")


class Odin(NetworkDetector):
    """-max_c softmax(f(x') / T) for x' = x - epsilon sign(gradient at x of CE(f(x) / T, argmax f(x))).

    epsilon is the candidate with the highest AUROC for ID validation against the tuning images; of a
    single candidate no image is asked.
    """

    reads = ("gradients",)
    fitted_on = ("validation", "tuning")
    Settings = OdinSettings
    candidates = {"epsilons": "epsilon"}

    def __init__(self, settings: OdinSettings | None = None):
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
        aurocs = [ood_metrics(a, b)["auroc"] for a, b in zip(inside.T, outside.T, strict=True)]
        best = max(range(len(epsilons)), key=lambda place: (aurocs[place], -epsilons[place]))
        candidates = {str(epsilon): auroc for epsilon, auroc in zip(epsilons, aurocs, strict=True)}
        source = "highest AUROC for ID validation against tuning"
        self.chosen = {"epsilon": {"value": epsilons[best], "source": source, "candidates": candidates}}
        return {"epsilon": np.array(epsilons[best])}

    def _score(self, network: Network, batch: Tensor) -> Tensor:
        return self._stepped(network, batch, [float(self.state["epsilon"])])[0]

    def _stepped(self, network: Network, batch: Tensor, epsilons) -> list[Tensor]:
        """Return the score [N] of each epsilon; the gradient is computed once, and not for 0 alone."""
        if not any(epsilons):
            return [self._largest(network, batch)] * len(epsilons)
        sign, _ = gradient_sign(network.gradients, batch, self.settings.temperature)
        return [self._largest(network, perturb(batch, sign, epsilon, network.std)) for epsilon in epsilons]

    @torch.inference_mode()
    def _largest(self, network: Network, batch: Tensor) -> Tensor:
        # at T = 1000 the probabilities of two images differ in the fifth digit
        logits = widened(network.gradients(batch)) / self.settings.temperature
        return -logits.softmax(1).max(1).values
