"""SSD_k: SSD less the distance to a few known OOD images. This file holds the paper's form.

Sehwag, Chiang and Mittal: SSD: A Unified Framework for Self-Supervised Outlier Detection, ICLR 2021,
arXiv:2103.12051.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.core.needs import Need, Needs
from sslood.core.settings import Settings, at_least
from sslood.ood.geometry.clusters import cluster
from sslood.ood.geometry.covariance import Gaussians, fit_gaussians, squared_distance
from sslood.ood.geometry.standard import Standard, fit_standard
from sslood.ood.kit.outputs import chunks


@dataclass(frozen=True)
class SSDkSettings(Settings):
    """Hyperparameters of SSD_k."""

    k: Annotated[int, at_least(1), "number of known OOD images, per class or in all"] = 5
    per_class: Annotated[bool, "k images of each class instead of k in all"] = True
    form: Annotated[
        Literal["likelihood_ratio", "paper"],
        "the known images' Gaussian is at least as wide as ID, or as in the paper",
    ] = "likelihood_ratio"
    clusters: Annotated[int, at_least(1), "number of ID clusters; 1 as in the paper"] = 1
    repeats: Annotated[int, at_least(1), "number of evaluations, each with other known images"] = 5

    @property
    def needs(self) -> Needs:
        """What an OOD set must have: the known images, and one to test on."""
        if self.per_class:
            return (Need("test", per_class=self.k, spare=1),)
        return (Need("test", images=self.k + 1),)


@dataclass(frozen=True)
class InDistribution:
    """The half of SSD_k that does not depend on the OOD set: coordinates, ID clusters, and ID as a whole."""

    standard: Standard
    gaussians: tuple[Gaussians, ...]
    whole: Gaussians

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """Return the squared distances of rows [N, D] to the ID clusters: float64 [N, clusters]."""
        return np.stack([_distance(self.standard, one, rows) for one in self.gaussians], axis=1)

    def distance(self, rows: np.ndarray) -> np.ndarray:
        """Return the squared distance of rows [N, D] to the nearest ID cluster: float64 [N]."""
        return self.distances(rows).min(axis=1)

    def white(self, rows: np.ndarray) -> np.ndarray:
        """Return features [..., D] in coordinates in which ID train has mean 0 and covariance 1: float64."""
        flat = rows.reshape(-1, rows.shape[-1])
        white = [
            (self.standard(piece) - self.whole.centre) @ self.whole.whitening.T for piece in chunks(flat)
        ]
        return np.concatenate(white).reshape(rows.shape)


def _distance(standard: Standard, gaussians: Gaussians, rows: np.ndarray) -> np.ndarray:
    parts = (gaussians.centre, gaussians.means, gaussians.whitening)
    centre, means, whitening = map(torch.from_numpy, parts)
    pieces = [torch.from_numpy(standard(piece)) for piece in chunks(rows)]
    return torch.cat([squared_distance(piece, centre, means, whitening) for piece in pieces]).numpy()


def fit_in_distribution(train: np.ndarray, clusters: int, seed: int, where: str) -> InDistribution:
    """Fit ID train features [N, D] with Ledoit-Wolf covariances, one per cluster."""
    standard = fit_standard(train)
    if clusters == 1:
        groups = np.zeros(len(train), np.int64)
    else:
        groups = cluster(standard(train), clusters, seed, where)
    fitted = [
        _ledoit_wolf(train[groups == group], standard, f"{where}, cluster {group}")
        for group in range(int(groups.max()) + 1)
    ]
    whole = fitted[0] if len(fitted) == 1 else _ledoit_wolf(train, standard, where)
    return InDistribution(standard, tuple(fitted), whole)


def _ledoit_wolf(rows: np.ndarray, standard: Standard, where: str) -> Gaussians:
    return fit_gaussians(rows, covariance="ledoit_wolf", transform=standard, where=where)


@dataclass(frozen=True)
class Distances:
    """Features [N, D] and their squared distances to ID train [N], the same in every repeat."""

    features: np.ndarray
    distance: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "Distances":
        return Distances(self.features[index], self.distance[index])


@dataclass(frozen=True)
class PaperForm:
    """The source's SSD_k: the difference of the distances to two Ledoit-Wolf Gaussians."""

    inside: InDistribution

    def rows(self, features: np.ndarray) -> Distances:
        """Return features [N, D] with what does not depend on the known images."""
        return Distances(features, self.inside.distance(features))

    def fit(self, images: Distances, copies: np.ndarray, where: str) -> "PaperFewShot":
        """Fit to the copies [k, copies, D] of the known images; the images themselves are not used."""
        rows = copies.reshape(-1, copies.shape[-1])
        if len(rows) < 2:
            raise InputError(
                f"{where}: SSD_k needs at least two views of OOD images; raise k or the copies of embed"
            )
        return PaperFewShot(self.inside.standard, _ledoit_wolf(rows, self.inside.standard, where))


@dataclass(frozen=True)
class PaperFewShot:
    """A fitted `PaperForm`."""

    standard: Standard
    outside: Gaussians

    def score(self, rows: Distances) -> np.ndarray:
        """Return the distance to ID less that to the known images, float64 [N]."""
        return np.asarray(rows.distance - _distance(self.standard, self.outside, rows.features))

    def record(self) -> dict[str, Any]:
        """Return what was chosen on the known images: nothing."""
        return {}


def pick_shots(
    index: np.ndarray, labels: np.ndarray, settings: SSDkSettings, random: np.random.Generator, where: str
) -> np.ndarray:
    """Return the images of the pool to use, as ascending positions in the pool: int64.

    index [P]: indices of the pool in the test split; labels [N] of the whole test split, -1 where
    unknown (all unknown ones count as one class, as SSD does for its synthetic sets). Raises InputError
    if the pool has too few images, or if none would be left to test on.
    """
    of = labels[index]
    wanted = np.unique(labels) if settings.per_class else [None]
    picks = []
    for name in wanted:
        pool = np.arange(len(index)) if name is None else np.flatnonzero(of == name)
        if len(pool) < settings.k:
            kind = "" if name is None else f" of class {name}"
            raise InputError(
                f"{where}: ssdk.k is {settings.k}, but the pool of shots has {len(pool)} images{kind}; "
                "lower ssdk.k, turn per_class off, or let embed keep more shots"
            )
        picks.append(random.permutation(pool)[: settings.k])
    picked = np.sort(np.concatenate(picks))
    if len(picked) >= len(labels):
        raise InputError(f"{where}: all {len(labels)} test images were picked as shots; lower ssdk.k")
    return picked
