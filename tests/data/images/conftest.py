"""Real photographs."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="package")
def photos() -> torch.Tensor:
    """96 patches of 32x32 from two photographs, uint8 [96, 3, 32, 32]."""
    rng = np.random.default_rng(0)
    patches = []
    for image in load_sample_images().images:
        for _ in range(48):
            y, x = rng.integers(0, image.shape[0] - 64), rng.integers(0, image.shape[1] - 64)
            patches.append(image[y : y + 64 : 2, x : x + 64 : 2])
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).contiguous()
