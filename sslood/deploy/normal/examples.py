"""What detectors learn from: features of normal examples, perhaps with classes and a classifier of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sslood.nets.probing.linear import fit_linear
from sslood.ood.kit.outputs import Head, Outputs

L2 = 0.01  # of the classifier: between 0.001 and 1 its accuracy on photographs differs by a point at most


@dataclass(frozen=True)
class Examples:
    """Features [N, D], labels int64 [N] or None without classes, `classes` their names, logits [N, K] or
    None.

    name: what they are, for people. with_head: a linear classifier of the classes is learned from the
    examples that a detector is fitted to. by_class: detectors may read the labels; otherwise all are of one
    class.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    classes: Sequence[str] = ()
    logits: np.ndarray | None = None
    with_head: bool = False
    by_class: bool = False
    name: str = "normal examples"

    def __len__(self) -> int:
        return len(self.features)

    def others(self, features: np.ndarray, name: str) -> "Examples":
        """Return other examples [M, D], of no class, as a classifier of these classes sees them."""
        return Examples(features, classes=self.classes, by_class=self.by_class, name=name)

    def part(self, rows: np.ndarray) -> "Examples":
        """Return some of the examples."""
        labels = None if self.labels is None else self.labels[rows]
        logits = None if self.logits is None else self.logits[rows]
        return replace(self, features=self.features[rows], labels=labels, logits=logits)

    def of_classes(self, kept: np.ndarray) -> "Examples":
        """Return the examples of some classes (positions, ascending), which become all that there are."""
        labels = np.full(len(self), -1) if self.labels is None else self.labels
        own = np.flatnonzero(np.isin(labels, kept))
        return replace(self.part(own).without_labels(kept), labels=np.searchsorted(kept, labels[own]))

    def without_labels(self, kept: np.ndarray) -> "Examples":
        """Return all examples as a classifier of some classes (positions, ascending) sees them."""
        logits = None if self.logits is None else self.logits[:, kept]
        return replace(self, labels=None, classes=[self.classes[at] for at in kept], logits=logits)

    def head(self) -> Head | None:
        """Return the classifier that these examples teach, float32, or None without one."""
        if not self.with_head or self.labels is None or len(self.classes) < 2:
            return None
        return linear_head(self.features, self.labels, len(self.classes))

    def outputs(self, head: Head | None) -> Outputs:
        """Return the outputs that detectors read, logits by the classifier where there is one."""
        logits = self.logits if head is None else head.logits(self.features).astype(np.float32)
        labels = np.zeros(len(self), np.int64) if self.labels is None or not self.by_class else self.labels
        classes = len(self.classes) if self.by_class else 1
        return Outputs(self.name, self.features, logits=logits, labels=labels, classes=classes, head=head)

    @property
    def smallest(self) -> int:
        """Number of examples of the smallest class; 0 without classes."""
        if self.labels is None or not len(self.classes):
            return 0
        return int(np.bincount(self.labels, minlength=len(self.classes)).min())


def linear_head(features: np.ndarray, labels: np.ndarray, classes: int) -> Head:
    """Return the multinomial logistic regression of labels [N] on features [N, D], weights float32."""
    rows = features.astype(np.float64)
    mean, spread = rows.mean(0), rows.std(0)
    spread[spread == 0] = 1.0
    weights = fit_linear((rows - mean) / spread, labels, classes=classes, l2=L2)
    weight = weights[:-1] / spread[:, None]
    return Head(weight.T.astype(np.float32), (weights[-1] - mean @ weight).astype(np.float32))
