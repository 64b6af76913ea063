"""SSD_k: SSD less the distance to a few known OOD images.

Sehwag, Chiang and Mittal: SSD: A Unified Framework for Self-Supervised Outlier Detection, ICLR 2021,
arXiv:2103.12051.
"""

from dataclasses import dataclass
from typing import Annotated

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
    """The half of SSD_k that does not depend on the OOD set: coordinates and ID clusters."""

    standard: Standard
    gaussians: tuple[Gaussians, ...]

    def distance(self, rows: np.ndarray) -> np.ndarray:
        """Return the squared distance of rows [N, D] to the nearest ID cluster: float64 [N]."""
        return np.minimum.reduce([_distance(self.standard, one, rows) for one in self.gaussians])


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
    fitted = []
    for group in range(int(groups.max()) + 1):
        rows = train[groups == group]
        fitted.append(
            fit_gaussians(
                rows, covariance="ledoit_wolf", transform=standard, where=f"{where}, cluster {group}"
            )
        )
    return InDistribution(standard, tuple(fitted))


def fit_shots(inside: InDistribution, shots: np.ndarray, where: str) -> Gaussians:
    """Fit one Ledoit-Wolf Gaussian to the features of the known OOD images, [k, copies, D]."""
    rows = shots.reshape(-1, shots.shape[-1])
    if len(rows) < 2:
        raise InputError(
            f"{where}: SSD_k needs at least two views of OOD images; raise k or the copies of embed"
        )
    return fit_gaussians(rows, covariance="ledoit_wolf", transform=inside.standard, where=where)


def shot_distance(inside: InDistribution, outside: Gaussians, rows: np.ndarray) -> np.ndarray:
    """Return the squared distance to the known OOD images; SSD_k = inside.distance(rows) less this."""
    return _distance(inside.standard, outside, rows)


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


@dataclass(frozen=True)
class ScoredRows:
    """Test features [N, D] and their squared distances to ID train [N], the same in every repeat."""

    features: np.ndarray
    distance: np.ndarray


def score_repeat(
    inside: InDistribution,
    outside: Gaussians,
    id_test: ScoredRows,
    ood_test: ScoredRows,
    left_out: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return SSD_k scores of the ID images and of the OOD images kept, and the indices of the latter.

    left_out: indices in the OOD test split of the images that `outside` was fitted on.
    """
    kept = np.setdiff1d(np.arange(len(ood_test.distance)), left_out)
    id_scores = id_test.distance - shot_distance(inside, outside, id_test.features)
    ood_scores = ood_test.distance - shot_distance(inside, outside, ood_test.features)
    return id_scores, ood_scores[kept], kept
