"""ImageNet-1k from your folders imagenet/train and imagenet/val, one folder per class in each.

Known to share with stl10: whose pictures were cut from it; tiny_imagenet: whose classes and pictures were
taken from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.pictures import Pictures
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.tree import tree


def folders(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """One folder per split, each with one folder per class."""
    name = options[split]
    return tree({name: files[name]}, split, options)


SOURCE = PublishedSource(
    reader=folders,
    licence="ImageNet terms (non-commercial research; image-net.org gives it to registered users)",
    citation="O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
    counts={"train": 1281167, "test": 50000},
    per_class={"test": 50},
    published=(
        Published(
            name="train",
            folders=("imagenet/train", "ILSVRC/Data/CLS-LOC/train"),
            split="train",
        ),
        Published(
            name="val",
            folders=("imagenet/val",),
            split="test",
        ),
    ),
    options={"train": "train", "test": "val"},
)
