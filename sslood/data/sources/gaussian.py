"""Each value from a normal distribution of mean 0.5 and standard deviation 0.25, clipped to [0, 1]."""

import numpy as np

from sslood.data.sets.source import noise_source


def gaussian(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: normal, mean 0.5, standard deviation 0.25, clipped."""
    noise = rng.normal(0.5, 0.25, (count, channels, size, size))
    return np.rint(np.clip(noise, 0, 1) * 255).astype(np.uint8)


SOURCE = noise_source(
    gaussian,
    "D. Hendrycks, M. Mazeika, T. Dietterich, Deep Anomaly Detection with Outlier Exposure, ICLR 2019",
)
