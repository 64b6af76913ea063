"""Each value uniform on 0..255."""

import numpy as np

from sslood.data.sets.source import noise_source


def uniform(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: independent, uniform on 0..255."""
    return rng.integers(0, 256, (count, channels, size, size), np.uint8)


SOURCE = noise_source(
    uniform,
    "S. Liang, Y. Li, R. Srikant, Enhancing the Reliability of Out-of-distribution Image Detection (ODIN), "
    "ICLR 2018",
)
