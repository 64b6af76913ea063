"""Ensembles of leave-out classifiers (Vyas et al. 2018) with ODIN (Liang, Li and Srikant 2018).

Works on functions from images to logits, whatever network is behind them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import log_softmax

from sslood.core.errors import InputError
from sslood.ood.kit.perturbation import best_epsilon, gradient_sign, perturb

BATCH = 256
Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Member:
    """One classifier: normalised images [N, C, H, W] -> logits [N, K] of the classes `head_classes`.

    mean and std: of each channel, in units of [0, 1].
    """

    forward: Forward
    head_classes: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Votes:
    """Sums over the members: largest probability [N], entropy [N], probabilities [N, classes]."""

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


def member_votes(
    logits: torch.Tensor, head_classes: Sequence[int], classes: int, temperature: float
) -> Votes:
    """Return one member's part of the sums. float64: at T = 1000 the entropy differs in the fifth decimal.

    Classes the member was not trained on have probability 0 and add nothing to the entropy.
    """
    logs = log_softmax(logits.cpu().double() / temperature, dim=1)
    p = logs.exp()
    whole = p.new_zeros(len(p), classes)
    whole[:, list(head_classes)] = p
    parts = p.max(dim=1).values, -(p * logs).sum(dim=1), whole
    return Votes(*(part.numpy() for part in parts))


def ensemble_votes(
    members: Sequence[Member],
    images: np.ndarray,
    settings: Sequence[tuple[float, float]],
    *,
    classes: int,
    gradient_temperature: float,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] = lambda count: None,
) -> list[Votes]:
    """Return the votes of all members for uint8 images [N, C, H, W], for each setting (temperature, epsilon).

    Each member perturbs the images by its own gradient, which is computed once for all settings, at
    `gradient_temperature`. `progress` is called with the number of images done, once a member.
    """
    pieces: list[list[Votes]] = [[] for _ in settings]
    for batch in _batches(images, device):
        sums: list[Votes | None] = [None] * len(settings)
        for member in members:
            for place, votes in enumerate(_votes(member, batch, settings, classes, gradient_temperature)):
                sums[place] = votes if sums[place] is None else sums[place] + votes
            progress(len(batch))
        for place, votes in enumerate(sums):
            pieces[place].append(votes)
    return [_join(parts) for parts in pieces]


def _votes(
    member: Member, batch: torch.Tensor, settings, classes: int, temperature: float
) -> Iterator[Votes]:
    mean, std = (
        torch.as_tensor(v, dtype=batch.dtype, device=batch.device).view(1, -1, 1, 1)
        for v in (member.mean, member.std)
    )
    images = (batch - mean) / std
    sign = None
    if any(epsilon for _, epsilon in settings):
        sign, plain = gradient_sign(member.forward, images, temperature)
    else:
        with torch.inference_mode():
            plain = member.forward(images)
    logits = {0.0: plain}
    for at, epsilon in settings:
        if epsilon not in logits:
            with torch.inference_mode():
                logits[epsilon] = member.forward(perturb(images, sign, epsilon, member.std))
        yield member_votes(logits[epsilon], member.head_classes, classes, at)


def _batches(images: np.ndarray, device: torch.device | str) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), BATCH):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).to(device).float() / 255


def _join(parts: list[Votes]) -> Votes:
    return Votes(
        *(
            np.concatenate([getattr(v, name) for v in parts])
            for name in ("largest", "entropy", "probabilities")
        )
    )


def choose_epsilon(
    epsilons: Sequence[float], id_votes: Sequence[Votes], ood_votes: Sequence[Votes]
) -> tuple[float, dict]:
    """Return (the epsilon with the highest AUROC, the smallest of equals; AUROC of each candidate).

    To be called with validation images only.
    """
    if any(epsilon < 0 for epsilon in epsilons):
        raise InputError(f"ensemble.epsilons must not be below 0, found {min(epsilons)}")
    return best_epsilon(epsilons, *([votes.score for votes in side] for side in (id_votes, ood_votes)))


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
    """epsilon: chosen; aurocs: of each candidate; rows: set -> detector -> scores [N]; plain: set -> votes
    without ODIN."""

    epsilon: float
    aurocs: dict[str, float]
    rows: dict[str, dict[str, np.ndarray]]
    plain: dict[str, Votes]


def evaluate(
    members: Sequence[Member],
    validation: tuple[np.ndarray, np.ndarray],
    tests: Mapping[str, np.ndarray],
    *,
    temperature: float,
    epsilons: Sequence[float],
    classes: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] = lambda count: None,
) -> Evaluation:
    """Choose epsilon on `validation` (ID images, tuning OOD images), then score the images of `tests`.

    Images uint8 [N, C, H, W]; see `ensemble_votes`.
    """
    how = {"classes": classes, "gradient_temperature": temperature, "device": device, "progress": progress}
    settings = [(temperature, epsilon) for epsilon in epsilons]
    epsilon, aurocs = choose_epsilon(
        epsilons, *(ensemble_votes(members, images, settings, **how) for images in validation)
    )
    rows, plain = {}, {}
    for name, images in tests.items():
        tempered, plain[name] = ensemble_votes(members, images, [(temperature, epsilon), (1.0, 0.0)], **how)
        rows[name] = score_rows(tempered, plain[name])
    return Evaluation(epsilon, aurocs, rows, plain)


def accuracy(votes: Votes, labels: np.ndarray) -> float:
    """Return the share of images whose label has the largest sum of probabilities."""
    return float((votes.probabilities.argmax(axis=1) == labels).mean())
