"""The contract of all detectors: typed by what they read, fitted on ID train outputs, one score per image."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import Need, Needs, check_needs
from sslood.core.settings import Settings, autos
from sslood.ood.kit.outputs import CHUNK, Outputs
from sslood.ood.kit.pieces import in_pieces, pieces

PIECE = 512  # rows scored at a time: 2 MiB of 512 features stay in the cache of a core
Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class NoSettings(Settings):
    """For detectors without hyperparameters."""


class Detector(ABC):
    """A score for images from a model's outputs; larger = more OOD.

    A subclass defines

    - `reads`: the parts of `Outputs` that it needs; `needs_head` if `_fit` reads the classifier's weights,
      `needs_concepts` the vectors of words that it reads;
    - `needs`: of the split that it is fitted to (labels, so many images), what `download` tells in advance;
    - `least_classes`: that the classifier, or the words, must have for scores to be finite, or to mean
      something;
    - `Settings`: its hyperparameters. Those that `space` covers may be "auto", to be chosen from that grid;
    - `_fit`: state (name -> array) from ID train or, with `on_validation`, from ID validation, which the
      model has not seen. Nothing, if it learns nothing;
    - `_score`: parts (name -> float64 [n, width]) and state, both tensors -> float64 [n], by operations that
      torch can trace; `score` and exported graphs both run it. `unexportable` is the reason if it cannot be.

    A fitted detector is its settings, `state` and `widths` (part -> width), from which `restore` remakes it.

    seed: of random choices while fitting. device: where scores are computed ("cpu", "cuda").
    """

    reads: tuple[str, ...] = ()
    needs: Needs = ()
    needs_head: ClassVar[bool] = False
    needs_concepts: ClassVar[tuple[str, ...]] = ()
    on_validation: ClassVar[bool] = False
    least_classes: ClassVar[int] = 1
    searches_bank: ClassVar[bool] = False  # `_score` shares its work out among the cores itself
    unexportable: ClassVar[str] = ""
    Settings: ClassVar[type[Settings]] = NoSettings
    space: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init__(self, settings: Any = None, *, seed: int = 0, device: str = "cpu"):
        self.settings: Any = self.Settings() if settings is None else settings
        self.seed, self.device = seed, device
        self.widths: dict[str, int] | None = None
        self.state = {}

    @property
    def state(self) -> Arrays:
        """What was learned: name -> array."""
        return self._state

    @state.setter
    def state(self, arrays: Arrays) -> None:
        self._state = arrays
        self._on_device: Tensors | None = None

    def suits(self, outputs: Outputs) -> bool:
        """Whether the model has the parts that are read and, if needed, a classifier and words.

        One of which the weights alone are missing does: `fit` says how to get them.
        """
        words = all(getattr(outputs.concepts, part, None) is not None for part in self.needs_concepts)
        return words and outputs.has(self.reads) and (not self.needs_head or outputs.has(["logits"]))

    def fit(self, train: Outputs, validation: Outputs | None = None) -> Self:
        """Learn from ID outputs. LeftOut if they miss one of `needs` or the weights, InputError if a part.

        Raises InputError too if a setting is still "auto": `sslood.ood.kit.search` chooses it.
        """
        source = validation if self.on_validation else train
        if source is None:
            raise InputError(f"{train.name}: {type(self).__name__} is fitted on ID validation; give it")
        self._check_source(source)
        some = Need("validation" if self.on_validation else "train", images=1)
        where = f"{source.name}: {type(self).__name__} "
        check_needs((some, *self.needs), source.labels, len(source), where)
        self.state = self._fit(source)
        self.widths = self._widths(source)
        return self

    def score(self, outputs: Outputs) -> np.ndarray:
        """Return float64 [N], larger = more OOD. InputError if a part is missing or of another width."""
        if self.widths is None:
            raise InputError(f"{type(self).__name__} must be fitted before it scores {outputs.name}")
        self._check_parts(outputs)
        for part, width in self._widths(outputs).items():
            if width != self.widths[part]:
                raise InputError(
                    f"{outputs.name}: {part} are {width} wide, but the detector was fitted on "
                    f"{self.widths[part]}"
                )
        device = _with_float64(self.device)
        arrays = {part: outputs.need(part) for part in self.reads}
        state, scores = self._tensors(device), np.empty(len(outputs))

        @torch.inference_mode()
        def compute(rows: slice) -> None:
            parts = {
                part: _tensor(np.ascontiguousarray(a[rows]), device).double() for part, a in arrays.items()
            }
            scores[rows] = self._score(parts, state).cpu().numpy()

        if device == "cpu" and not self.searches_bank:
            in_pieces(compute, len(outputs), PIECE)
        else:
            for rows in pieces(len(outputs), CHUNK):
                compute(rows)
        return scores

    def scorer(self) -> "Scorer":
        """Return the fitted detector's score as a module on the CPU, to be traced."""
        return Scorer(self)

    def restore(self, state: Arrays, widths: dict[str, int]) -> Self:
        """Become the fitted detector that had this `state` and these `widths`."""
        self.state, self.widths = state, widths
        return self

    def _tensors(self, device: str) -> Tensors:
        if self._on_device is None:
            self._on_device = {key: _tensor(array, device) for key, array in self.state.items()}
        return self._on_device

    def _widths(self, outputs: Outputs) -> dict[str, int]:
        return {part: outputs.need(part).shape[1] for part in self.reads}

    def _check_parts(self, outputs: Outputs) -> None:
        for part in self.reads:
            if not outputs.has([part]):
                raise InputError(
                    f"{outputs.name}: {type(self).__name__} reads {part}, which this model does not have"
                )

    def _check_source(self, source: Outputs) -> None:
        check_chosen(type(self).__name__, self.settings)
        self._check_parts(source)
        if self.needs_head and source.head is None:
            raise LeftOut(
                "reads the weights of the classifier, which are missing; of a model that was trained here "
                "`dvc repro embed` writes them",
                f"{source.name}: {type(self).__name__} ",
            )
        found, what = self._classes(source)
        if found < self.least_classes:
            raise LeftOut(
                f"needs {what} of at least {self.least_classes} classes, this one has {found}",
                f"{source.name}: {type(self).__name__} ",
            )

    def _classes(self, source: Outputs) -> tuple[float, str]:
        """Return (classes that scores are of, what has them); infinity where they are of none."""
        if "logits" in self.reads or self.needs_head:
            head = self.needs_head and "logits" not in self.reads
            return len(source.need_head().bias) if head else source.need("logits").shape[1], "a classifier"
        if "labels" in self.needs_concepts:
            return len(source.need_concepts("labels")), "a vocabulary"
        return math.inf, "nothing"

    def _fit(self, source: Outputs) -> Arrays:
        return {}

    @abstractmethod
    def _score(self, parts: Tensors, state: Tensors) -> Tensor: ...


