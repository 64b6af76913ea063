"""SSD_k as the likelihood ratio of two Gaussians that holds for few images of many dimensions.

The covariance of five images in 1,280 dimensions, as the source estimates it, is a small sphere around them,
from which every other image is equally far. Here, in coordinates in which ID has covariance 1,

    Sigma_U = a b 1 + g C    with a > 1 + 1 / k and g >= 0,

C being the second moment of the k known images and their copies about the images' mean m, and b the mean
squared length of ID validation over D (above 1 where the ID covariance is itself overfitted). a and g are
those that make left out known images most likely. The score, twice the log-likelihood ratio of the two
Gaussians, grows towards every side, as that of SSD does: with g = 0 it is the distance of SSD from a centre
that is moved away from the known images by m / (a - 1), and for large a it is SSD.

Images that are more alike than ID (SSD is then below chance) need a < 1. That is taken if they are likelier
so, and left out ones are told clearly better.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sslood.ood.kit.outputs import chunks
from sslood.ood.ssd.ssdk import InDistribution

Candidate = tuple[float, float]  # a, g
CANDIDATES = tuple(
    (a, g) for a in (30.0, 10.0, 5.0, 3.0, 2.0, 1.5, 1.25, 1.1) for g in (0.0, 0.1, 0.3, 1.0, 3.0)
)
NARROW = tuple((a, g) for a in (0.9, 0.6, 0.4, 0.2, 0.1) for g in (0.0, 0.1, 0.3, 1.0, 3.0))
LONE = (5.0, 1.0)  # for a single known image, as none can be left out
FOLDS = 5
ERRORS = 2.0  # standard errors by which left out images must speak for SSD, or for a below 1
DIGITS = 4  # of a log-likelihood in nats; further ones are rounding, which differs between processors
RANK = 1e-9  # share of the largest variance below which a direction is rounding


@dataclass(frozen=True)
class Rows:
    """Images in the coordinates of `LikelihoodRatio`: white [N, D].

    distance [N]: as of SSD; surprise [N]: minus twice their log density under ID, up to a constant.
    """

    white: np.ndarray
    distance: np.ndarray
    surprise: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "Rows":
        return Rows(self.white[index], self.distance[index], self.surprise[index])


@dataclass(frozen=True)
class Known:
    """Moments of known OOD images in white coordinates: their mean [D], and the variances [R] of images and
    copies along orthonormal axes [R, D], which span them all."""

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return squared lengths of rows [N, D] from the mean: across the axes [N] and along each [N, R]."""
        found = []
        for piece in chunks(rows):
            gap = piece - self.mean
            along = gap @ self.axes.T
            found.append((((gap - along @ self.axes) ** 2).sum(axis=1), along**2))
        return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])

    def surprise(self, parts: tuple[np.ndarray, np.ndarray], level: float, share: float) -> np.ndarray:
        """Return minus twice the log density [N] for Sigma_U = level 1 + share C, without the constant."""
        across, along = parts
        variances = level + share * self.variances
        rest = len(self.mean) - len(variances)
        log_det = rest * np.log(level) + np.log(variances).sum()
        return np.asarray(across / level + along @ (1.0 / variances) + log_det)


def fit_known(images: np.ndarray, copies: np.ndarray) -> Known:
    """Return the moments of known images [k, D] and their copies [k, C, D], both in white coordinates."""
    mean = images.mean(axis=0)
    rows = np.concatenate([images[:, None], copies], axis=1).reshape(-1, len(mean)) - mean
    few = len(rows) < len(mean)
    variances, axes = np.linalg.eigh((rows @ rows.T if few else rows.T @ rows) / len(rows))
    held = variances > RANK * max(variances[-1], 0.0)
    variances, axes = variances[held], axes[:, held].T
    if few:
        axes = axes @ rows / np.sqrt(len(rows) * variances)[:, None]
    return Known(mean, axes, variances)


@dataclass(frozen=True)
class FewShot:
    """SSD_k fitted to known images.

    held_out, held_out_ssd: AUROC of left out known images against ID validation, by the ratio and by SSD;
    None for one image. fallen_back: SSD is used, since it is clearly better on them.
    """

    known: Known
    level: float
    candidate: Candidate
    held_out: float | None = None
    held_out_ssd: float | None = None
    fallen_back: bool = False

    def score(self, rows: Rows) -> np.ndarray:
        """Return the scores [N] of rows."""
        if self.fallen_back:
            return rows.distance
        return _score(self.known, rows, self.level, self.candidate)

    def record(self) -> dict[str, Any]:
        """Return what was chosen, for the results."""
        breadth, share = self.candidate
        held = {"held_out": self.held_out, "held_out_ssd": self.held_out_ssd}
        used = "ssd" if self.fallen_back else "likelihood ratio"
        return {"used": used, "breadth": breadth, "share": share, **held}


