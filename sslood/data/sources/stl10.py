"""13,000 labelled photographs of 96x96 pixels in 10 classes (cut from ImageNet).

Known to share with cifar10: nine of its ten classes (all but monkey; frog is missing there); imagenet: cut
from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.formats import read_words
from sslood.data.sets.pictures import Pictures, check_labels
from sslood.data.sets.published_source import PublishedSource


def stl10(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """STL-10, binary version: 3 x 96 x 96 bytes per image, column by column; labels 1 to 10."""
    (folder,) = files.values()
    content, classes = {}, tuple(read_words(folder / "class_names.txt").split())
    for name in (f"{split}_X.bin", f"{split}_y.bin"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing; the set is incomplete, fetch or unpack it again")
        content[name] = (folder / name).read_bytes()
    images, labels = (np.frombuffer(content[f"{split}_{kind}.bin"], np.uint8) for kind in "Xy")
    if len(images) % (3 * 96 * 96):
        raise InputError(f"{folder}/{split}_X.bin: cut short; fetch or unpack it again")
    images, positions = images.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1), labels.astype(np.int64) - 1
    check_labels(folder / f"{split}_y.bin", images, positions, len(classes))
    return Pictures(images, positions, classes)


SOURCE = PublishedSource(
    reader=stl10,
    licence="ImageNet terms (non-commercial research)",
    citation=(
        "A. Coates, H. Lee, A. Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning, "
        "AISTATS 2011"
    ),
    counts={"train": 5000, "test": 8000},
    per_class={"train": 500, "test": 800},
    published=(
        Published(
            name="stl10_binary.tar.gz",
            sources=(
                "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                "https://cs.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            ),
            md5="91f7769df0f17e558f3565bffb0c7dfb",
            size=2640397119,
            inside="stl10_binary",
            folders=("stl10_binary",),
        ),
    ),
)
