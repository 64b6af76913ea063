"""Detectors fitted batch after batch and shard by shard: by sums in constant memory, or to a bank of rows."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from sslood.core.errors import InputError
from sslood.ood.geometry.covariance import Moments
from sslood.ood.kit.detector import Detector, known_labels
from sslood.ood.kit.outputs import CHUNK, Outputs, chunked


@dataclass(frozen=True)
class LogSums:
    """Logarithms of sums, of terms too small for the sums themselves."""

    logs: np.ndarray

    def merged(self, other: "LogSums") -> "LogSums":
        """Return the logarithms of the sums of both."""
        return LogSums(np.logaddexp(self.logs, other.logs))


@dataclass(frozen=True)
class Rows:
    """Rows of all images, [n, D] each: the memory grows with the images."""

    parts: tuple[np.ndarray, ...]

    def merged(self, other: "Rows") -> "Rows":
        """Return the rows of both, without a copy."""
        return Rows(self.parts + other.parts)

    @property
    def all(self) -> np.ndarray:
        """The rows as one array."""
        return self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)


Sums = dict[str, Moments | LogSums | Rows | np.ndarray]


def added(one: Sums, other: Sums) -> Sums:
    """Return the sums of both, as if all images had come at once; arrays add."""
    return {
        key: part.merged(other[key]) if isinstance(part, Moments | LogSums | Rows) else part + other[key]
        for key, part in one.items()
    }


class Streaming(Detector):
    """A detector that `partial_fit` and `merge` fit too, where the images come in batches or in shards.

        detector.partial_fit(batch) …   shard by shard, then   detector.merge(other).finish()

    The result is that of `fit` on all images at once, but for rounding. A subclass defines `_gather`, the
    sums over some images, and `_conclude`, the state from the sums over all. Labels tell no number of
    classes in a batch, so `classes` of the outputs must be set. `fit` gathers `piece` images at a time.
    """

    piece: ClassVar[int] = CHUNK

    def __init__(self, settings: Any = None, *, seed: int = 0, device: str = "cpu"):
        super().__init__(settings, seed=seed, device=device)
        self.sums: Sums | None = None
        self.last: Outputs | None = None  # name, classes and head of the last batch, without its images

    def partial_fit(self, batch: Outputs) -> Self:
        """Add ID images (of validation, for a detector that is fitted on it); InputError as `fit`."""
        if batch.classes is None:
            raise InputError(f"{batch.name}: fitting in batches needs the number of classes; set `classes`")
        self._check_source(batch)
        widths = {part: getattr(batch, part).shape[1] for part in self.reads}
        about = Outputs(batch.name, classes=batch.classes, head=batch.head)
        return self._add(self._gather(batch), about, widths)

    def merge(self, other: Self) -> Self:
        """Add the images that a detector of the same kind has seen."""
        if type(other) is not type(self) or other.settings != self.settings:
            raise InputError(f"only detectors of one kind and settings merge, not {type(other).__name__}")
        return self if other.sums is None else self._add(other.sums, other.last, other.widths)

    def finish(self) -> Self:
        """Become fitted to all images so far; more may follow, and another `finish`."""
        self._check_seen()
        self.state = self._conclude(self.sums, self.last)
        return self

    def _check_seen(self) -> None:
        if self.sums is None:
            raise InputError(f"{type(self).__name__} has seen no images yet; give it some by partial_fit")

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        if source.classes is None and source.labels is not None and len(source.labels):
            source = replace(source, classes=max(int(source.labels.max()) + 1, 1))
        return self._conclude(self._gather_all(source), source)

    def _gather_all(self, source: Outputs) -> Sums:
        sums = None
        for piece in chunked(source, self.piece):
            found = self._gather(piece)
            sums = found if sums is None else added(sums, found)
        return sums

    def _add(self, sums: Sums, about: Outputs, widths: dict[str, int]) -> Self:
        if self.sums is not None and (widths, about.classes) != (self.widths, self.last.classes):
            raise InputError(
                f"{about.name}: {about.classes} classes and widths {widths}, but the images before had "
                f"{self.last.classes} and {self.widths}; fit on outputs of one model"
            )
        self.sums = sums if self.sums is None else added(self.sums, sums)
        self.last, self.widths = about, widths
        return self

    @abstractmethod
    def _gather(self, source: Outputs) -> Sums:
        """Return sums over the images of `source`; of one size whatever the images, but for `Rows`."""

    @abstractmethod
    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        """Return the state from the sums over all images; of `source` only name, classes and head count."""


class TwoPass(Streaming):
    """A detector whose sums need what other sums tell first: all images come twice.

        detector.partial_fit(batch) …, merge; then detector.again(), every batch once more, and finish()

    For shards: `again` on the merged detector, and the second pass of each shard on a `share` of it, which
    merge as before. A subclass defines `_between`, what the second pass must know, from the sums of the
    first; it then stands in `found`, which is None in the first pass. Both kinds of sums have a "count".
    """

    def __init__(self, settings: Any = None, *, seed: int = 0, device: str = "cpu"):
        super().__init__(settings, seed=seed, device=device)
        self.found: dict[str, np.ndarray] | None = None

    def again(self) -> Self:
        """End the first pass."""
        self._check_seen()
        self.found, self.sums = self._between(self.sums, self.last), None
        return self

    def share(self) -> Self:
        """Return a detector for the second pass over one shard."""
        other = type(self)(self.settings, seed=self.seed, device=self.device)
        other.found = self.found
        return other

    def merge(self, other: Self) -> Self:
        if type(other) is type(self) and other.found is not self.found:
            raise InputError(f"{type(self).__name__}: merge after the first pass, then share what is merged")
        return super().merge(other)

    def finish(self) -> Self:
        """Become fitted; InputError unless both passes have seen as many images."""
        first = None if self.found is None else int(self.found["count"])
        second = 0 if self.sums is None else int(self.sums["count"])
        if first != second:
            raise InputError(
                f"{type(self).__name__} takes two passes over the same images: partial_fit all, again(), "
                f"partial_fit all; the first has {'not ended' if first is None else f'seen {first} images'}, "
                f"the second has seen {0 if first is None else second}"
            )
        return super().finish()

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        self.found = None
        self.found = self._between(self._gather_all(source), source)
        return super()._fit(source)

    @abstractmethod
    def _between(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        """Return what the second pass must know, and the "count" of images, from the sums of the first."""


def all_moments(source: Outputs) -> Moments:
    """Return the moments of the features of all images."""
    moments = Moments.empty(1, source.features.shape[1])
    moments.update(source.features)
    return moments


def class_moments(source: Outputs) -> Moments:
    """Return the moments of the features by label; InputError if a label is unknown."""
    moments = Moments.empty(source.classes, source.features.shape[1])
    moments.update(source.features, known_labels(source))
    return moments


def class_sums(rows: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the sums of rows [N, D] by group, with the number of images last: float64 [count, D + 1]."""
    member = np.zeros((count, len(rows)))
    member[groups, np.arange(len(rows))] = 1.0
    return np.column_stack([member @ rows.astype(np.float64), member.sum(axis=1)])
