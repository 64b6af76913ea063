"""What can make a result look other than it is: artefacts, duplicates, classes that two sets share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.auditing.exclusions import excluded_classes, in_excluded_class
from sslood.auditing.overlap import EXACT, NEAR, Indexed, Matches, Rules, index_images, overlap
from sslood.auditing.roughness import artefact_scores
from sslood.core.files import load_tensors
from sslood.ood.measures.metrics import ood_metrics

CLASS = 4  # beside EXACT and NEAR in the sum that says why an image is left out
LEARNT = {"id": ("train", "validation"), "tuning": ("train", "validation"), "auxiliary": ("train", "test")}


@dataclass(frozen=True)
class ImageSet:
    """One set file: what it is for, its tensors (memory maps), its metadata."""

    role: str
    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]


def read_sets(folder: Path, roles: Mapping[str, str]) -> dict[str, ImageSet]:
    """Return the sets of `roles` in their order; InputError if a file is missing."""
    return {
        name: ImageSet(role, *load_tensors(folder / f"{name}.safetensors", kind="set"))
        for name, role in roles.items()
    }


def references(sets: Mapping[str, ImageSet]) -> list[Indexed]:
    """Index every split that something is learnt from or chosen on, and the ID test split (the last)."""
    names = [
        f"{name}.{split}"
        for name, content in sets.items()
        for split in LEARNT.get(content.role, ())
        if f"{split}.images" in content.tensors
    ]
    names += [f"{name}.test" for name, content in sets.items() if content.role == "id"]
    return [_indexed(sets, name) for name in names]


def _indexed(sets: Mapping[str, ImageSet], name: str) -> Indexed:
    owner, split = name.rsplit(".", 1)
    return index_images(name, sets[owner].tensors[f"{split}.images"])


def audit(
    sets: Mapping[str, ImageSet], id_name: str, rules: Rules, progress: Callable[[str], None]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors, metadata) of the audit of the ID set and every near and far set.

    Tensors per set: `<set>.artefact` float64 [N] (larger = rougher = more OOD by declaration),
    `<set>.left_out` int64 [K] positions in its test split and `<set>.why` uint8 [K], the sum of 1 (exact
    duplicate), 2 (near duplicate), 4 (class shared with the ID set); `<set>.pairs` int64 [P, 4] (position,
    number of the reference, position there, 1 exact or 2 near) and `<set>.correlation` float64 [P].
    `progress` is called with a set's name when it is done.
    """
    doubles = references(sets)
    control = artefact_scores(sets[id_name].tensors["test.images"])
    tensors, about = {}, {}
    for name in [name for name, content in sets.items() if content.role in ("id", "near", "far")]:
        own = doubles[-1] if name == id_name else _indexed(sets, f"{name}.test")
        matches = [overlap(own, other, rules) for other in doubles if other is not own]
        shared = excluded_classes(sets[id_name].metadata, sets[name].metadata)
        labels = sets[name].tensors["test.labels"]
        why = _reasons(matches, in_excluded_class(labels, sets[name].metadata, shared))
        scores = control if name == id_name else artefact_scores(own.images)
        pairs, correlation = _pairs(matches)
        tensors |= {f"{name}.artefact": scores, f"{name}.pairs": pairs, f"{name}.correlation": correlation}
        tensors |= {f"{name}.left_out": np.flatnonzero(why), f"{name}.why": why[why > 0]}
        about[name] = _numbers(sets[name].role, why, matches, doubles, shared)
        if name != id_name:
            about[name]["control_auroc"] = ood_metrics(control, scores)["auroc"]
        progress(name)
    return tensors, {"id": id_name, "references": [other.name for other in doubles], "sets": about}


def _reasons(matches: list[Matches], in_shared_class: np.ndarray) -> np.ndarray:
    """Return uint8 [N]: the sum of the reasons to leave an image out, 0 for none."""
    why = np.where(in_shared_class, CLASS, 0).astype(np.uint8)
    for found in matches:
        np.bitwise_or.at(why, found.position, found.kind.astype(np.uint8))
    return why


def _pairs(matches: list[Matches]) -> tuple[np.ndarray, np.ndarray]:
    rows = [
        np.stack([found.position, np.full_like(found.position, number), found.double, found.kind], axis=1)
        for number, found in enumerate(matches)
    ]
    return np.concatenate(rows), np.concatenate([found.correlation for found in matches])


def _numbers(
    role: str, why: np.ndarray, matches: list[Matches], doubles: list[Indexed], shared: Mapping[str, str]
) -> dict[str, Any]:
    """Return the counts of one set: images by reason, and pairs by reference."""
    by_reference = {
        other.name: {"exact": int((found.kind == EXACT).sum()), "near": int((found.kind == NEAR).sum())}
        for other, found in zip(doubles, matches, strict=False)  # ID test, the last, not against itself
    }
    return {
        "role": role,
        "n": len(why),
        "left_out": int((why > 0).sum()),
        "exact": int(((why & EXACT) > 0).sum()),
        "near": int(((why & (EXACT | NEAR)) == NEAR).sum()),
        "class": int(((why & CLASS) > 0).sum()),
        "shared_classes": dict(shared),
        "duplicates": by_reference,
    }
