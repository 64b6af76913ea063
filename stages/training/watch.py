"""What a training run is watched by: spread and rank of its embeddings, and a kNN accuracy on the side."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

KNN_K, KNN_TEMPERATURE = 20, 0.1  # of the accuracy in the curves; the stage `probe` has its own
COLLAPSED = 1e-2  # a spread below this: the embeddings are all but one point


def spread(z: Tensor) -> Tensor:
    """Return how far embeddings [N, D] differ, as a scalar: 0 collapsed to a point, 1 spread all around.

    The standard deviation per dimension of the vectors scaled to length 1, averaged, times sqrt(D)
    (Chen & He 2021, section 4.1, where it is 1 / sqrt(D) for an isotropic Gaussian).
    """
    unit = normalize(z.detach().float(), dim=1)
    return unit.std(0, correction=0).mean() * z.shape[1] ** 0.5


def effective_rank(features: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of features [N, D], in [1, D].

    Roy & Vetterli (2007); of the uncentred features, as RankMe (Garrido et al. 2023) uses it. The
    singular values come from the D x D Gram matrix in float64, so N may be large.
    """
    features = features.double().cpu()
    singular = torch.linalg.eigvalsh(features.T @ features).clamp(min=0).sqrt()
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
    """Return the share of queries [M, D] whose label wins the vote of their k nearest in the bank [N, D].

    Cosine similarity s, votes weighted by exp(s / temperature) (Wu et al. 2018). Labels are int64,
    0 to K - 1, on the features' device. A bank smaller than k votes as a whole.
    """
    bank, queries = normalize(bank.float(), dim=1), normalize(queries.float(), dim=1)
    classes = int(bank_labels.max()) + 1
    right = torch.zeros((), dtype=torch.int64, device=queries.device)
    for chunk, truth in zip(queries.split(1024), labels.split(1024), strict=True):
        similarity, nearest = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes, device=chunk.device)
        votes.scatter_add_(1, bank_labels[nearest], torch.exp(similarity / temperature))
        right += (votes.argmax(1) == truth).sum()
    return int(right) / len(labels)
