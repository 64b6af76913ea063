"""8,189 photographs of flowers in 102 classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.matlab import read_matlab
from sslood.data.sets.pictures import Pictures, check_labels
from sslood.data.sets.published_source import PublishedSource


def flowers(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Flowers-102: pictures by number; labels (1 to 102) and the numbers of each split in Matlab files."""
    folder = files["102flowers.tgz"]
    labels, numbers = (
        read_matlab(files[name], key)[key].reshape(-1).astype(np.int64)
        for name, key in (("imagelabels.mat", "labels"), ("setid.mat", options[split]))
    )
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(labels):
        raise InputError(f"{files['setid.mat']}: names pictures beyond the {len(labels)} that have labels")
    paths = [folder / f"image_{number:05}.jpg" for number in numbers]
    check_labels(files["imagelabels.mat"], paths, labels[numbers - 1] - 1, 102)
    return Pictures(paths, labels[numbers - 1] - 1, tuple(str(number) for number in range(1, 103)))


SOURCE = PublishedSource(
    reader=flowers,
    licence="none stated by the publisher",
    citation=(
        "M.-E. Nilsback and A. Zisserman, Automated Flower Classification over a Large Number of Classes, "
        "ICVGIP 2008"
    ),
    counts={"train": 1020, "validation": 1020, "test": 6149},
    per_class={"train": 10, "validation": 10},
    published=(
        Published(
            name="102flowers.tgz",
            sources=("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",),
            md5="52808999861908f626f3c1f4e79d11fa",
            size=344862509,
            inside="jpg",
            folders=("flowers-102/jpg",),
        ),
        Published(
            name="imagelabels.mat",
            sources=("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",),
            md5="e0620be6f572b9609742df49c70aed4d",
            size=502,
            mirror=("flowers-102",),
        ),
        Published(
            name="setid.mat",
            sources=("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat",),
            md5="a5357ecc9cb78c4bef273ce3793fc85c",
            size=14989,
            mirror=("flowers-102",),
        ),
    ),
    options={"train": "trnid", "validation": "valid", "test": "tstid"},
)
