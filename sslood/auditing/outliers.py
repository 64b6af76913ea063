"""Outliers to train on that are none: images of the ID set or of what is tested on, and shared classes.

A network that is taught to reject an ID image, or has seen a test image as an outlier, gives numbers that
mean nothing. The audit finds these images before any training, and the training leaves them out.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from sslood.auditing.exclusions import excluded_classes, in_excluded_class
from sslood.auditing.overlap import EXACT, NEAR, AuditSettings, Indexed, Matches, Progress, overlap
from sslood.data.sets.roles.roles import ROLES

CLASS = 4  # beside EXACT and NEAR in the sum that says why an image is left out


def is_made_from_id(metadata: Mapping[str, Any]) -> bool:
    """Whether a set is made from images of the ID set, which its own are then like by intention."""
    return "made from" in metadata.get("source", {})


def reasons(matches: list[Matches], in_shared_class: np.ndarray) -> np.ndarray:
    """Return uint8 [N]: the sum of each image's reasons to be left out, 0 for none."""
    why = np.where(in_shared_class, CLASS, 0).astype(np.uint8)
    for match in matches:
        np.bitwise_or.at(why, match.position, match.kind.astype(np.uint8))
    return why


def counts(why: np.ndarray) -> dict[str, int]:
    """Return how many images there are, how many are left out, and how many of those for which reason."""
    return {
        "n": len(why),
        "left_out": int((why > 0).sum()),
        "exact": int(((why & EXACT) > 0).sum()),
        "near": int(((why & (EXACT | NEAR)) == NEAR).sum()),
        "class": int(((why & CLASS) > 0).sum()),
    }


def comparisons(sets: Mapping[str, Any], id_name: str) -> int:
    """Return the sum of the counts with which `false_outliers` calls its `progress`."""
    outliers = [content for _, content in _outliers(sets) if not is_made_from_id(content.metadata)]
    return len(_against(sets, id_name)) * sum(len(content.tensors["train.labels"]) for content in outliers)


def _outliers(sets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (name, set) of every set that may serve as outliers and has an image to train on."""
    for name, content in sets.items():
        if not ROLES[content.role].is_labelled and "train" in ROLES[content.role].fitted:
            if len(content.tensors["train.labels"]):  # a tuning set may have none
                yield name, content


def _against(sets: Mapping[str, Any], id_name: str) -> list[str]:
    """Return "<set>.<split>" of what no outlier may be: all of the ID set, and all test images."""
    tested = [f"{name}.test" for name, content in sets.items() if ROLES[content.role].is_tested]
    return [f"{id_name}.{split}" for split in ROLES["id"].fitted] + tested


def false_outliers(
    sets: Mapping[str, Any],
    id_name: str,
    settings: AuditSettings,
    index: Callable[[str], Indexed],
    progress: Progress = lambda count: None,
) -> dict[str, dict[str, Any]]:
    """Return {set: counts and positions} of the train split of every set that may serve as outliers.

    sets: of `read_sets`; index: returns the index of "<set>.<split>". Left out are exact and near duplicates
    of any image of the ID set, or of a set that is tested on, and the classes shared with the ID set. Of a
    set that is made from ID images, only exact duplicates are.
    """
    found = {}
    against = _against(sets, id_name)
    for name, content in _outliers(sets):
        own, labels = index(f"{name}.train"), content.tensors["train.labels"]
        if is_made_from_id(content.metadata):
            shared = np.zeros(len(labels), bool)
            matches = [_exact(own, index(other)) for other in against]
        else:
            classes = excluded_classes(sets[id_name].metadata, content.metadata)
            shared = in_excluded_class(labels, content.metadata, classes)
            matches = [overlap(own, index(other), settings, progress) for other in against]
        why = reasons(matches, shared)
        found[name] = {**counts(why), "positions": np.flatnonzero(why).tolist()}
    return found


def _exact(images: Indexed, reference: Indexed) -> Matches:
    known = set(reference.digests)
    rows = np.array([row for row, digest in enumerate(images.digests) if digest in known], np.int64)
    return Matches(rows, np.full_like(rows, -1), np.full_like(rows, EXACT), np.ones(len(rows)))
