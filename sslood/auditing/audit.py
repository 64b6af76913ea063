"""What can make a result look better or worse than it is: artefacts, duplicates, shared classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.auditing.exclusions import excluded_classes, in_excluded_class
from sslood.auditing.overlap import (
    EXACT,
    NEAR,
    AuditSettings,
    Indexed,
    Matches,
    index_images,
    overlap,
)
from sslood.auditing.roughness import artefact_scores
from sslood.core.files import load_tensors
from sslood.data.sets.roles.roles import ROLES
from sslood.ood.measures.metrics import ood_metrics

CLASS = 4  # beside EXACT and NEAR in the sum that says why an image is left out


@dataclass(frozen=True)
class AuditedSet:
    """One set file: what it is for, its tensors (memory maps), its metadata."""

    role: str
    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]


def read_sets(folder: Path, roles: Mapping[str, str]) -> dict[str, AuditedSet]:
    """Return the sets of `roles` in their order; InputError if a file is missing."""
    return {
        name: AuditedSet(role, *load_tensors(folder / f"{name}.safetensors", kind="set"))
        for name, role in roles.items()
    }


def audited(sets: Mapping[str, Any], id_name: str) -> list[str]:
    """Return the names of the ID set and of every OOD test set, in the order of `sets`."""
    return [name for name, content in sets.items() if name == id_name or ROLES[content.role].is_ood]


def references(sets: Mapping[str, AuditedSet]) -> list[Indexed]:
    """Index every split that something is fitted to or chosen on, and the ID test split (the last)."""
    names = [
        f"{name}.{split}"
        for name, content in sets.items()
        for split in ROLES[content.role].fitted
        if len(content.tensors.get(f"{split}.images", ()))
    ]
    names += [f"{name}.test" for name, content in sets.items() if content.role == "id"]
    return [_indexed(sets, name) for name in names]


def _indexed(sets: Mapping[str, AuditedSet], name: str) -> Indexed:
    owner, split = name.rsplit(".", 1)
    return index_images(name, sets[owner].tensors[f"{split}.images"])


def audit(
    sets: Mapping[str, AuditedSet], id_name: str, settings: AuditSettings, progress: Callable[[str], object]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors, metadata) of the audit of the ID set and every near and far set.

    Tensors per set: `<set>.artefact` float64 [N] (larger = rougher = more OOD by declaration),
    `<set>.left_out` int64 [K] positions in its test split and `<set>.why` uint8 [K], the sum of 1 (exact
    duplicate), 2 (near duplicate), 4 (class shared with the ID set); `<set>.pairs` int64 [P, 4] (position,
    number of the reference, position there, 1 exact or 2 near) and `<set>.correlation` float64 [P].
    `progress` is called with a set's name when it is done. The metadata passes on the set files' limits.
    """
    doubles = references(sets)
    control = artefact_scores(sets[id_name].tensors["test.images"])
    tensors: dict[str, np.ndarray] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name in audited(sets, id_name):
        own = doubles[-1] if name == id_name else _indexed(sets, f"{name}.test")
        matches = [overlap(own, other, settings) for other in doubles if other is not own]
        shared = excluded_classes(sets[id_name].metadata, sets[name].metadata)
        labels = sets[name].tensors["test.labels"]
        why = _reasons(matches, in_excluded_class(labels, sets[name].metadata, shared))
        scores = control if name == id_name else artefact_scores(own.images)
        pairs, correlation = _pairs(matches)
        tensors |= {f"{name}.artefact": scores, f"{name}.pairs": pairs, f"{name}.correlation": correlation}
        tensors |= {f"{name}.left_out": np.flatnonzero(why), f"{name}.why": why[why > 0]}
        numbers[name] = _counts(sets[name].role, why, matches, doubles, shared)
        if name != id_name:
            numbers[name]["control_auroc"] = ood_metrics(control, scores)["auroc"]
        progress(name)
    metadata = {"id": id_name, "references": [other.name for other in doubles], "sets": numbers}
    limits = {name: one.metadata["limits"] for name, one in sets.items() if "limits" in one.metadata}
    return tensors, metadata | ({"limits": limits} if limits else {})


def _reasons(matches: list[Matches], in_shared_class: np.ndarray) -> np.ndarray:
    """Return uint8 [N]: the sum of the reasons to leave an image out, 0 for none."""
    why = np.where(in_shared_class, CLASS, 0).astype(np.uint8)
    for match in matches:
        np.bitwise_or.at(why, match.position, match.kind.astype(np.uint8))
    return why


def _pairs(matches: list[Matches]) -> tuple[np.ndarray, np.ndarray]:
    rows = [
        np.stack([match.position, np.full_like(match.position, number), match.double, match.kind], axis=1)
        for number, match in enumerate(matches)
    ]
    return np.concatenate(rows), np.concatenate([match.correlation for match in matches])


def _counts(
    role: str, why: np.ndarray, matches: list[Matches], doubles: list[Indexed], shared: Mapping[str, str]
) -> dict[str, Any]:
    """Return the counts of one set: images by reason, and pairs by reference."""
    by_reference = {
        other.name: {"exact": int((match.kind == EXACT).sum()), "near": int((match.kind == NEAR).sum())}
        for other, match in zip(doubles, matches, strict=False)  # ID test, the last, not against itself
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
