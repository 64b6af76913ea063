"""Blurred and thresholded Bernoulli noise: amorphous shapes with definite edges."""

import numpy as np

from sslood.data.sets.source import noise_source


def blobs(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: Bernoulli(0.7) pixels, blurred with sigma 1.5 pixels
    over height and width only, and set to 0 below 0.75 (Hendrycks et al., arXiv:1812.04606; SSD's blobs)."""
    from scipy.ndimage import gaussian_filter  # not above: it takes a tenth of a second

    coins = (rng.random((count, channels, size, size)) < 0.7).astype(np.float32)
    blurred = gaussian_filter(coins, sigma=(0, 0, 1.5, 1.5), mode="nearest", truncate=4.0)
    blurred[blurred < 0.75] = 0.0
    return np.rint(blurred * 255).astype(np.uint8)


SOURCE = noise_source(
    blobs,
    "D. Hendrycks, M. Mazeika, T. Dietterich, Deep Anomaly Detection with Outlier Exposure, ICLR 2019",
)
