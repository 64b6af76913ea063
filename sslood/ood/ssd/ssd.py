"""SSD (Sehwag, Chiang and Mittal 2021): Mahalanobis distance to clusters of self-supervised features."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from sslood.core.errors import InputError
from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.clusters import cluster
from sslood.ood.geometry.covariance import (
    Covariance,
    Gaussians,
    Moments,
    fit_gaussians,
    nearest_squared_distance,
    ridge_gaussians,
)
from sslood.ood.geometry.directions import normalise
from sslood.ood.geometry.standard import Standard, fit_standard, standard_of
from sslood.ood.kit.detector import check_counts, class_labels, known_labels
from sslood.ood.kit.fitting import Streaming, Sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class SsdSettings(Settings):
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


class Ssd(Streaming):
    """min_m (z - mu_m)^T Sigma_m^-1 (z - mu_m), z the L2-normalised features standardised on ID train.

    Standardising is affine, so moments of the directions give those of z, and batches and shards can be
    fitted: with a ridge, and one cluster or the classes, as k-means and Ledoit-Wolf need all images again.
    """

    Settings = SsdSettings

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.settings.layer,)

    def _fit(self, train: Outputs) -> dict[str, np.ndarray]:
        standard = fit_standard(getattr(train, self.settings.layer))
        return fit_state(self.settings, train, standard, assigned(self.settings, train, standard, self.seed))

    def _gather(self, source: Outputs) -> Sums:
        settings, rows = self.settings, normalise(getattr(source, self.settings.layer))
        if settings.covariance != "ridge" or (settings.clusters > 1 and not settings.class_conditional):
            raise InputError(
                f"{source.name}: ssd can be fitted in batches with covariance ridge, and one cluster or "
                "class_conditional; for other settings fit it to all images at once"
            )
        groups = known_labels(source) if settings.class_conditional else np.zeros(len(rows), np.int64)
        sums = {}
        for group in range(source.classes if settings.class_conditional else 1):
            sums[str(group)] = Moments.empty(1, rows.shape[1])
            if (groups == group).any():
                sums[str(group)].update(rows[groups == group])
        return sums

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        parts: list[Moments] = list(sums.values())
        counts, means = (
            np.concatenate([getattr(part, key) for part in parts]) for key in ("counts", "means")
        )
        check_counts(counts, source.name)
        joint = Moments(counts, means, sum(part.scatter for part in parts))
        whole = joint.pooled()
        standard = standard_of(whole.means[0], np.sqrt(np.diag(whole.covariance)))
        fitted = [
            ridge_gaussians(_standardised(part, standard), self.settings.ridge, source.name)
            for part in ([joint] if self.settings.tied else parts)
        ]
        return _state(standard, fitted)

    def _score(self, outputs: Outputs) -> np.ndarray:
        rows, state = getattr(outputs, self.settings.layer), self.state
        standard = Standard(state["mean"], state["std"])
        distances = [
            nearest_squared_distance(rows, Gaussians(means, root), transform=standard)
            for means, root in zip(state["means"], state["roots"], strict=True)
        ]
        return np.minimum.reduce(distances)


def assigned(settings: SsdSettings, train: Outputs, standard: Standard, seed: int) -> np.ndarray:
    """Return the cluster of each image: int64 [N]; InputError as `cluster`, or for missing labels."""
    rows = getattr(train, settings.layer)
    if settings.class_conditional:
        return class_labels(train)
    if settings.clusters == 1:
        return np.zeros(len(rows), np.int64)
    return cluster(standard(rows).astype(np.float32), settings.clusters, seed, train.name)


def fit_state(
    settings: SsdSettings, train: Outputs, standard: Standard, groups: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the state of an `Ssd` whose images are in these clusters; InputError if a covariance fails."""
    fit = fit_tied if settings.tied else fit_each
    how = {"covariance": settings.covariance, "ridge": settings.ridge, "transform": standard}
    return _state(standard, fit(getattr(train, settings.layer), groups, train.name, how))


def _state(standard: Standard, fitted: list[Gaussians]) -> dict[str, np.ndarray]:
    return {
        "mean": standard.mean,
        "std": standard.std,
        "means": np.stack([gaussians.means for gaussians in fitted]),
        "roots": np.stack([gaussians.root for gaussians in fitted]),
    }


def _standardised(moments: Moments, standard: Standard) -> Moments:
    """Return the moments of z from those of the directions."""
    means = (moments.means - standard.mean) / standard.std
    return Moments(moments.counts, means, moments.scatter / np.outer(standard.std, standard.std))


def fit_tied(rows: np.ndarray, groups: np.ndarray, where: str, how: dict) -> list[Gaussians]:
    """Return one `Gaussians` with a mean for each group and one covariance."""
    return [fit_gaussians(rows, groups, where=where, **how)]


def fit_each(rows: np.ndarray, groups: np.ndarray, where: str, how: dict) -> list[Gaussians]:
    """Return one `Gaussians` a group, each with its own covariance; InputError if a group has one row."""
    fitted = []
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        if len(members) < 2:
            raise InputError(
                f"{where}: cluster {group} has {len(members)} image, too few for its own covariance; "
                "choose fewer clusters, or one tied covariance"
            )
        fitted.append(fit_gaussians(rows[members], where=f"{where}, cluster {group}", **how))
    return fitted
