"""Each value 0 or 255 with equal probability."""

import numpy as np

from sslood.data.sets.source import noise_source


def rademacher(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: 0 or 255, a fair coin each."""
    return rng.integers(0, 2, (count, channels, size, size), np.uint8) * np.uint8(255)


SOURCE = noise_source(
    rademacher,
    "D. Hendrycks, M. Mazeika, T. Dietterich, Deep Anomaly Detection with Outlier Exposure, ICLR 2019",
)
