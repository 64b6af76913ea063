"""Normal examples cut into those that are learned from and those that calibrate, with no copy on both sides.

Copies of one picture are no independent examples. A group of them therefore stays on one side, and of a group
that calibrates one member counts: then a new example of a new group is exchangeable with them (Dunn,
Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", 2022,
arXiv:1809.07441).
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.core.splits import stratified_choice
from sslood.deploy.thresholds import FEW
from sslood.ood.measures.conformal import images_needed

SHARE = 0.3  # of the groups that calibrate, or half of them up to FEW, below which p-values can do little
MOST = (
    2000  # groups that calibrate, beyond which the others teach more; or so many that PER_ALARM alarms fall
)
PER_ALARM = 20
LEAST = 10  # groups to learn from


@dataclass(frozen=True)
class Split:
    """Positions, ascending: `fit` of the examples to learn from, `calibration` of those that calibrate.

    unused: number of examples that are copies of one that calibrates.
    """

    fit: np.ndarray
    calibration: np.ndarray
    unused: int = 0


def examples_needed(alpha: float) -> int:
    """Return the fewest normal examples, of which none is a copy of another, for a false-alarm rate alpha."""
    return images_needed(alpha) + LEAST


def split_normal(
    count: int,
    *,
    alpha: float,
    seed: int,
    groups: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    what: str = "normal examples",
) -> Split:
    """Return which of `count` examples teach and which calibrate a threshold for the rate alpha.

    groups int [count]: equal for copies of one picture; by default none has a copy. labels [count]: classes,
    of which each calibrates in proportion and keeps one group to learn from. Raises InputError, with the
    number that is needed and the lowest rate that is possible, if there are too few.
    """
    groups = np.arange(count) if groups is None else groups
    random = numpy_stream(seed, "normal", "split")
    order = random.permutation(count)
    _, first, place = np.unique(groups[order], return_index=True, return_inverse=True)
    one = np.sort(order[first])  # a member of each group, by lot
    _check_count(alpha, count, len(one), what)
    wanted = max(round(SHARE * len(one)), min(FEW, len(one) // 2))
    wanted = min(wanted, max(MOST, ceil(PER_ALARM / alpha)))
    wanted = min(max(wanted, images_needed(alpha)), len(one) - LEAST)
    calibration = one[_cut(np.zeros(len(one), int) if labels is None else labels[one], wanted, random)]
    group_of = np.empty(count, np.int64)
    group_of[order] = place
    aside = np.isin(group_of, group_of[calibration])
    _check_count(alpha, count, len(calibration) + LEAST, what)
    return Split(np.flatnonzero(~aside), calibration, int(aside.sum()) - len(calibration))


def _cut(labels: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    """Return `wanted` places of labels, each class in proportion, none with its last place."""
    spared = [random.choice(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    others = np.setdiff1d(np.arange(len(labels)), spared)
    return others[stratified_choice(labels[others], wanted, random)]


def _check_count(alpha: float, count: int, groups: int, what: str) -> None:
    """Raise InputError for fewer groups than the rate alpha needs."""
    needed = examples_needed(alpha)
    if groups >= needed:
        return
    few = f"1 {what.removesuffix('s')} is" if count == 1 else f"{count} {what} are"
    why = f", which needs {needed}"
    if groups < count:
        left = f"{groups} {'is' if groups == 1 else 'are'} left"
        why = f": only {left} once copies and those that each class keeps are set aside; {needed} are needed"
    possible = f", or raise alpha to {_lowest(groups)}" if groups > LEAST else ""
    raise InputError(
        f"{few} too few for alpha {alpha:g}{why}: {needed - LEAST} that calibrate and {LEAST} to learn from; "
        f"give {needed - groups} more{possible}"
    )


def _lowest(groups: int) -> float:
    """Return the lowest rate, in steps of a thousandth, that so many groups allow."""
    return ceil(1000 / (groups - LEAST + 1)) / 1000
