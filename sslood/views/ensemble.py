"""Ensembles of leave-out classifiers, with ODIN's temperature and perturbation.

Vyas et al., "Out-of-Distribution Detection Using an Ensemble of Self Supervised Leave-out Classifiers",
arXiv:1809.03576; Liang, Li and Srikant (ODIN), arXiv:1706.02690. Works on functions from images to logits,
whatever network is behind them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from sslood.core.batches import batches, normalised
from sslood.core.errors import InputError
from sslood.core.settings import Settings, above, at_least
from sslood.ood.kit.network_detector import BATCH
from sslood.ood.kit.perturbation import Forward, choose_epsilon, gradient_sign, perturb
from sslood.ood.kit.tempered import entropy_below_uniform, largest_above_uniform

Progress = Callable[[int], object]


@dataclass(frozen=True)
class EnsembleSettings(Settings):
    """The section `ensemble` of params.yaml."""

    temperature: Annotated[float, above(0), "temperature T of the logits"]
    epsilons: Annotated[
        tuple[float, ...], at_least(0), "candidate steps in pixels of [0, 1], chosen on ID validation"
    ]
    precision: Annotated[Literal["float64", "float32"], "of the networks; half would turn signs of gradients"]

    def _check(self) -> None:
        if not self.epsilons:
            raise InputError("epsilons must list at least one step, e.g. 0.0")


@dataclass(frozen=True)
class Member:
    """One classifier: normalised images [N, C, H, W] -> logits [N, K] of the classes `head_classes`.

    mean and std: of each channel, in units of [0, 1]. dtype: of the images.
    """

    forward: Forward
    head_classes: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Votes:
    """Sums over the members: largest probability [N], entropy [N], probabilities [N, classes].

    The first two are measured from the uniform distribution, max p - 1 / K and H - log K: a constant per
    member, which changes no rank and keeps the digits in which images differ at a high temperature.
    """

    largest: np.ndarray
    entropy: np.ndarray
    probabilities: np.ndarray

    def __add__(self, other: "Votes") -> "Votes":
        return Votes(
            self.largest + other.largest,
            self.entropy + other.entropy,
            self.probabilities + other.probabilities,
        )

    @property
    def score(self) -> np.ndarray:
        """-sum_k [max_c p_kc - H(p_k)]: the paper's score with our sign, larger = more OOD."""
        return self.entropy - self.largest


def member_votes(logits: Tensor, head_classes: Sequence[int], classes: int, temperature: float) -> Votes:
    """Return one member's part of the sums, from its logits [N, K] of the classes `head_classes`.

    Largest probability and entropy are measured from those of the uniform distribution over the K classes.
    """
    logits = logits.cpu().double()
    whole = logits.new_zeros(len(logits), classes)
    whole[:, list(head_classes)] = (logits / temperature).softmax(1)
    parts = largest_above_uniform(logits, temperature), entropy_below_uniform(logits, temperature), whole
    return Votes(*(part.numpy() for part in parts))


def ensemble_votes(
    members: Sequence[Member],
    images: np.ndarray,
    settings: Sequence[tuple[float, float]],
    *,
    classes: int,
    gradient_temperature: float,
    device: torch.device | str = "cpu",
    progress: Progress = lambda count: None,
) -> list[Votes]:
    """Return the votes of all members for uint8 images [N, C, H, W], for each setting (temperature, epsilon).

    Each member perturbs the images by its own gradient, which is computed once for all settings, at
    `gradient_temperature`. `progress` is called with the number of images done, once per member.
    """
    sums: list[Votes] = []
    for member in members:
        pieces: list[list[Votes]] = [[] for _ in settings]
        stream = batches(images, BATCH)
        for batch in normalised(stream, member.mean, member.std, device=device, dtype=member.dtype):
            for piece, votes in zip(
                pieces, _votes(member, batch, settings, classes, gradient_temperature), strict=True
            ):
                piece.append(votes)
            progress(len(batch))
        own = [_join(parts) for parts in pieces]
        sums = [a + b for a, b in zip(sums, own, strict=True)] if sums else own
    return sums


def _votes(
    member: Member,
    images: Tensor,
    settings: Sequence[tuple[float, float]],
    classes: int,
    temperature: float,
) -> Iterator[Votes]:
    if any(epsilon for _, epsilon in settings):
        sign, plain = gradient_sign(member.forward, images, temperature)
    else:
        sign = torch.zeros_like(images)
        with torch.inference_mode():
            plain = member.forward(images)
    logits = {0.0: plain}
    for at, epsilon in settings:
        if epsilon not in logits:
            with torch.inference_mode():
                logits[epsilon] = member.forward(perturb(images, sign, epsilon, member.std))
        yield member_votes(logits[epsilon], member.head_classes, classes, at)


def _join(parts: list[Votes]) -> Votes:
    return Votes(
        *(
            np.concatenate([getattr(v, name) for v in parts])
            for name in ("largest", "entropy", "probabilities")
        )
    )


def score_rows(tempered: Votes, plain: Votes) -> dict[str, np.ndarray]:
    """Return detector -> scores [N]: the paper's, its two halves, and without ODIN (T = 1, epsilon = 0)."""
    return {
        "eloc": tempered.score,
        "eloc_max": -tempered.largest,
        "eloc_entropy": tempered.entropy,
        "eloc_noodin": plain.score,
    }


@dataclass(frozen=True)
class Evaluation:
    """epsilon: the chosen one or None. aurocs: of each candidate. rows: set -> detector -> scores [N]. plain:
    set -> votes without ODIN."""

    epsilon: float | None
    aurocs: dict[str, float]
    rows: dict[str, dict[str, np.ndarray]]
    plain: dict[str, Votes]


def evaluate(
    members: Sequence[Member],
    validation: tuple[np.ndarray, np.ndarray] | None,
    tests: Mapping[str, np.ndarray],
    *,
    settings: EnsembleSettings,
    classes: int,
    device: torch.device | str = "cpu",
    progress: Progress = lambda count: None,
) -> Evaluation:
    """Choose epsilon on `validation` (ID images, tuning OOD images), then score the images of `tests`.

    Without images to choose on, only the row without ODIN is there, unless there is but one candidate.
    Images uint8 [N, C, H, W]; see `ensemble_votes`.
    """
    temperature = settings.temperature

    def votes(images: np.ndarray, pairs: Sequence[tuple[float, float]]) -> list[Votes]:
        return ensemble_votes(
            members, images, pairs,
            classes=classes, gradient_temperature=temperature, device=device, progress=progress,
        )  # fmt: skip

    candidates = [(temperature, epsilon) for epsilon in settings.epsilons]
    epsilon: float | None = settings.epsilons[0] if len(candidates) == 1 else None
    aurocs: dict[str, float] = {}
    if validation is not None:
        inside, outside = ([one.score for one in votes(images, candidates)] for images in validation)
        epsilon, aurocs = choose_epsilon(settings.epsilons, inside, outside)
    rows, plain = {}, {}
    for name, images in tests.items():
        if epsilon is None:
            (plain[name],) = votes(images, [(1.0, 0.0)])
            rows[name] = {"eloc_noodin": plain[name].score}
            continue
        tempered, plain[name] = votes(images, [(temperature, epsilon), (1.0, 0.0)])
        rows[name] = score_rows(tempered, plain[name])
    return Evaluation(epsilon, aurocs, rows, plain)


def accuracy(votes: Votes, labels: np.ndarray) -> float:
    """Return the share of images whose label has the largest sum of probabilities."""
    return float((votes.probabilities.argmax(axis=1) == labels).mean())
