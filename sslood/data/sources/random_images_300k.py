"""300,000 auxiliary photographs of 32x32 pixels: Tiny Images without CIFAR's and Places' classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError, as_line
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.pictures import Pictures
from sslood.data.sets.published_source import PublishedSource


def npy(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """One NumPy file of uint8 [N, H, W, 3], no labels. It is mapped, never unpickled."""
    (path,) = files.values()
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(images, np.ndarray):
            raise ValueError("an archive of arrays")
    except Exception as error:  # a damaged header makes NumPy raise whatever comes
        raise InputError(
            f"{path}: not a complete NumPy file of numbers ({as_line(error)}); fetch it again"
        ) from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"{path}: holds {images.dtype} {list(images.shape)}, not images of bytes")
    return Pictures(images, np.full(len(images), -1, np.int64), ())


SOURCE = PublishedSource(
    reader=npy,
    licence="none stated by the publisher",
    citation=(
        "D. Hendrycks, M. Mazeika, T. Dietterich, Deep Anomaly Detection with Outlier Exposure, ICLR 2019"
    ),
    counts={"train": 300000},
    published=(
        Published(
            name="300K_random_images.npy",
            sources=("https://people.eecs.berkeley.edu/~hendrycks/300K_random_images.npy",),
            md5="64ca64357de98351f28454274a112dc3",
            mirror=("300K_random_images",),
        ),
    ),
)
