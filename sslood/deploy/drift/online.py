"""P-values of a stream that are independent: each picture among the calibration images and all before it.

The p-values of `score` compare every picture with one calibration set that stays. If this set happens to
lack large scores, all of them are too small together, and whatever adds them up over a stream takes that for
drift. Compared with the calibration images *and the pictures before it*, ties broken at random, the p-values
of a stream that is exchangeable with its calibration images are independent and uniform (Vovk, Nouretdinov
and Gammerman, "Testing exchangeability on-line", ICML 2003, theorem 1).

That needs all scores of the past. To keep a bounded number, scores are put into bins whose cuts are the
scores of some calibration images, drawn at random; these are not compared with. Given the cuts, the other
calibration images and the stream are still exchangeable, the bin of a picture is a score like any other, and
the counts of the bins say all about the past.
"""

from dataclasses import dataclass

import numpy as np

from sslood.core.seeding import numpy_stream
from sslood.ood.measures.conformal import finite_scores

CUTS = 1000  # at most; the smallest p-value of one picture is about 1 / CUTS
_PIECE = 512  # pictures compared with each other at a time


@dataclass(frozen=True)
class Reference:
    """Ascending cuts [B - 1] between bins, and int64 counts [B] of what later pictures are compared with."""

    cuts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, calibration: np.ndarray, seed: int) -> "Reference":
        """Return the reference before a stream begins, from ascending calibration scores [n].

        Half of them are cuts, at most CUTS, drawn from `seed`; the others are counted.
        """
        order = numpy_stream(seed, "drift", "cuts").permutation(len(calibration))
        count = min(CUTS, len(calibration) // 2)
        cuts = np.unique(calibration[order[:count]])
        empty = cls(cuts, np.zeros(len(cuts) + 1, np.int64))
        return cls(cuts, empty._counted(empty.bins(calibration[order[count:]])))

    def bins(self, scores: np.ndarray) -> np.ndarray:
        """Return the bin of each score: int64 [N], larger = more OOD. InputError if one is not finite."""
        return np.searchsorted(self.cuts, finite_scores(scores, "stream"), side="right")

    def p_values(self, bins: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, "Reference"]:
        """Return (p-values float64 [N] inside (0, 1), small = more OOD; the reference after them).

        bins [N]: of pictures in the order in which they are seen. theta [N]: numbers inside (0, 1) that break
        ties, drawn without regard to the pictures.
        """
        found, reference = np.empty(len(bins)), self
        for start in range(0, len(bins), _PIECE):
            rows = slice(start, start + _PIECE)
            found[rows] = reference._piece(bins[rows], theta[rows])
            reference = Reference(self.cuts, reference._counted(bins[rows]))
        return open_interval(found), reference

    def _piece(self, bins: np.ndarray, theta: np.ndarray) -> np.ndarray:
        before = np.tri(len(bins), k=-1, dtype=bool)
        larger = (bins > bins[:, None]) & before
        equal = (bins == bins[:, None]) & before
        at_or_above = self.counts[::-1].cumsum()[::-1]
        above = at_or_above[bins] - self.counts[bins] + larger.sum(1)
        tied = self.counts[bins] + equal.sum(1) + 1
        return (above + theta * tied) / (self.counts.sum() + np.arange(1, len(bins) + 1))

    def _counted(self, bins: np.ndarray) -> np.ndarray:
        return self.counts + np.bincount(bins, minlength=len(self.counts))


def open_interval(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of [0, 1] inside (0, 1): a bet at an end would win without bound."""
    return np.clip(numbers, 2.0**-54, 1 - 2.0**-53)
