"""What every detector is: typed by what it reads, fitted on ID train outputs, one score an image."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from sslood.core.errors import InputError
from sslood.core.settings import autos
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class NoSettings:
    """For detectors without hyperparameters."""


class Detector(ABC):
    """A score for images from a model's outputs; larger = more OOD.

    A subclass states `reads` (parts of `Outputs` it needs), `Settings` (a frozen dataclass of its
    hyperparameters), `_score`, and, if it learns, `_fit`: from ID train, or with `on_validation` from ID
    validation, which the model has not seen. With `needs_head`, `_fit` finds the classifier's weights in
    `head`. All that was learned is in `state` (name -> array), so a fitted detector can be written to a
    file and read back (`restore`). `widths` holds the width of each part it was fitted on. `space` holds the
    values of each setting that a search tries, if there is one to try (sslood/ood/kit/search.py).

    seed: of random choices while fitting. device: where large products run ("cpu", "cuda").
    """

    reads: tuple[str, ...] = ()
    needs_head: ClassVar[bool] = False
    on_validation: ClassVar[bool] = False
    Settings: ClassVar[type] = NoSettings
    space: ClassVar[Mapping[str, tuple]] = {}

    def __init__(self, settings: Any = None, *, seed: int = 0, device: str = "cpu"):
        self.settings = self.Settings() if settings is None else settings
        self.seed, self.device = seed, device
        self.state: dict[str, np.ndarray] = {}
        self.widths: dict[str, int] | None = None

    def suits(self, outputs: Outputs) -> bool:
        """Whether the model has what is read: a detector that needs a head asks for a classifier."""
        return outputs.has(self.reads) and (not self.needs_head or outputs.has(["logits"]))

    def fit(self, train: Outputs, validation: Outputs | None = None) -> Self:
        """Learn from ID outputs; InputError if they lack a part or the head's weights, or are too few.

        Raises InputError too if a setting is still "auto": `sslood.ood.kit.search` chooses it.
        """
        check_chosen(type(self).__name__, self.settings)
        source = validation if self.on_validation else train
        if source is None:
            raise InputError(f"{train.name}: {type(self).__name__} is fitted on ID validation; give it")
        self._check_source(source)
        self.state = self._fit(source)
        self.widths = {part: getattr(source, part).shape[1] for part in self.reads}
        return self

    def score(self, outputs: Outputs) -> np.ndarray:
        """Return float64 [N], larger = more OOD. InputError if a part is missing or of another width."""
        if self.widths is None:
            raise InputError(f"{type(self).__name__} must be fitted before it scores {outputs.name}")
        self._check(outputs)
        for part, width in self.widths.items():
            found = getattr(outputs, part).shape[1]
            if found != width:
                raise InputError(
                    f"{outputs.name}: {part} are {found} wide, but the detector was fitted on {width}"
                )
        return np.asarray(self._score(outputs), dtype=np.float64)

    def restore(self, state: dict[str, np.ndarray], widths: dict[str, int]) -> Self:
        """Become the fitted detector whose `state` and `widths` these were."""
        self.state, self.widths = state, widths
        return self

    def _check(self, outputs: Outputs) -> None:
        for part in self.reads:
            if not outputs.has([part]):
                raise InputError(
                    f"{outputs.name}: {type(self).__name__} reads {part}, which this model does not have"
                )

    def _check_source(self, source: Outputs) -> None:
        self._check(source)
        if self.needs_head and source.head is None:
            raise InputError(
                f"{source.name}: {type(self).__name__} reads the weights of the classifier, which are not "
                "there; if the model is one, run `dvc repro embed` again"
            )

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        return {}

    @abstractmethod
    def _score(self, outputs: Outputs) -> np.ndarray: ...


def positive(owner: str, **values: float) -> None:
    """Raise InputError unless every value is above zero."""
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{owner}.{name} must be above 0, found {value}")


def fraction(owner: str, **values: float) -> None:
    """Raise InputError unless every value lies between 0 and 1, both excluded."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise InputError(f"{owner}.{name} must lie between 0 and 1, found {value}")


def check_chosen(owner: str, settings: Any) -> None:
    """Raise InputError if a setting is still "auto"."""
    if names := autos(settings):
        raise InputError(
            f"{owner}: the setting {names[0]} is auto; give a value, or choose one (sslood.ood.kit.search)"
        )


def known_labels(source: Outputs) -> np.ndarray:
    """Return the labels as class indices [N]; InputError if one is unknown."""
    if source.labels is None or len(source.labels) != len(source):
        raise InputError(f"{source.name}: class-conditional detectors need the label of every image")
    unknown = int((source.labels < 0).sum())
    if unknown:
        raise InputError(
            f"{source.name}: {unknown} of {len(source)} images have no label, which class-conditional "
            "detectors need; label them, leave them out, or take these detectors out of the params"
        )
    if source.classes is not None and len(source) and source.labels.max() >= source.classes:
        raise InputError(f"{source.name}: label {source.labels.max()}, but {source.classes} classes")
    return np.asarray(source.labels)


def class_labels(train: Outputs) -> np.ndarray:
    """Return the labels as class indices [N]; InputError if one is unknown or a class has no image."""
    labels = known_labels(train)
    check_counts(np.bincount(labels, minlength=train.classes or 0), train.name)
    return labels


def check_counts(counts: np.ndarray, name: str) -> None:
    """Raise InputError if a class has no image."""
    if not counts.all():
        raise InputError(
            f"{name}: no image of class {int(np.flatnonzero(counts == 0)[0])}; each class needs some"
        )
