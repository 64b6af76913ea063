"""NCI: how near the features lie to the weights of the predicted class, as neural collapse says of ID images.

Liu and Qin: Detecting Out-of-Distribution Through the Lens of Neural Collapse, CVPR 2025, arXiv:2311.01479.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.logits import head_logits, head_state
from sslood.ood.geometry.products import divisor, number
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import Streaming, Sums, feature_sum, mean_of
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class NCISettings(Settings):
    """Hyperparameters of NCI."""

    alpha: Annotated[float | Auto, at_least(0), "weight of the features' L1 norm"] = 0.001


class NCI(Streaming):
    """-w_c* (z - mean) / |z - mean| - alpha |z|_1, c* the predicted class, mean that of ID train."""

    reads = ("features",)
    needs_head = True
    Settings = NCISettings
    space = {"alpha": (0.0, 1e-4, 1e-3, 1e-2, 1e-1)}  # OpenOOD's sweep, and none

    def _gather(self, source: Outputs) -> Sums:
        return feature_sum(source)

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        return {**head_state(source.need_head()), "mean": mean_of(sums)}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = parts["features"]
        centred = rows - state["mean"]
        weight = state["weight"][head_logits(state, rows).argmax(1)]
        proximity = (centred * weight).sum(1) / divisor(centred)
        return -proximity - number(self.settings.alpha) * rows.abs().sum(1)
