"""The settings of a detector of the network that are "auto", chosen without any test image."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from sslood.core.settings import autos
from sslood.ood.measures.metrics import ood_metrics

SOURCE = "highest AUROC for ID validation against tuning"


def choose(
    settings: Any, space: Mapping[str, tuple[Any, ...]], scores: Callable[[Any, str], np.ndarray]
) -> tuple[Any, dict[str, Any]]:
    """Return (settings with the best value of each that is "auto", each choice with all candidates).

    scores(settings, split): float64 [N] of the images of "validation" and of "tuning", larger = more OOD. All
    combinations of the values in `space` are tried; ties go to the one nearest its front.
    """
    names = autos(settings)
    tried: list[dict[str, Any]] = []
    for values in product(*(space[name] for name in names)):
        candidate = dict(zip(names, values, strict=True))
        inside, outside = (
            scores(replace(settings, **candidate), split) for split in ("validation", "tuning")
        )
        tried.append({**candidate, "auroc": ood_metrics(inside, outside)["auroc"]})
    best = max(tried, key=lambda candidate: candidate["auroc"])
    chosen = {name: {"value": best[name], "source": SOURCE, "candidates": tried} for name in names}
    return replace(settings, **{name: best[name] for name in names}), chosen
