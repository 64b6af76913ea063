"""Random streams: one seed, many independent generators, no global state."""

import hashlib

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream `names` (e.g. "augment", epoch) of run `seed`.

    Streams with different names are independent, so changing how many numbers one consumes (a new
    augmentation, say) leaves data order and initialisation as they were.
    """
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator for the stream `names` of run `seed`."""
    return np.random.default_rng(stream_seed(seed, *names))
