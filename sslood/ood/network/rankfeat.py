"""RankFeat: energy without the first singular direction of the maps.

Song, Sebe and Wang: RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection, NeurIPS 2022,
arXiv:2209.08590.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.settings import Settings, at_least
from sslood.ood.kit.network_detector import Network, NetworkDetector, widened


@dataclass(frozen=True)
class RankFeatSettings(Settings):
    """Hyperparameters of RankFeat."""

    stages: Annotated[
        int, at_least(1), "last stages whose map loses the direction, one at a time; the paper has 2"
    ] = 2


def without_first(maps: Tensor) -> Tensor:
    """Return maps [N, C, h, w] less s1 u1 v1^T of each as a matrix [C, h w], in their type.

    u1 (or v1, whichever is shorter) is an eigenvector of the matrix times its transpose, computed in float64:
    the same as by a singular value decomposition, in less time.
    """
    matrix = widened(maps).flatten(2)
    flat = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.mT
    first = torch.linalg.eigh(flat @ flat.mT).eigenvectors[:, :, -1:]
    left = flat - first @ (first.mT @ flat)
    return (left if flat is matrix else left.mT).reshape(maps.shape).to(maps)


class RankFeat(NetworkDetector):
    """-log sum_c exp f_c, f the mean of the logits after each of the last stages lost its map's direction."""

    reads = ("stages", "head")
    Settings = RankFeatSettings

    @torch.inference_mode()
    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        stages, head = network.need_stages(), network.need_head()
        maps, _ = network.once("stages", batch, lambda x: stages(x, {}))
        places = range(-1, -1 - min(self.settings.stages, len(maps)), -1)
        logits = [widened(head(stages(batch, {place: without_first})[1])) for place in places]
        return -torch.stack(logits).mean(0).logsumexp(1)
