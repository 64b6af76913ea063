"""SSD: Mahalanobis distance to clusters of self-supervised features.

Sehwag, Chiang and Mittal: SSD: A Unified Framework for Self-Supervised Outlier Detection, ICLR 2021,
arXiv:2103.12051.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor

from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import Need, Needs
from sslood.core.rows import unit_rows
from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.clusters import cluster
from sslood.ood.geometry.covariance import (
    Covariance,
    Gaussians,
    Moments,
    each_squared_distance,
    fit_gaussians,
    ridge_gaussians,
    stacked,
)
from sslood.ood.geometry.standard import Standard, fit_standard, usable_spread
from sslood.ood.kit.detector import Arrays, Tensors, check_counts, class_labels, known_labels
from sslood.ood.kit.fitting import Streaming, Sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class SSDSettings(Settings):
    """Hyperparameters of SSD."""

    clusters: Annotated[
        int | Auto, at_least(1), "number of k-means clusters, 1 as in the paper's main results"
    ] = 1
    tied: Annotated[bool, "one covariance for all clusters instead of one for each"] = False
    class_conditional: Annotated[bool, "the classes instead of k-means clusters"] = False
    layer: Annotated[Literal["features", "projections"], "output of the model that is read"] = "features"
    covariance: Annotated[Covariance | Auto, "how a covariance is regularised"] = "ridge"
    ridge: Annotated[
        float | Auto, at_least(0), "share of the mean eigenvalue added to the diagonal, for covariance ridge"
    ] = 1e-6


class SSD(Streaming):
    """min_m (z - mu_m)^T Sigma_m^-1 (z - mu_m), z the L2-normalised features standardised on ID train.

    Standardising is affine, so moments of the directions give those of z, and batches and shards can be
    fitted: with a ridge, and one cluster or the classes, as k-means and Ledoit-Wolf need all images again.
    """

    Settings = SSDSettings

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.settings.layer,)

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        settings = self.settings
        if settings.class_conditional:
            return (Need(classes=1, per_class=1 if settings.tied else 2, spare=1),)
        return (Need(images=max(2, chosen_clusters(settings))),)

    def _fit(self, source: Outputs) -> Arrays:
        standard = fit_standard(source.need(self.settings.layer))
        return fit_state(
            self.settings, source, standard, assigned(self.settings, source, standard, self.seed)
        )

    def _gather(self, source: Outputs) -> Sums:
        settings = self.settings
        if settings.covariance != "ridge" or (settings.clusters > 1 and not settings.class_conditional):
            raise InputError(
                f"{source.name}: ssd can be fitted in batches with covariance ridge, and one cluster or "
                "class_conditional; for other settings fit it to all images at once"
            )
        rows = unit_rows(source.need(settings.layer).astype(np.float64))
        groups = known_labels(source) if settings.class_conditional else np.zeros(len(rows), np.int64)
        sums: Sums = {}
        for group in range(source.need_classes() if settings.class_conditional else 1):
            moments = Moments.empty(1, rows.shape[1])
            if (groups == group).any():
                moments.update(rows[groups == group])
            sums[str(group)] = moments
        return sums

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        parts: list[Moments] = list(sums.values())
        counts = np.concatenate([part.counts for part in parts])
        check_counts(counts, source.name)
        means, scatter = (
            np.concatenate([part.means for part in parts]),
            np.sum([part.scatter for part in parts], 0),
        )
        joint = Moments(counts, means, scatter)
        whole = joint.pooled()
        standard = Standard(whole.means[0], usable_spread(np.sqrt(np.diag(whole.covariance))))
        fitted = [
            ridge_gaussians(_standardised(part, standard), self.settings.ridge, source.name)
            for part in ([joint] if self.settings.tied else parts)
        ]
        return {**vars(standard), **stacked(fitted)}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = (unit_rows(parts[self.settings.layer]) - state["mean"]) / state["std"]
        return each_squared_distance(rows, state).amin(1)


def assigned(settings: SSDSettings, train: Outputs, standard: Standard, seed: int) -> np.ndarray:
    """Return the cluster of each image: int64 [N]; InputError as `cluster`, or for missing labels."""
    rows = train.need(settings.layer)
    if settings.class_conditional:
        return class_labels(train)
    if settings.clusters == 1:
        return np.zeros(len(rows), np.int64)
    return cluster(standard(rows), chosen_clusters(settings), seed, train.name)


def chosen_clusters(settings: SSDSettings) -> int:
    """Return the cluster count; InputError if it is "auto"."""
    if settings.clusters == "auto":
        raise InputError("SSD: the setting clusters is auto; give a value, or choose one")
    return settings.clusters


def fit_state(settings: SSDSettings, train: Outputs, standard: Standard, groups: np.ndarray) -> Arrays:
    """Return the state of an `SSD` whose images are in these clusters; LeftOut if a covariance fails."""
    fit = fit_tied if settings.tied else fit_each
    options = {"covariance": settings.covariance, "ridge": settings.ridge, "transform": standard}
    return {**vars(standard), **stacked(fit(train.need(settings.layer), groups, train.name, options))}


def _standardised(moments: Moments, standard: Standard) -> Moments:
    """Return the moments of z from those of the directions."""
    means = (moments.means - standard.mean) / standard.std
    return Moments(moments.counts, means, moments.scatter / np.outer(standard.std, standard.std))


def fit_tied(rows: np.ndarray, groups: np.ndarray, where: str, options: dict[str, Any]) -> list[Gaussians]:
    """Return one `Gaussians` with a mean for each group and one covariance."""
    return [fit_gaussians(rows, groups, where=where, **options)]


def fit_each(rows: np.ndarray, groups: np.ndarray, where: str, options: dict[str, Any]) -> list[Gaussians]:
    """Return one `Gaussians` per group, each with its own covariance; LeftOut if a group has one row."""
    fitted = []
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        if len(members) < 2:
            raise LeftOut(
                f"{where}: cluster {group} has {len(members)} image, too few for its own covariance; "
                "choose fewer clusters, or one tied covariance"
            )
        fitted.append(fit_gaussians(rows[members], where=f"{where}, cluster {group}", **options))
    return fitted
