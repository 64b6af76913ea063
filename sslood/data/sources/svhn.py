"""House numbers of 32x32 pixels (cropped digits).

Known to share with digits: the same ten classes, handwritten; mnist: the same ten classes, handwritten.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.matlab import read_matlab
from sslood.data.sets.pictures import Pictures, check_labels
from sslood.data.sets.published_source import PublishedSource


def svhn(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """SVHN, cropped digits: a Matlab file with X [32, 32, 3, N] and y [N, 1], where 10 means digit 0."""
    path = files[options[split]]
    content = read_matlab(path, "X", "y")
    if content["X"].ndim != 4 or content["X"].shape[:3] != (32, 32, 3) or content["X"].dtype != np.uint8:
        raise InputError(f"{path}: X is not 32 x 32 x 3 x N bytes; it is not the set's file, fetch it again")
    images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].reshape(-1).astype(np.int64)
    classes = tuple("0123456789")
    check_labels(path, images, labels - 1, len(classes))
    return Pictures(images, labels % 10, classes)


SOURCE = PublishedSource(
    reader=svhn,
    licence="free for non-commercial use",
    citation=(
        "Y. Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS "
        "workshop 2011"
    ),
    counts={"train": 73257, "test": 26032},
    per_class={
        "train": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        "test": (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
    },
    published=(
        Published(
            name="train_32x32.mat",
            sources=("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
            md5="e26dedcc434d2e4c54c9b2d4a06d8373",
            size=182040794,
            split="train",
            mirror=("svhn",),
        ),
        Published(
            name="test_32x32.mat",
            sources=("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
            md5="eb5a983be6a315427106f1b164d9cef3",
            size=64275384,
            split="test",
            mirror=("svhn",),
        ),
    ),
    options={"train": "train_32x32.mat", "test": "test_32x32.mat"},
)
