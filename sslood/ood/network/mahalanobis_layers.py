"""Mahalanobis distances on several layers, standardised and summed.

Lee, Lee, Lee and Shin: A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv:1807.03888, section 2.2, without its step of the image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, at_least, between
from sslood.ood.geometry.covariance import Moments, ridge_gaussians, squared_distance
from sslood.ood.geometry.radial import BETAS, MEANING, radial, radial_transform
from sslood.ood.kit.network_detector import Network
from sslood.ood.kit.network_layers import DECAY, DECAYS, Arrays, LayersDetector
from sslood.ood.kit.outputs import chunks


@dataclass(frozen=True)
class MahalanobisLayersSettings(Settings):
    """Hyperparameters of Mahalanobis distances on several layers."""

    ridge: Annotated[float, at_least(0), "share of the mean eigenvalue added to the diagonal"] = 1e-6
    beta: Annotated[float | Auto, at_least(0), MEANING] = 1.0
    decay: Annotated[float | Auto, between(0, 1), DECAY] = 0.5


class MahalanobisLayers(LayersDetector):
    """sum_l decay^l standardised min_c (z - mu_c)^T Sigma^-1 (z - mu_c); see `LayersDetector`.

    z are the spatial means of the last map of each resolution, and the features. The classes are those that
    the network predicts, as of `gram`; one that it predicts of no ID train image has no mean.
    """

    reads = ("stages", "head")
    Settings = MahalanobisLayersSettings
    space = {"beta": BETAS, "decay": DECAYS}

    def _groups(self, network: Network, features: np.ndarray) -> np.ndarray:
        head = network.need_head()
        with torch.inference_mode():
            pieces = (torch.from_numpy(piece).to(network.dtype) for piece in chunks(features))
            predicted = [head(piece.to(network.device)).argmax(1).cpu().numpy() for piece in pieces]
        return np.unique(np.concatenate(predicted), return_inverse=True)[1]

    def _fit_layer(self, rows: np.ndarray, groups: np.ndarray, settings: Any) -> Arrays:
        transform = radial_transform(settings.beta)
        moments = Moments.empty(int(groups.max()) + 1, rows.shape[1])
        for piece, of in zip(chunks(rows), chunks(groups), strict=True):
            moments.update(transform(piece), of)
        return dict(vars(ridge_gaussians(moments, settings.ridge, "ID train")))

    def _score_layer(self, rows: Tensor, state: Mapping[str, Tensor], settings: Any) -> Tensor:
        return squared_distance(
            radial(rows, settings.beta), state["centre"], state["means"], state["whitening"]
        )