class Scorer(nn.Module):
    """A fitted detector's score: parts (name -> float64 [n, width]) -> float64 [n]; the state as buffers."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector
        for key, array in detector.state.items():
            self.register_buffer(key, torch.from_numpy(np.array(array)))  # a copy: files are memory maps

    def forward(self, parts: Tensors) -> Tensor:
        return self.detector._score(parts, dict(self.named_buffers()))


def _with_float64(device: str) -> str:
    """Return the device, or "cpu" where it has no float64."""
    return "cpu" if device.startswith("mps") else device


def _tensor(array: np.ndarray, device: str) -> Tensor:
    """Return an array as a tensor on the device, without a copy where torch allows it."""
    shared = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if shared else array.copy()).to(device)


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
            "detectors need; label them, remove them, or take these detectors out of the params"
        )
    if source.classes is not None and len(source) and source.labels.max() >= source.classes:
        raise InputError(f"{source.name}: label {source.labels.max()}, but {source.classes} classes")
    return np.asarray(source.labels)


def class_labels(train: Outputs) -> np.ndarray:
    """Return the labels as class indices [N]; InputError if one is unknown, LeftOut if a class has none."""
    labels = known_labels(train)
    check_counts(np.bincount(labels, minlength=train.classes or 0), train.name)
    return labels


def check_counts(counts: np.ndarray, name: str) -> None:
    """Raise LeftOut if a class has no image."""
    if not counts.all():
        empty = int(np.flatnonzero(counts == 0)[0])
        raise LeftOut(f"no image of class {empty}; each class needs some", f"{name}: ")
