"""How a training run is monitored: spread and rank of embeddings, kNN and linear accuracy on the side."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sslood.core.errors import InputError
from sslood.core.precision import at_least_float32
from sslood.nets.training.ranks import gather

KNN_K, KNN_TEMPERATURE = 20, 0.1  # of the accuracy in the curves; the stage `probe` has its own
CHUNK = 1 << 16  # images whose features are widened to float64 at a time
RIDGE = 1e-3  # on standardised features, of the linear accuracy in the curves
# terms of an objective that show a collapse, their level below which it is one, and what that means
COLLAPSES = {
    "spread": (1e-2, "the spread of the embeddings"),  # all but one point
    "prototypes": (1.1, "the number of prototypes in use"),  # all images get the same answer
}


def spread(z: Tensor) -> Tensor:
    """Return how far embeddings [N, D] differ, a scalar: 0 for a single point, 1 for an isotropic Gaussian.

    The standard deviation per dimension of the vectors scaled to length 1, averaged, times sqrt(D), over the
    rows of all ranks (Chen & He 2021, "Exploring simple Siamese representation learning", arXiv:2011.10566,
    section 4.1).
    """
    unit = normalize(gather(at_least_float32(z.detach())), dim=1)
    return unit.std(0, correction=0).mean() * z.shape[1] ** 0.5


def effective_rank(features: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of features [N, D], in [1, D].

    Roy & Vetterli 2007, "The effective rank"; of the uncentred features, as RankMe has it (Garrido et al.
    2023, arXiv:2210.02885). The singular values come from the D x D Gram matrix in float64, so N may be
    large.
    """
    gram = torch.stack([part.T @ part for part in map(_exact, features.split(CHUNK))]).sum(0)
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    k: int = KNN_K,
    temperature: float = KNN_TEMPERATURE,
) -> float:
    """Return the share of queries [M, D] for which `knn_labels` gives their `labels` [M]."""
    guesses = knn_labels(bank, bank_labels, queries, k=k, temperature=temperature)
    return int((guesses == labels).sum()) / len(labels)


def knn_labels(bank: Tensor, bank_labels: Tensor, queries: Tensor, *, k: int, temperature: float) -> Tensor:
    """Return the label [M] that wins the vote of each query's [M, D] k nearest in the bank [N, D].

    Cosine similarity s, votes weighted by exp(s / temperature) (Wu et al. 2018, arXiv:1805.01978).
    Labels are int64, 0 to K - 1, on the features' device. A bank smaller than k votes as a whole.
    """
    bank, queries = (normalize(at_least_float32(x), dim=1) for x in (bank, queries))
    classes = int(bank_labels.max()) + 1
    winners = []
    for chunk in queries.split(1024):
        similarity, nearest = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes, dtype=chunk.dtype, device=chunk.device)
        votes.scatter_add_(1, bank_labels[nearest], torch.exp(similarity / temperature))
        winners.append(votes.argmax(1))
    return torch.cat(winners)


def linear_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Return the accuracy on queries [M, D] of a linear classifier fitted to the bank [N, D] and its labels.

    Least squares of the one-hot labels on the standardised features with a small ridge, in closed form: an
    online probe that needs no optimiser of its own, so it neither lags behind nor has to be resumed. The
    D x D system is solved in float64; only sums over the images are kept.
    """
    mean, std = bank.mean(0), bank.std(0, correction=0)
    std = torch.where(std > 1e-8, std, torch.ones_like(std))  # a feature without spread is shifted only
    bank_labels = bank_labels.cpu()
    gram = torch.zeros(bank.shape[1], bank.shape[1], dtype=torch.float64)
    sums = torch.zeros(int(bank_labels.max()) + 1, bank.shape[1], dtype=torch.float64)
    for part, truth in zip(bank.split(CHUNK), bank_labels.split(CHUNK), strict=True):
        x = _exact((part - mean) / std)
        gram += x.T @ x
        sums.index_add_(0, truth, x)
    centre = bank_labels.bincount().double() / len(bank)
    cross = sums.T - torch.outer(sums.sum(0), centre)  # of features and centred one-hot labels
    ridge = RIDGE * torch.eye(bank.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram / len(bank) + ridge, cross / len(bank))
    right = 0
    for part, truth in zip(queries.split(CHUNK), labels.cpu().split(CHUNK), strict=True):
        guesses = (_exact((part - mean) / std) @ weights + centre).argmax(1)
        right += int((guesses == truth).sum())
    return right / len(labels)


def _exact(features: Tensor) -> Tensor:
    """Return them as float64 on the CPU; on the way there, since not every device has it."""
    return features.cpu().double()


def check_steps(label: str, epoch: int, names: Sequence[str], values: Tensor, first: int) -> None:
    """Raise InputError that names step and term if a value of an epoch is not finite or shows a collapse.

    `values` [steps, terms] are the terms `names` of each step; `first` is the number of the epoch's first
    step from the start of the run. If several terms of a step are not finite, one that the loss consists
    of is named. An epoch is a collapse if the mean of a term in COLLAPSES is below its level.
    """
    broken = ~values.isfinite()
    if broken.any():
        step = int(broken.any(1).nonzero()[0])
        terms = [name for name, bad in zip(names, broken[step].tolist(), strict=True) if bad]
        term = next((name for name in terms if name not in ("loss", "spread")), terms[0])
        raise InputError(
            f"{label}: {term} became {values[step, names.index(term)].item()} at step {first + step + 1}, in "
            f"epoch {epoch + 1}; lower the learning rate or lengthen the warm-up"
        )
    for name, (level, what) in COLLAPSES.items():
        if name not in names or (course := values[:, names.index(name)]).mean() >= level:
            continue
        step = int((course < level).nonzero()[0])
        raise InputError(
            f"{label}: collapse, {what} fell to {course[step]:.2g} at step {first + step + 1}, in epoch "
            f"{epoch + 1}; lower the learning rate, or use a larger batch or stronger augmentation"
        )
