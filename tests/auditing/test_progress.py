"""The progress bar of an audit: what is counted while it runs is what was announced."""

import numpy as np
import pytest

from sslood.auditing import audit, outliers
from sslood.auditing.audit import AuditedSet
from sslood.auditing.overlap import AuditSettings

COUNTS = {"train": 130, "validation": 65, "test": 70}  # none a whole number of blocks


def made(role, splits, seed, **metadata):
    rng, tensors = np.random.default_rng(seed), {}
    for split in splits:
        n = COUNTS[split]
        tensors[f"{split}.images"] = rng.integers(0, 256, (n, 3, 8, 8), np.uint8)
        tensors[f"{split}.labels"] = np.zeros(n, np.int64)
    return AuditedSet(role, tensors, {"name": role, "classes": [], **metadata})


@pytest.fixture
def sets():
    return {
        "known": made("id", COUNTS, 0, classes=["cat"]),
        "other": made("near", ["test"], 1),
        "outside": made("auxiliary", ["train"], 2),
        "distorted": made("tuning", ["train", "validation"], 3, source={"made from": "known"}),
    }


def test_what_is_counted_is_what_was_announced(sets):
    settings, index = AuditSettings(radius=32, correlation=0.97), audit.indexer(sets)
    counted: list[int] = []
    audit.audit(sets, "known", settings, index, counted.append)
    assert sum(counted) == audit.comparisons(sets, "known")
    assert max(counted) <= 64 and min(counted) > 0  # the bar moves within a set
    counted.clear()
    outliers.false_outliers(sets, "known", settings, index, counted.append)
    assert sum(counted) == outliers.comparisons(sets, "known")


def test_the_announced_counts(sets):
    """References: train and validation of `known` and of `distorted`, train of `outside`, test of `known`."""
    assert audit.comparisons(sets, "known") == 70 * 5 + 70 * 6
    assert outliers.comparisons(sets, "known") == 130 * (2 + 2)  # ID train, validation, and both test sets
