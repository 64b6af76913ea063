"""What a set is too small for, known as soon as it is there: needs of detectors and stages by its role.

The needs are declared where they arise (`needs` of a detector or objective, NEEDS of a method). This table
repeats them, so that `download` need not import and depend on them all; a test holds the two together.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from sslood.core.errors import InputError
from sslood.core.needs import CLASSIFIED, LABELS, Need, Needs, Shortage

Table = Mapping[str, Needs]
_GAUSSIANS = ("bhattacharyya_knn", "euclidean_knn", "kl_knn", "reverse_kl_knn")
_EACH = Need(classes=1, per_class=1, spare=1)
ID_NEEDS: Table = MappingProxyType(
    {
        "train": (CLASSIFIED,),
        "methods": (CLASSIFIED,),
        "energy": (CLASSIFIED,),
        "leaveout": (Need(classes=3),),
        "supcon": (CLASSIFIED,),
        "supce": (CLASSIFIED,),
        "cider": (CLASSIFIED,),
        "rotpred": (CLASSIFIED,),
        "probe": (CLASSIFIED,),
        "gmm": (LABELS, Need(per_class=2)),
        "mahalanobis": (_EACH,),
        "rmds": (Need(classes=2, per_class=1, spare=1),),
        "she": (LABELS,),
        "openmax": (LABELS,),
        "weighted_energy": (LABELS,),
        "cfood": (Need(images=2),),
        "membership": (LABELS,),
        "temperature_scaling": (Need("validation", classes=1),),
        "ssd": (Need(images=2),),
        "knn": (Need(images=50),),
        "nnguide": (Need(images=10),),
        "knn_layers": (Need(images=50),),
        **dict.fromkeys(_GAUSSIANS, (Need(images=50),)),
    }
)
OOD_NEEDS: Table = MappingProxyType(
    {"interval": (Need("test", images=2),), "ssdk": (Need("test", per_class=5, spare=1),)}
)
AUXILIARY_NEEDS: Table = MappingProxyType({"energy": (Need(images=1),)})
MIXING_NEEDS: Table = MappingProxyType({"methods": (Need(images=1),)})
TRANSFER_NEEDS: Table = MappingProxyType({"probe": (CLASSIFIED,)})
BY_ROLE: Mapping[str, Table] = MappingProxyType(
    {
        "id": ID_NEEDS,
        **dict.fromkeys(("near", "far"), OOD_NEEDS),
        **dict.fromkeys(("tuning", "auxiliary"), AUXILIARY_NEEDS),
        "mixing": MIXING_NEEDS,
        "transfer": TRANSFER_NEEDS,
        "shifted": {},
    }
)
# without these no number of any detector means anything
LEAST: Needs = (Need(images=2), Need("validation", images=1), Need("test", images=2))
_OWN_K = "left out unless k is smaller (or auto): "
WORDS = {
    "interval": "AUROC without an interval, and no test against the best",
    **{name: _OWN_K for name in ID_NEEDS if "knn" in name or name == "nnguide"},
    "ssdk": "left out unless k is smaller: ",
}


class Limit(NamedTuple):
    """A limit that a set misses, and what comes of it."""

    what: str
    found: int
    needed: int
    consequence: str


def limits_of(role: str, labels: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[Limit]:
    """Return what a set misses; labels: split -> [N], -1 unknown; classes: their names."""
    missed: dict[tuple[Shortage, str], list[str]] = {}
    for who, needs in BY_ROLE[role].items():
        for need in needs:
            if need.split in labels and (short := need.shortage(labels[need.split], classes)):
                missed.setdefault((short, WORDS.get(who, "left out: ")), []).append(who)
                break
    return [
        Limit(*short, words + (", ".join(names) if words.endswith(": ") else ""))
        for (short, words), names in missed.items()
    ]


def check_least(name: str, labels: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
    """Raise InputError if an ID set is too small for any result, or has a class that nothing can learn."""
    for need in LEAST:
        if short := need.shortage(labels[need.split]):
            raise InputError(
                f"set {name!r}: an ID set {short}; add pictures, or change the shares data.validation and "
                "classes.test"
            )
    absent = [label for place, label in enumerate(classes) if place not in labels["train"]]
    if absent:
        raise InputError(
            f"set {name!r}: ID train holds no image of class {', '.join(absent)}; raise data.limit, add "
            "pictures, or hold the class out (classes.heldout)"
        )


def table_of(name: str, limits: Sequence[Limit]) -> str:
    """Return the limits of a set as lines of text, "" if there are none."""
    if not limits:
        return ""
    rows = [("set", "too few", "count", "needed", "consequence")]
    rows += [(name, limit.what, str(limit.found), str(limit.needed), limit.consequence) for limit in limits]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join((*map(str.ljust, row[:4], widths), row[4])) for row in rows)
