"""Cluster count and shrinkage of SSD by the likelihood of ID validation images, without any OOD image."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from sslood.core.errors import InputError
from sslood.core.needs import check_needs
from sslood.ood.geometry.covariance import squared_distance
from sslood.ood.geometry.standard import Standard, fit_standard
from sslood.ood.kit.detector import class_labels
from sslood.ood.kit.outputs import Outputs, chunks
from sslood.ood.ssd.ssd import SSD, SSDSettings, assigned, fit_state

CLUSTERS = (1, 2, 3, 4, 5, 8, 10, 15, 20)
RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
SOURCE = "highest mean log-likelihood of ID validation"
DIGITS = 4  # of a log-likelihood in nats; further ones are rounding, which differs between processors
Candidates = list[dict[str, Any]]


def log_likelihood(state: Mapping[str, np.ndarray], train: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean log density of rows [N, D] under the mixture of a fitted SSD's Gaussians, in nats.

    The density is that of the standardised directions, and the weight of a Gaussian is the share of ID train
    that is nearest to it. For covariances of one mean each, and for a tied one.
    """
    known, new = (_minus_twice_log_density(state, part) for part in (train, rows))
    weights = np.bincount(known.argmin(axis=1), minlength=known.shape[1]) / len(train)
    with np.errstate(divide="ignore"):  # a Gaussian that nothing is nearest to has weight zero
        density = np.log(weights) - 0.5 * new
    width = state["whitening"].shape[-1]
    return float(logsumexp(density, axis=1).mean() - 0.5 * width * np.log(2 * np.pi))


def _minus_twice_log_density(state: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return squared distance + log det of the covariance, [N, Gaussians]."""
    standard, found = Standard(state["mean"], state["std"]), []
    for piece in chunks(rows):
        z, columns = torch.from_numpy(standard(piece)), []
        for parts in zip(state["centre"], state["means"], state["whitening"], strict=True):
            centre, means, whitening = (torch.from_numpy(np.asarray(part)) for part in parts)
            log_det = -2.0 * float(whitening.diagonal().log().sum())
            columns += [squared_distance(z, centre, mean[None], whitening) + log_det for mean in means]
        found.append(torch.stack(columns, 1).numpy())
    return np.concatenate(found)


def _counts(settings: SSDSettings, train: Outputs) -> list[dict[str, Any]]:
    """Return the candidates for the cluster count; it is that of the classes if these are the clusters."""
    if settings.clusters != "auto":
        return [{}]
    if settings.class_conditional:
        return [{"clusters": int(class_labels(train).max()) + 1}]
    return [{"clusters": count} for count in CLUSTERS]


def _shrinkages(settings: SSDSettings) -> list[dict[str, Any]]:
    """Return the candidates for covariance and ridge, of those that are "auto"; Ledoit-Wolf has no ridge."""
    ridges: list[dict[str, Any]] = [{}] if settings.ridge != "auto" else [{"ridge": one} for one in RIDGES]
    none: dict[str, Any] = {} if settings.ridge != "auto" else {"ridge": 0.0}
    if settings.covariance == "auto":
        ridges = [{"covariance": "ridge", **one} for one in ridges]
        return [*ridges, {"covariance": "ledoit_wolf", **none}]
    return [none] if settings.covariance == "ledoit_wolf" else ridges


def select_settings(
    settings: SSDSettings, train: Outputs, validation: Outputs, seed: int
) -> tuple[SSDSettings, Candidates]:
    """Return (settings with the best value of each that is "auto", every candidate with its log-likelihood).

    A cluster count that ID train does not allow is left out. Ties go to the first candidate. Raises
    InputError if none is possible, LeftOut for classes without labels or with too few images.
    """
    if settings.class_conditional:  # what SSD needs of other clusters depends on their number
        check_needs(SSD(settings).needs, train.labels, len(train), f"{train.name}: SSD ")
    counts, shrinkages = _counts(settings, train), _shrinkages(settings)
    rows, seen = validation.need(settings.layer), train.need(settings.layer)
    standard = fit_standard(seen)
    candidates: Candidates = []
    refusal = InputError(f"{train.name}: no candidate of ssd is possible")
    for count in counts:
        try:
            groups = assigned(replace(settings, **count), train, standard, seed)
        except InputError as error:
            refusal = error
            continue
        for shrinkage in shrinkages:
            chosen = count | shrinkage
            try:
                state = fit_state(replace(settings, **chosen), train, standard, groups)
            except InputError as error:
                refusal = error
                continue
            value = round(log_likelihood(state, seen, rows), DIGITS)
            candidates.append({**chosen, "log_likelihood": value})
    if not candidates:
        raise refusal
    best = max(candidates, key=lambda one: one["log_likelihood"])
    chosen = {name: value for name, value in best.items() if name != "log_likelihood"}
    return replace(settings, **chosen), candidates