def _score(known: Known, rows: Rows, level: float, candidate: Candidate) -> np.ndarray:
    breadth, share = candidate
    return np.asarray(rows.surprise - known.surprise(known.split(rows.white), breadth * level, share))


class LikelihoodRatio:
    """The half that does not depend on the OOD set, from the ID Gaussians and ID validation [N, D]."""

    def __init__(self, inside: InDistribution, validation: np.ndarray):
        self._inside, self.white, width = inside, inside.white, validation.shape[1]
        white, distances = self._coordinates(validation)
        self.level = float((white**2).sum(axis=1).mean()) / width  # b
        self._scale = float(distances.min(axis=1).mean()) / width  # the same, of the clusters
        self.validation = self.rows(validation)

    def _coordinates(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        white = self.white(features)
        if len(self._inside.gaussians) > 1:
            return white, self._inside.distances(features)
        return white, (white**2).sum(axis=1, keepdims=True)

    def rows(self, features: np.ndarray) -> Rows:
        """Return features [N, D] with what does not depend on the known images."""
        white, distances = self._coordinates(features)
        log_dets = np.array([one.log_det for one in self._inside.gaussians]) - self._inside.whole.log_det
        surprise = (distances / self._scale + log_dets).min(axis=1) + white.shape[1] * np.log(self._scale)
        return Rows(white, distances.min(axis=1), surprise)

    def fit(self, images: Rows, copies: np.ndarray, where: str) -> FewShot:
        """Fit to known images and the features [k, copies, D] of their copies."""
        return self.fit_white(images, self.white(copies))

    def fit_white(self, images: Rows, copies: np.ndarray) -> FewShot:
        """Fit to known images and their copies in white coordinates.

        Known images are left out in turn, in at most `FOLDS` parts, to choose a and g and compare with SSD.
        """
        known, count = fit_known(images.white, copies), len(copies)
        if count == 1:
            return FewShot(known, self.level, LONE)
        folds = np.arange(count) % min(count, FOLDS)
        held = [folds == fold for fold in range(folds.max() + 1)]
        fits = [fit_known(images.white[~out], copies[~out]) for out in held]
        splits = [one.split(images.white[out]) for one, out in zip(fits, held, strict=True)]

        def likelihood(candidate: Candidate) -> float:
            level, share = candidate[0] * self.level, candidate[1]
            each = [one.surprise(split, level, share) for one, split in zip(fits, splits, strict=True)]
            return round(-0.5 * float(np.concatenate(each).mean()), DIGITS)

        def told(candidate: Candidate) -> np.ndarray:
            found = np.empty(count)
            for one, out in zip(fits, held, strict=True):
                scores = (_score(one, rows, self.level, candidate) for rows in (self.validation, images[out]))
                found[out] = beaten(*scores)
            return found

        best = max((one for one in CANDIDATES if one[0] > 1.0 + 1.0 / count), key=likelihood)
        ratio = told(best)
        narrow = max(NARROW, key=likelihood)
        if likelihood(narrow) > likelihood(best) and _clearly(found := told(narrow), ratio):
            best, ratio = narrow, found
        plain = beaten(self.validation.distance, images.distance)
        held_out = float(ratio.mean()), float(plain.mean())
        return FewShot(known, self.level, best, *held_out, fallen_back=_clearly(plain, ratio))


def _clearly(better: np.ndarray, worse: np.ndarray) -> bool:
    """Whether the mean of the one exceeds that of the other by `ERRORS` standard errors of the difference."""
    gain = better - worse
    return bool(gain.mean() > ERRORS * gain.std(ddof=1) / np.sqrt(len(gain)))


def beaten(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return for each score of `outside` the share of those of `inside` below it, ties counting half."""
    ordered = np.sort(inside)
    sides = [np.searchsorted(ordered, outside, side=side) for side in ("left", "right")]
    return np.asarray((sides[0] + sides[1]) / 2.0 / len(ordered))
