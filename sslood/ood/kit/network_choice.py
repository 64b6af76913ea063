"""The settings of a detector of the network that are "auto", chosen without any test image."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from sslood.core.errors import InputError, LeftOut
from sslood.core.settings import autos
from sslood.ood.measures.metrics import nan_among, ood_metrics

SOURCE = "highest AUROC for ID validation against tuning"


def choose(
    settings: Any, space: Mapping[str, tuple[Any, ...]], scores: Callable[[Any, str], np.ndarray]
) -> tuple[Any, dict[str, Any]]:
    """Return (settings with the best value of each that is "auto", each choice with all candidates).

    scores(settings, split): float64 [N] of the images of "validation" and of "tuning", larger = more OOD. All
    combinations of the values in `space` are tried; ties go to the one nearest its front. One that the other
    settings or these images do not allow, or whose scores are NaN, has AUROC None. LeftOut, as the last was,
    if none is possible.
    """
    names = autos(settings)
    tried: list[dict[str, Any]] = []
    failure = InputError(f"no candidate for {', '.join(names)}")
    for values in product(*(space[name] for name in names)):
        candidate = dict(zip(names, values, strict=True))
        auroc = None
        try:
            given = replace(settings, **candidate)
            found = {split: scores(given, split) for split in ("validation", "tuning")}
            if reason := nan_among(found):
                raise InputError(reason)
            auroc = ood_metrics(*found.values())["auroc"]
        except InputError as error:
            failure = error
        tried.append({**candidate, "auroc": auroc})
    possible = [candidate for candidate in tried if candidate["auroc"] is not None]
    if not possible:
        raise failure if isinstance(failure, LeftOut) else LeftOut(str(failure))
    best = max(possible, key=lambda candidate: candidate["auroc"])
    chosen = {name: {"value": best[name], "source": SOURCE, "candidates": tried} for name in names}
    return replace(settings, **{name: best[name] for name in names}), chosen
