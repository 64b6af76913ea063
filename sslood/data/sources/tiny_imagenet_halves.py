"""Tiny ImageNet in two halves of its classes: one to train on as outliers, the other to test on.

Role auxiliary: the training images of the 100 classes in OUTLIERS, 500 each (a mirror may hold fewer). Roles
near and far: the validation images of the 100 other classes, 50 each. So no class is both trained against and
tested on. OUTLIERS are every other class by WordNet id. What they share with cifar10 and cifar100 is what
tiny_imagenet shares; called tiny_imagenet_outliers and tiny_imagenet_others, they find it in exclusions.yaml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.formats import TINY_IMAGENET, read_words, tiny_imagenet
from sslood.data.sets.pictures import Pictures
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.roles.roles import Role

OUTLIERS = """
n01443537 n01641577 n01698640 n01768244 n01774384 n01784675 n01882714 n01917289 n01945685 n01983481 n02002724
n02058221 n02085620 n02099601 n02106662 n02123045 n02124075 n02129165 n02165456 n02206856 n02231487 n02236044
n02279972 n02321529 n02395406 n02410509 n02423022 n02480495 n02486410 n02509815 n02669723 n02730930 n02788148
n02793495 n02802426 n02814533 n02815834 n02837789 n02843684 n02892201 n02909870 n02927161 n02950826 n02977058
n02999410 n03026506 n03085013 n03100240 n03160309 n03201208 n03255030 n03388043 n03400231 n03424325 n03447447
n03584254 n03617480 n03649909 n03670208 n03733131 n03770439 n03804744 n03837869 n03854065 n03902125 n03937543
n03976657 n03980874 n03992509 n04023962 n04070727 n04099969 n04133789 n04149813 n04251144 n04259630 n04275548
n04311004 n04356056 n04371430 n04398044 n04417672 n04465501 n04487081 n04507155 n04532670 n04560804 n04596742
n06596364 n07583066 n07615774 n07711569 n07720875 n07747607 n07753592 n07871810 n07875152 n09193705 n09256479
n09428293
""".split()


def half(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Training images of OUTLIERS, by class and name, or validation images of the others; all 200 names."""
    (folder,) = files.values()
    wnids = sorted(read_words(folder / "wnids.txt").split())
    both = tiny_imagenet(files, "test", {})  # refuses damaged lists
    if lacking := set(OUTLIERS) - set(wnids):
        raise InputError(f"{folder / 'wnids.txt'}: lacks {min(lacking)}; fetch or unpack it again")
    if split == "test":
        return both.take(np.flatnonzero([wnids[label] not in OUTLIERS for label in both.labels]))
    found = [(path, wnids.index(wnid)) for wnid in OUTLIERS for path in _pictures(folder / "train" / wnid)]
    return Pictures(
        [path for path, _ in found], np.array([label for _, label in found], np.int64), both.classes
    )


def _pictures(folder: Path) -> list[Path]:
    found = sorted((folder / "images").glob("*.JPEG"))
    if not found:
        raise InputError(f"{folder / 'images'}: no pictures of this class; fetch or unpack it again")
    return found


class _Halves(PublishedSource):
    def _wanted(self, role: Role) -> list[str]:
        if role.is_labelled or role.is_tuning:
            raise InputError(
                f"set {self.name!r} is two halves of the classes; give it role auxiliary, near or far"
            )
        return super()._wanted(role)


EACH = {"train": 500, "test": 50}
PLACES = range(0, 200, 2)  # of OUTLIERS among the sorted classes
SOURCE = _Halves(
    reader=half,
    licence="ImageNet terms (non-commercial research)",
    citation="Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, 2015",
    counts={split: 100 * count for split, count in EACH.items()},
    per_class={
        split: tuple(count * ((place in PLACES) == (split == "train")) for place in range(200))
        for split, count in EACH.items()
    },
    published=(TINY_IMAGENET,),
)
