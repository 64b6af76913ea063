"""A threshold for each predicted class: the promised share of false alarms holds within every class.

One threshold keeps the rate over all ID images. Of those that the model takes for one class it may call many
times as many OOD as of another. Mondrian conformal prediction calibrates each class by itself (Vovk,
Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, section 4.5), by the *predicted* class,
since that of a new image is not known. The price is that each class needs calibration images of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslood.core.errors import InputError
from sslood.deploy.thresholds import p_values
from sslood.ood.measures.conformal import Threshold, conformal_threshold, images_needed


@dataclass(frozen=True)
class ByClass:
    """Thresholds by predicted class, and the calibration scores that they come from.

    names: of the K classes that the model predicts, in the order of its logits. predicted: int64 [n], the
    class of each calibration image, in the order of the ascending `scores` [n]. thresholds: K of them.
    """

    names: Sequence[str]
    predicted: np.ndarray
    scores: np.ndarray
    thresholds: Sequence[Threshold]

    @classmethod
    def of(cls, scores: np.ndarray, predicted: np.ndarray, names: Sequence[str], alpha: float) -> "ByClass":
        """Return the thresholds for the false-alarm rate alpha within each class.

        scores: ascending [n]. Raises InputError, naming the classes, if some have too few images.
        """
        counts = np.bincount(predicted, minlength=len(names))
        needed = images_needed(alpha)
        few = [f"{name!r} has {count}" for name, count in zip(names, counts, strict=True) if count < needed]
        if few:
            more = f" and {len(few) - 5} more classes have too few" if len(few) > 5 else ""
            raise InputError(
                f"a threshold for each class at alpha {alpha} needs at least {needed} calibration images "
                f"that are taken for the class, but {', '.join(few[:5])}{more}; calibrate on more ID images, "
                "raise alpha, or use one threshold for all (without --per_class)"
            )
        thresholds = [conformal_threshold(scores[predicted == k], alpha) for k in range(len(names))]
        return cls(names, predicted, scores, thresholds)

    def at(self, alpha: float) -> "ByClass":
        """Return the thresholds for another rate, from the same images; InputError if they are too few."""
        return self.of(self.scores, self.predicted, self.names, alpha)

    @property
    def values(self) -> dict[str, float]:
        """The threshold of each class, by its name."""
        pairs = zip(self.names, self.thresholds, strict=True)
        return {name: threshold.value for name, threshold in pairs}

    @property
    def fewest(self) -> int:
        """The number of calibration images of the class that has fewest."""
        return min(threshold.images for threshold in self.thresholds)

    def p_values(self, scores: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return conformal p-values float64 [N] of scores [N] among the images of their class [N]."""
        found = np.empty(len(scores))
        for place in range(len(self.names)):
            rows = predicted == place
            if rows.any():
                found[rows] = p_values(self.scores[self.predicted == place], scores[rows])
        return found

    def is_ood(self, scores: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return bool [N]: whether each score is above the threshold of its class [N]."""
        return scores > np.array([threshold.value for threshold in self.thresholds])[predicted]
