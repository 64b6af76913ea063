"""Cluster count and shrinkage of SSD by the likelihood of ID validation images, without any OOD image."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from sslood.core.errors import InputError
from sslood.ood.geometry.covariance import Gaussians, nearest_squared_distance
from sslood.ood.geometry.standard import Standard, fit_standard
from sslood.ood.kit.detector import class_labels
from sslood.ood.kit.outputs import Outputs
from sslood.ood.ssd.ssd import SsdSettings, assigned, fit_state

CLUSTERS = (1, 2, 3, 4, 5, 8, 10, 15, 20)
RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
SOURCE = "highest mean log-likelihood of ID validation"
Candidates = list[dict[str, Any]]


def log_likelihood(state: Mapping[str, np.ndarray], train: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean log density of rows [N, D] under the mixture of a fitted SSD's Gaussians.

    The density is that of the standardised directions, and a Gaussian weighs what share of ID train is
    nearest to it. For covariances of one each, and for a tied one.
    """
    standard = Standard(state["mean"], state["std"])
    far, logs = (np.stack(parts, axis=1) for parts in zip(*_distances(state, train, standard), strict=True))
    weights = np.bincount((far + logs).argmin(axis=1), minlength=far.shape[1]) / len(train)
    far, logs = (np.stack(parts, axis=1) for parts in zip(*_distances(state, rows, standard), strict=True))
    with np.errstate(divide="ignore"):  # a Gaussian that nothing is nearest to weighs nothing
        density = np.log(weights) - 0.5 * (far + logs)
    width = state["roots"].shape[-1]
    return float(logsumexp(density, axis=1).mean() - 0.5 * width * np.log(2 * np.pi))


def _distances(state, rows, standard):
    """Yield (squared distance [N], log det of the covariance [N]) for every mean."""
    for means, root in zip(state["means"], state["roots"], strict=True):
        log_det = 2.0 * np.log(np.diag(root)).sum()
        for mean in means:
            far = nearest_squared_distance(rows, Gaussians(mean[None], root), transform=standard)
            yield far, np.full(len(rows), log_det)


def _counts(settings: SsdSettings, train: Outputs) -> list[dict[str, Any]]:
    """Return the candidates for the cluster count; it is that of the classes if these are the clusters."""
    if settings.clusters != "auto":
        return [{}]
    if settings.class_conditional:
        return [{"clusters": int(class_labels(train).max()) + 1}]
    return [{"clusters": count} for count in CLUSTERS]


def _shrinkages(settings: SsdSettings) -> list[dict[str, Any]]:
    """Return the candidates for covariance and ridge, of those that are "auto"; Ledoit-Wolf has no ridge."""
    ridges: list[dict[str, Any]] = [{}] if settings.ridge != "auto" else [{"ridge": one} for one in RIDGES]
    none: dict[str, Any] = {} if settings.ridge != "auto" else {"ridge": 0.0}
    if settings.covariance == "auto":
        ridges = [{"covariance": "ridge", **one} for one in ridges]
        return [*ridges, {"covariance": "ledoit_wolf", **none}]
    return [none] if settings.covariance == "ledoit_wolf" else ridges


def select_settings(
    settings: SsdSettings, train: Outputs, validation: Outputs, seed: int
) -> tuple[SsdSettings, Candidates]:
    """Return (settings with the best value of each that is "auto", every candidate with its log-likelihood).

    A cluster count that ID train does not allow is left out. Raises InputError if none is possible.
    """
    counts, shrinkages = _counts(settings, train), _shrinkages(settings)
    rows, seen = getattr(validation, settings.layer), getattr(train, settings.layer)
    standard, candidates, last = fit_standard(seen), [], None
    for count in counts:
        try:
            groups = assigned(replace(settings, **count), train, standard, seed)
        except InputError as error:
            last = error
            continue
        for shrinkage in shrinkages:
            chosen = count | shrinkage
            try:
                state = fit_state(replace(settings, **chosen), train, standard, groups)
            except InputError as error:
                last = error
                continue
            candidates.append({**chosen, "log_likelihood": log_likelihood(state, seen, rows)})
    if not candidates:
        raise last
    best = max(candidates, key=lambda one: one["log_likelihood"])
    chosen = {name: value for name, value in best.items() if name != "log_likelihood"}
    return replace(settings, **chosen), candidates
