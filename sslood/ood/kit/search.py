"""The settings of a detector from its declared space, chosen without a look at any test image.

Every combination is fitted on ID train and compared on ID validation against the validation split of the
tuning sets, which `embed` refuses if they share an image with a test set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.ood.kit.detector import Detector
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
        """What a choice rests on, in words."""
        against = ", ".join(f"{name}.validation" for name in self.sets)
        return f"highest mean AUROC of {self.id}.validation against {against}"


def tuning_of(file: Embeddings) -> Tuning:
    """Return what settings are chosen on; InputError if the file holds no set with role tuning."""
    if not file.tuning_sets:
        raise InputError(
            f"{file.path}: holds no set with role tuning to choose on; list one under `sets`, or turn "
            "posthoc.search off"
        )
    sets = {name: file.outputs(name, "validation") for name in file.tuning_sets}
    train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
    return Tuning(train, validation, sets, file.id)


def best_settings(
    kind: type[Detector], settings: Any, tuning: Tuning, *, seed: int, device: str
) -> tuple[Any, Candidates]:
    """Return (settings with the best values of `kind.space`, every candidate with its AUROC).

    What the space does not name stays as in `settings`. A candidate that these data do not allow (k above
    the number of images) has AUROC None. Ties go to the candidate nearest the front of the space. Raises
    InputError if none is possible.
    """
    candidates, best, last = [], None, None
    for values in product(*kind.space.values()):
        chosen = dict(zip(kind.space, values, strict=True))
        try:
            auroc = _auroc(kind(replace(settings, **chosen), seed=seed, device=device), tuning)
        except InputError as error:
            auroc, last = None, error
        candidates.append({**chosen, "auroc": auroc})
        if auroc is not None and (best is None or auroc > best["auroc"]):
            best = candidates[-1]
    if best is None:
        raise last
    return replace(settings, **{name: best[name] for name in kind.space}), candidates


def _auroc(detector: Detector, tuning: Tuning) -> float:
    inside = detector.fit(tuning.train, tuning.validation).score(tuning.validation)
    found = [ood_metrics(inside, detector.score(outputs))["auroc"] for outputs in tuning.sets.values()]
    return float(np.mean(found))
