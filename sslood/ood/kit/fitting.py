"""Detectors fitted batch by batch and shard by shard: by sums in constant memory, or from collected rows."""

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from sslood.core.errors import InputError
from sslood.core.needs import check_needs
from sslood.ood.geometry.covariance import Moments, Transform, unchanged
from sslood.ood.kit.detector import Arrays, Detector, known_labels
from sslood.ood.kit.outputs import CHUNK, Outputs, chunked

WHOLE = 2**62  # more images than there are: all of them in one piece


@dataclass(frozen=True)
class LogSums:
    """Logarithms of sums, of terms too small for the sums themselves."""

    logs: np.ndarray

    def merged(self, other: "LogSums") -> "LogSums":
        """Return the logarithms of the sums of both."""
        return LogSums(np.logaddexp(self.logs, other.logs))


@dataclass(frozen=True)
class Collected:
    """Rows of all images, [n, D] each: the memory grows with the images."""

    parts: tuple[np.ndarray, ...]

    def merged(self, other: "Collected") -> "Collected":
        """Return the rows of both, without a copy."""
        return Collected(self.parts + other.parts)

    def copied(self) -> "Collected":
        """Return the rows in memory of their own."""
        return Collected(tuple(np.array(part) for part in self.parts))

    @property
    def all(self) -> np.ndarray:
        """The rows as one array."""
        return self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)


Sums = dict[str, Any]  # arrays, which add, and Moments, LogSums or Collected, which merge


def added(one: Sums, other: Sums) -> Sums:
    """Return the sums of both, as if all images had come at once."""
    return {
        key: part.merged(other[key]) if hasattr(part, "merged") else part + other[key]
        for key, part in one.items()
    }


class Streaming(Detector):
    """A detector that can also be fitted by `partial_fit` and `merge`, where images come in batches or
    shards.

        detector.partial_fit(batch) …   shard by shard, then   detector.merge(other).finish()

    The result is that of `fit` on all images at once, up to rounding. A subclass defines `_gather`, the
    sums over some images, and `_conclude`, the state from the sums over all. A batch need not hold all
    classes, so `classes` of the outputs must be set. `fit` gathers `piece` images at a time. Detectors that
    are fitted to the same images may share a dictionary `gathered`: then the sums are computed once for each
    value of the settings `gathered_by`, those that `_gather` reads.
    """

    piece: ClassVar[int] = CHUNK
    gathered_by: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Any = None, *, seed: int = 0, device: str = "cpu"):
        super().__init__(settings, seed=seed, device=device)
        self.gathered: dict[tuple[Any, ...], Sums] | None = None
        self.sums: Sums | None = None
        self.last: Outputs | None = None  # name, classes and head of the last batch, without its images
        self.counts = Counter[int]()  # images of each label, -1 unknown

    def partial_fit(self, batch: Outputs) -> Self:
        """Add ID images (of validation, for a detector that is fitted on it), perhaps none; InputError as
        `fit`.
        """
        if batch.classes is None:
            raise InputError(f"{batch.name}: fitting in batches needs the number of classes; set `classes`")
        self._check_source(batch)
        if not len(batch):
            return self
        last = Outputs(batch.name, classes=batch.classes, head=batch.head)
        labels = np.full(len(batch), -1) if batch.labels is None else batch.labels
        known, counts = np.unique(labels, return_counts=True)
        found = Counter(dict(zip(known.tolist(), counts.tolist(), strict=True)))
        sums = {
            key: part.copied() if isinstance(part, Collected) else part  # the caller may fill arrays again
            for key, part in self._gather(batch).items()
        }
        return self._add(sums, last, self._widths(batch), found)

    def merge(self, other: Self) -> Self:
        """Add the images that a detector of the same kind has seen."""
        if type(other) is not type(self) or other.settings != self.settings:
            raise InputError(f"only detectors of one kind and settings merge, not {type(other).__name__}")
        if other.sums is None or other.last is None or other.widths is None:
            return self
        return self._add(other.sums, other.last, other.widths, other.counts)

    def finish(self) -> Self:
        """Become fitted to all images so far; more may follow, and another `finish`. LeftOut as `fit`."""
        if self.sums is None or self.last is None:
            raise InputError(f"{type(self).__name__} has seen no images yet; give it some by partial_fit")
        if self.needs:
            labels = np.repeat(list(self.counts), list(self.counts.values()))
            check_needs(self.needs, labels, where=f"{self.last.name}: {type(self).__name__} ")
        self.state = self._conclude(self.sums, self.last)
        return self

    def _fit(self, source: Outputs) -> Arrays:
        if source.classes is None and source.labels is not None and len(source.labels):
            source = replace(source, classes=max(int(source.labels.max()) + 1, 1))
        if self.gathered is None:
            return self._conclude(self._gather_all(source), source)
        key = tuple(getattr(self.settings, name) for name in self.gathered_by)
        if key not in self.gathered:
            self.gathered[key] = self._gather_all(source)
        return self._conclude(self.gathered[key], source)

    def _gather_all(self, source: Outputs) -> Sums:
        batches = chunked(source, self.piece)
        sums = self._gather(next(batches))
        for batch in batches:
            sums = added(sums, self._gather(batch))
        return sums

    def _add(self, sums: Sums, last: Outputs, widths: dict[str, int], counts: Counter[int]) -> Self:
        if self.last is not None and (widths, last.classes) != (self.widths, self.last.classes):
            raise InputError(
                f"{last.name}: {last.classes} classes and widths {widths}, but the images before had "
                f"{self.last.classes} and {self.widths}; fit on outputs of one model"
            )
        self.sums = sums if self.sums is None else added(self.sums, sums)
        self.last, self.widths, self.counts = last, widths, self.counts + counts
        return self

    @abstractmethod
    def _gather(self, source: Outputs) -> Sums:
        """Return sums over the images of `source`; only `Collected` grows with their number."""

    @abstractmethod
    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        """Return the state from the sums over all images, and the name, classes and head of `source`."""


def collected(source: Outputs, *parts: str) -> Sums:
    """Return the rows of parts of all images; "labels" as class indices, InputError if one is unknown."""
    return {
        part: Collected((known_labels(source) if part == "labels" else source.need(part),)) for part in parts
    }


def feature_sum(source: Outputs) -> Sums:
    """Return the sum of the features and the number of images, of which `mean_of` is the mean."""
    features = source.need("features")
    return {"sum": features.sum(axis=0, dtype=np.float64), "count": np.array(len(features))}


def mean_of(sums: Sums) -> np.ndarray:
    """Return the mean features [D] from `feature_sum`."""
    return np.asarray(sums["sum"] / sums["count"])


def all_moments(source: Outputs, transform: Transform = unchanged) -> Moments:
    """Return the moments of the transformed features of all images."""
    features = transform(source.need("features"))
    moments = Moments.empty(1, features.shape[1])
    moments.update(features)
    return moments


def class_moments(source: Outputs, transform: Transform = unchanged) -> Moments:
    """Return the moments of the transformed features by label; InputError if a label is unknown."""
    features = transform(source.need("features"))
    moments = Moments.empty(source.need_classes(), features.shape[1])
    moments.update(features, known_labels(source))
    return moments


def class_sums(rows: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the sums of rows [N, D] by group, with the number of images last: float64 [count, D + 1]."""
    member = np.zeros((count, len(rows)))
    member[groups, np.arange(len(rows))] = 1.0
    return np.column_stack([member @ rows.astype(np.float64), member.sum(axis=1)])
