"""What detectors of both kinds read of some images: outputs of a model, or the images and the network."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from sslood.core.errors import InputError
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress
from sslood.ood.kit.outputs import Outputs, part_of

T = TypeVar("T")
AnyDetector = Detector | NetworkDetector


@dataclass(frozen=True)
class Inputs:
    """What detectors may read of N images: outputs of the model, uint8 images [N, C, H, W], the network.

    None for what none of the detectors reads. name: of the set and split, for people.
    """

    outputs: Outputs | None = None
    images: np.ndarray | None = None
    network: Network | None = None
    name: str = "images"

    def __len__(self) -> int:
        if self.outputs is not None:
            return len(self.outputs)
        return 0 if self.images is None else len(self.images)

    def halves(self) -> tuple["Inputs", "Inputs"]:
        """Return the images at even places and those at odd places."""
        odd, even = (self._part(slice(start, None, 2)) for start in (0, 1))
        return (
            replace(odd, name=f"images 1, 3, 5, … of {self.name}"),
            replace(even, name=f"images 2, 4, 6, … of {self.name}"),
        )

    def at_most(self, count: int) -> "Inputs":
        """Return at most `count` of the images, at even steps from the first."""
        return self._part(slice(None, None, max(1, -(-len(self) // count))))

    def predicted(self) -> np.ndarray:
        """Return the class that the model takes each image for, by place among its logits: int64 [N].

        InputError if there are no logits.
        """
        logits = present(self.outputs).logits
        if logits is None:
            raise InputError(
                f"{self.name}: the predicted classes have thresholds of their own, but there are no logits; "
                "give --logits"
            )
        return logits.argmax(axis=1)

    def _part(self, rows: slice) -> "Inputs":
        outputs = None if self.outputs is None else part_of(self.outputs, rows)
        return replace(self, outputs=outputs, images=None if self.images is None else self.images[rows])

    def fit(
        self, detector: AnyDetector, validation: "Inputs", progress: Progress = lambda count: None
    ) -> None:
        """Fit a detector to these ID train images, and to ID validation images if it reads them."""
        if isinstance(detector, Detector):
            detector.fit(present(self.outputs), validation.outputs)
        else:
            images = {"train": self.images, "validation": validation.images}
            detector.fit(present(self.network), {k: present(v) for k, v in images.items()}, progress)

    def score(self, detector: AnyDetector, progress: Progress = lambda count: None) -> np.ndarray:
        """Return the scores float64 [N] of a fitted detector, larger = more OOD."""
        if isinstance(detector, NetworkDetector):
            return detector.score(present(self.network), present(self.images), progress)
        return detector.score(present(self.outputs))


def present(part: T | None) -> T:
    """Return an input that a detector reads; a missing one is a mistake of the caller."""
    if part is None:
        raise TypeError("the inputs lack what a detector reads: outputs, or images and the network")
    return part
