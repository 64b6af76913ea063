"""One pass of a model over pictures that gives their features and, of each patch, a vector."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslood.core.batches import normalised
from sslood.core.errors import InputError
from sslood.nets.inference.looks import seen_once
from sslood.nets.inference.patches import with_patches
from sslood.nets.networks.model import Model
from sslood.views.resolutions import stage_modules, watched

LAYERS = 3  # resolutions whose last maps make up a patch
BATCH = 32  # images at a time: of the last three maps of a ResNet-50, 90 MB


class Reader:
    """Reads features and patches of a model whose file has this metadata.

    A patch of a convolutional network is a place of the second last of its last three resolutions; its vector
    holds all three there, averaged from finer maps and interpolated from coarser ones: the coarse say what a
    thing is, the fine where it ends. Of any other network it is a place of the one map that it gives, see
    `patch_maps`. widths: the channels of each map. Raises InputError for a network without maps.
    """

    def __init__(self, model: Model, metadata: Mapping[str, Any]):
        self.seen, self.model = model.eval(), seen_once(model.eval())  # patches are where they are once
        self.mean, self.std = metadata["mean"], metadata["std"]
        first = next(model.parameters())
        shape = (1, metadata["channels"], metadata["size"], metadata["size"])
        blank = torch.zeros(shape, dtype=model.dtype, device=first.device)
        modules = stage_modules(model.backbone, blank)[-LAYERS:]
        self.modules = modules if len(modules) > 1 else []
        try:
            maps = self._run(blank)[1]
            if any(one.shape[2] != one.shape[3] for one in maps):  # a Swin transformer, channels last
                self.modules = []
                maps = self._run(blank)[1]
        except InputError as error:
            raise InputError(f"model {metadata['name']!r}: {error}") from None
        self.widths = [int(one.shape[1]) for one in maps]
        middle = maps[max(len(maps) - 2, 0)]
        self.grid = int(middle.shape[2]), int(middle.shape[3])

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (features float32 [B, D], vectors float32 [B, h, w, sum of widths]) of uint8 images."""
        device = next(self.model.parameters()).device
        tensor = torch.from_numpy(np.ascontiguousarray(images))
        (batch,) = normalised([tensor], self.mean, self.std, device=device, dtype=self.model.dtype)
        features, maps = self._run(batch)
        if self.seen is not self.model:
            with torch.inference_mode():
                features = self.seen.features(batch)
        placed = [_on(one.float(), self.grid) for one in maps]
        rows = torch.cat(placed, dim=1).permute(0, 2, 3, 1)
        return features.float().cpu().numpy(), np.ascontiguousarray(rows.cpu().numpy())

    def _run(self, batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        exact = torch.backends.cudnn.flags(True, benchmark=False, deterministic=True, allow_tf32=False)
        with exact, watched(self.modules, {}) as maps:
            parts, last = with_patches(self.model, batch)
        if last.shape[1] == last.shape[2] != last.shape[3]:  # images are squares, hence maps too
            last = last.permute(0, 3, 1, 2)
        return parts["features"], maps or [last]


def _on(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return maps [B, C, h, w] on another grid: means where it is coarser, interpolated where it is finer."""
    if tuple(maps.shape[2:]) == grid:
        return maps
    if maps.shape[2] > grid[0]:
        return F.interpolate(maps, size=grid, mode="area")
    return F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
