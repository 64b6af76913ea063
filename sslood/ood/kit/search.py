"""The settings of a detector that are "auto", chosen from its declared space without any test image.

Every combination is fitted on ID train and compared on ID validation against the validation split of the
tuning sets, which share no image with a test set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from sslood.core.errors import InputError, LeftOut
from sslood.core.settings import autos
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.fitting import Streaming
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.measures.metrics import nan_among, ood_metrics

Candidates = list[dict[str, Any]]


@dataclass(frozen=True)
class Held:
    """Scores of a fitted detector that choices are made on: of ID validation [N], of each tuning set [M]."""

    inside: np.ndarray
    outside: Mapping[str, np.ndarray]

    @property
    def auroc(self) -> float:
        """The criterion of every choice: the mean AUROC of ID validation against each tuning set."""
        found = [ood_metrics(self.inside, scores)["auroc"] for scores in self.outside.values()]
        return float(np.mean(found))

    def lacking(self, id_name: str) -> str:
        """Return which split has scores that are NaN, and how many; "" if none has."""
        splits = {id_name: self.inside, **self.outside}
        return nan_among({f"{name}.validation": scores for name, scores in splits.items()})


@dataclass(frozen=True)
class Tuning:
    """ID train to fit on, ID validation and the tuning sets (name -> outputs) to choose on."""

    train: Outputs
    validation: Outputs
    sets: Mapping[str, Outputs]
    id: str

    @property
    def source(self) -> str:
        """The criterion of a choice, in words."""
        against = ", ".join(f"{name}.validation" for name in self.sets)
        return f"highest mean AUROC of {self.id}.validation against {against}"

    def held(self, detector: Detector) -> Held:
        """Return the scores of a fitted detector."""
        inside = detector.score(self.validation)
        return Held(inside, {name: detector.score(outputs) for name, outputs in self.sets.items()})


@dataclass(frozen=True)
class Best:
    """The fitted detector with the best settings, its scores, and every candidate with its AUROC."""

    detector: Detector
    held: Held
    candidates: Candidates


def tuning_of(file: Embeddings) -> Tuning:
    """Return the outputs that settings are chosen on; InputError if the file holds no tuning set."""
    if not file.tuning_sets:
        raise InputError(
            f"{file.path}: holds no set with role tuning to choose settings on; list one under `sets`, or "
            "write numbers in place of auto"
        )
    return held_out(file, file.tuning_sets)


def held_out(file: Embeddings, sets: Sequence[str]) -> Tuning:
    """Return the same with these tuning sets; without any, nothing can be chosen on it."""
    outputs = {name: file.outputs(name, "validation") for name in sets}
    train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
    return Tuning(train, validation, outputs, file.id)


def best_settings(kind: type[Detector], settings: Any, tuning: Tuning, *, seed: int, device: str) -> Best:
    """Return the fitted detector with the best value of each setting that is "auto".

    A candidate that these data do not allow (k above the number of images), or whose scores are NaN, has
    AUROC None. Ties go to the candidate nearest the front of the space. Raises InputError if none is possible
    (LeftOut, naming the set, for NaN), or `kind.space` lacks a setting that is "auto" or holds no value for
    it.
    """
    names = autos(settings)
    for name in names:
        if not kind.space.get(name):
            raise InputError(f"{kind.__name__}: {name} cannot be auto, it has no grid; give a value")
    candidates: Candidates = []
    best: tuple[float, Detector, Held] | None = None
    failure = InputError(f"{kind.__name__}: no candidate for {', '.join(names)}")
    gathered: dict[tuple[Any, ...], Any] = {}
    for values in product(*(kind.space[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        auroc = None
        try:
            detector = kind(replace(settings, **chosen), seed=seed, device=device)
            if isinstance(detector, Streaming):
                detector.gathered = gathered
            held = tuning.held(detector.fit(tuning.train, tuning.validation))
            if reason := held.lacking(tuning.id):
                raise LeftOut(reason, f"{kind.__name__}: ")
            auroc = held.auroc
        except InputError as error:
            failure = error
        candidates.append({**chosen, "auroc": auroc})
        if auroc is not None and (best is None or auroc > best[0]):
            best = auroc, detector, held
    if best is None:
        raise failure
    if isinstance(best[1], Streaming):
        best[1].gathered = None  # what the candidates shared
    return Best(*best[1:], candidates)
