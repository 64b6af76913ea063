"""Which detectors `fit` sums: one that gains clearly, and loses on no kind of pseudo-outliers."""

import numpy as np
from sklearn.metrics import roc_auc_score

from sslood.deploy.normal.preference import members, summed
from sslood.ood.kit.search import Held

IMAGES = 400


def held(seed: int, **gaps: float) -> Held:
    """Return a detector whose scores of each kind lie so many standard deviations above the normal ones."""
    random = np.random.default_rng(seed)
    inside = random.normal(size=IMAGES)
    return Held(inside, {kind: random.normal(gap, size=IMAGES) for kind, gap in gaps.items()})


def aurocs(one: Held) -> dict[str, float]:
    labels = np.repeat([0, 1], IMAGES)
    return {
        kind: float(roc_auc_score(labels, np.concatenate([one.inside, scores])))
        for kind, scores in one.outside.items()
    }


def test_a_detector_that_gains_on_every_kind_is_summed():
    found = {"first": held(0, left_out=1.0, distorted=1.0), "second": held(1, left_out=0.9, distorted=0.9)}
    assert members(found) == ["first", "second"]


def test_one_that_gains_on_the_whole_and_loses_on_a_kind_is_not():
    """What it loses may be what comes: the mean over kinds says nothing of how often each will."""
    found = {"first": held(0, left_out=0.5, distorted=2.0), "second": held(1, left_out=1.6, distorted=0.6)}
    alone, both = aurocs(found["first"]), aurocs(summed(found))
    assert np.mean([*both.values()]) > np.mean([*alone.values()]) + 0.05
    assert both["distorted"] < alone["distorted"]
    assert members(found) == ["first"]
