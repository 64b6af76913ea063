"""The first candidate that is as good as the best, as far as so few examples can tell.

Candidates stand in an order of preference, simple ones first. The best by a hair on pseudo-outliers is no
better on what will really come, so the first within one standard error of the best is taken (Breiman,
Friedman, Olshen and Stone, "Classification and Regression Trees", 1984, section 3.4.3).
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from sslood.core.errors import InputError
from sslood.ood.kit.combining import Combiner
from sslood.ood.kit.search import Held
from sslood.ood.measures.intervals import placements
from sslood.ood.measures.metrics import ood_metrics

MOST = 3  # detectors that are summed
Key = TypeVar("Key")


def standard_error(held: Held) -> float:
    """Return that of `held.auroc`, the mean over the sets of pseudo-outliers, by DeLong's variance.

    DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595. All sets are told from the same normal
    examples, whose part of the error does not average out.
    """
    sides = [
        (placements(own, held.inside), 1 - placements(held.inside, own)) for own in held.outside.values()
    ]
    of_outside = sum(above.var() / len(above) for above, _ in sides) / len(sides) ** 2
    of_inside = np.mean([below for _, below in sides], axis=0).var() / len(held.inside)
    return float(np.sqrt(of_outside + of_inside))


def first_best(candidates: Mapping[Key, Held]) -> Key:
    """Return the first candidate whose AUROC is within one standard error of the highest."""
    aurocs = {key: held.auroc for key, held in candidates.items()}
    best = max(aurocs, key=lambda key: aurocs[key])
    enough = aurocs[best] - standard_error(candidates[best])
    return next(key for key in candidates if aurocs[key] >= enough)


def summed(held: Mapping[str, Held]) -> Held:
    """Return the sum of detectors' scores, each standardised on the normal examples."""
    if len(held) == 1:
        return next(iter(held.values()))
    combiner = Combiner({name: one.inside for name, one in held.items()}, "sum")
    sets = next(iter(held.values())).outside
    outside = {key: combiner.score({name: one.outside[key] for name, one in held.items()}) for key in sets}
    return Held(combiner.score({name: one.inside for name, one in held.items()}), outside)


def members(held: Mapping[str, Held]) -> Sequence[str]:
    """Return the detectors to sum: the first best, and others while each gains more than a standard error.

    None is added that tells any kind of pseudo-outliers worse: which kind will come is not known.
    """
    if not held:
        raise InputError("there is no detector to choose")
    found = [first_best(held)]
    while len(found) < min(MOST, len(held)):
        now = summed({name: held[name] for name in found})
        trials = {
            name: summed({one: held[one] for one in (*found, name)}) for name in held if name not in found
        }
        trials = {name: one for name, one in trials.items() if _loses_on_none(one, now)}
        if not trials:
            break
        best = first_best(trials)
        if trials[best].auroc <= now.auroc + standard_error(now):
            break
        found.append(best)
    return found


def _loses_on_none(one: Held, other: Held) -> bool:
    """Return whether `one` tells every kind of pseudo-outliers at least as well as `other`."""
    return all(
        ood_metrics(one.inside, one.outside[kind])["auroc"] >= ood_metrics(other.inside, scores)["auroc"]
        for kind, scores in other.outside.items()
    )
