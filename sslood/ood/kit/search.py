"""The settings of a detector that are "auto", chosen from its declared space without any test image.

Every combination is fitted on ID train and compared on ID validation against the validation split of the
tuning sets, which share no image with a test set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.settings import autos
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.fitting import Streaming
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.measures.metrics import ood_metrics

Candidates = list[dict[str, Any]]


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


def tuning_of(file: Embeddings) -> Tuning:
    """Return the outputs that settings are chosen on; InputError if the file holds no tuning set."""
    if not file.tuning_sets:
        raise InputError(
            f"{file.path}: holds no set with role tuning to choose settings on; list one under `sets`, or "
            "write numbers in place of auto"
        )
    sets = {name: file.outputs(name, "validation") for name in file.tuning_sets}
    train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
    return Tuning(train, validation, sets, file.id)


def best_settings(
    kind: type[Detector], settings: Any, tuning: Tuning, *, seed: int, device: str
) -> tuple[Any, Candidates]:
    """Return (settings with the best value of each that is "auto", every candidate with its AUROC).

    A candidate that these data do not allow (k above the number of images) has AUROC None. Ties go to the
    candidate nearest the front of the space. Raises InputError if none is possible, or `kind.space` lacks a
    setting that is "auto".
    """
    names = autos(settings)
    for name in names:
        if name not in kind.space:
            raise InputError(f"{kind.__name__}: {name} cannot be auto; give a value")
    candidates: Candidates = []
    best: dict[str, Any] | None = None
    failure = InputError(f"{kind.__name__}: no candidate for {', '.join(names)}")
    gathered: dict[tuple[Any, ...], Any] = {}
    for values in product(*(kind.space[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        try:
            detector = kind(replace(settings, **chosen), seed=seed, device=device)
            if isinstance(detector, Streaming):
                detector.gathered = gathered
            auroc = _auroc(detector, tuning)
        except InputError as error:
            auroc, failure = None, error
        candidates.append({**chosen, "auroc": auroc})
        if auroc is not None and (best is None or auroc > best["auroc"]):
            best = candidates[-1]
    if best is None:
        raise failure
    return replace(settings, **{name: best[name] for name in names}), candidates


def _auroc(detector: Detector, tuning: Tuning) -> float:
    """Return the mean AUROC of ID validation against each tuning set, after fitting the detector."""
    inside = detector.fit(tuning.train, tuning.validation).score(tuning.validation)
    aurocs = [ood_metrics(inside, detector.score(outputs))["auroc"] for outputs in tuning.sets.values()]
    return float(np.mean(aurocs))
