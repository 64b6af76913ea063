"""What can make a result look better or worse than it is: artefacts, duplicates, shared classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sslood.auditing.exclusions import excluded_classes, in_excluded_class
from sslood.auditing.outliers import counts, reasons
from sslood.auditing.overlap import (
    EXACT,
    NEAR,
    AuditSettings,
    Indexed,
    Matches,
    Progress,
    index_images,
    overlap,
)
from sslood.auditing.roughness import artefact_scores
from sslood.core.files import load_tensors
from sslood.data.sets.roles.roles import ROLES
from sslood.ood.measures.metrics import ood_metrics


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


def indexer(sets: Mapping[str, AuditedSet]) -> Callable[[str], Indexed]:
    """Return a function that returns the index of "<set>.<split>", made when it is first asked for."""

    def index(name: str) -> Indexed:
        owner, split = name.rsplit(".", 1)
        return index_images(name, sets[owner].tensors[f"{split}.images"])

    return cache(index)


def references(sets: Mapping[str, AuditedSet]) -> list[str]:
    """Return "<set>.<split>" of all that something is fitted to or chosen on, and of ID test (the last)."""
    names = [
        f"{name}.{split}"
        for name, content in sets.items()
        for split in ROLES[content.role].fitted
        if len(content.tensors.get(f"{split}.images", ()))
    ]
    names += [f"{name}.test" for name, content in sets.items() if content.role == "id"]
    return names


def comparisons(sets: Mapping[str, AuditedSet], id_name: str) -> int:
    """Return the sum of the counts with which `audit` calls its `progress`."""
    others = references(sets)
    return sum(
        len(sets[name].tensors["test.images"]) * (len(others) - (f"{name}.test" in others))
        for name in audited(sets, id_name)
    )


def audit(
    sets: Mapping[str, AuditedSet],
    id_name: str,
    settings: AuditSettings,
    index: Callable[[str], Indexed],
    progress: Progress = lambda count: None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors, metadata) of the audit of the ID set and every near and far set.

    Tensors per set: `<set>.artefact` float64 [N] (larger = rougher = more OOD by declaration),
    `<set>.left_out` int64 [K] positions in its test split and `<set>.why` uint8 [K], the sum of 1 (exact
    duplicate), 2 (near duplicate), 4 (class shared with the ID set); `<set>.pairs` int64 [P, 4] (position,
    number of the reference, position there, 1 exact or 2 near) and `<set>.correlation` float64 [P].
    index: of `indexer`. The metadata passes on the set files' limits.
    """
    doubles = [index(name) for name in references(sets)]
    control = artefact_scores(sets[id_name].tensors["test.images"])
    tensors: dict[str, np.ndarray] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name in audited(sets, id_name):
        own = index(f"{name}.test")
        matches = [overlap(own, other, settings, progress) for other in doubles if other is not own]
        shared = excluded_classes(sets[id_name].metadata, sets[name].metadata)
        labels = sets[name].tensors["test.labels"]
        why = reasons(matches, in_excluded_class(labels, sets[name].metadata, shared))
        scores = control if name == id_name else artefact_scores(own.images)
        pairs, correlation = _pairs(matches)
        tensors |= {f"{name}.artefact": scores, f"{name}.pairs": pairs, f"{name}.correlation": correlation}
        tensors |= {f"{name}.left_out": np.flatnonzero(why), f"{name}.why": why[why > 0]}
        numbers[name] = _counts(sets[name].role, why, matches, doubles, shared)
        if name != id_name:
            numbers[name]["control_auroc"] = ood_metrics(control, scores)["auroc"]
    metadata = {"id": id_name, "references": [other.name for other in doubles], "sets": numbers}
    limits = {name: one.metadata["limits"] for name, one in sets.items() if "limits" in one.metadata}
    return tensors, metadata | ({"limits": limits} if limits else {})


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
        **counts(why),
        "shared_classes": dict(shared),
        "duplicates": by_reference,
    }
