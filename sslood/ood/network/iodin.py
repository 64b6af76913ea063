"""i-ODIN: ODIN that moves one value of the image, the one that the prediction depends on most.

Regmi: Going Beyond Conventional OOD Detection, 2024, arXiv:2411.10794, as OpenOOD has it (pull request 284).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sslood.core.settings import Auto, Settings, above, at_least
from sslood.ood.kit.network_choice import choose
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened
from sslood.ood.kit.perturbation import perturb
from sslood.ood.kit.tempered import largest_above_uniform


@dataclass(frozen=True)
class IODINSettings(Settings):
    """Hyperparameters of i-ODIN."""

    temperature: Annotated[float | Auto, above(0), "temperature T of the logits"] = "auto"
    epsilon: Annotated[float | Auto, at_least(0), "step of the one value, in pixels of [0, 1]"] = 0.0014


class IODIN(NetworkDetector):
    """1 / K - max_c softmax(f(x') / T); x' is x with one value moved by epsilon towards the predicted class.

    The value, of one pixel and channel, is that with the largest gradient of CE(f(x) / T, argmax f(x)), the
    first of equal ones.
    """

    reads = ("gradients",)
    Settings = IODINSettings
    space = {"temperature": (1.0, 10.0, 100.0, 1000.0), "epsilon": (0.0014, 0.0028)}  # OpenOOD's sweep

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        if not self.fitted_on:
            return {}

        def scores(settings: Any, split: str) -> np.ndarray:
            found = [stepped(network, batch, settings) for batch in network.batches(images[split])]
            return torch.cat(found).cpu().numpy()

        self.settings, self.chosen = choose(self.settings, self.space, scores)
        progress(sum(len(images[split]) for split in self.fitted_on))
        return {}

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return stepped(network, batch, self.settings)


def stepped(network: Network, batch: Tensor, settings: Any) -> Tensor:
    """Return the scores float64 [N] of normalised images [N, C, H, W]."""
    forward = network.need_gradients()
    moved = perturb(batch, one_sign(forward, batch, settings.temperature), settings.epsilon, network.std)
    with torch.inference_mode():
        return -largest_above_uniform(widened(forward(moved)), settings.temperature)


def one_sign(forward: Any, batch: Tensor, temperature: float) -> Tensor:
    """Return the sign of the gradient where it is largest, and 0 elsewhere: [N, C, H, W]."""
    with torch.enable_grad():
        x = batch.detach().requires_grad_(True)
        logits = forward(x)
        loss = cross_entropy(logits / temperature, logits.detach().argmax(1), reduction="sum")
        gradient = torch.autograd.grad(loss, x)[0].flatten(1)
    first = gradient.abs().argmax(1, keepdim=True)
    sign = torch.zeros_like(gradient).scatter_(1, first, gradient.gather(1, first).sign())
    return sign.view_as(batch)
