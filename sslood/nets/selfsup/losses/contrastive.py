"""NT-Xent (Chen et al. 2020, arXiv:2002.05709, eq. 1) and its terms: alignment and repulsion."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def alignment(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Return -mean_i z1_i . z2_i / temperature of unit vectors [N, D]: how close the positives are."""
    return -(z1 * z2).sum(1).mean() / temperature


def repulsion(z: Tensor, temperature: float) -> Tensor:
    """Return mean_i log sum_{a != i} exp(z_i . z_a / temperature) of unit vectors [M, D]."""
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return similarity.masked_fill(itself, -torch.inf).logsumexp(1).mean()


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, terms) of projections [N, D], any length: alignment plus repulsion over all 2N.

    The mean over the 2N views, without the factor that some implementations put before it.
    """
    z1, z2 = normalize(z1, dim=1), normalize(z2, dim=1)
    terms = {
        "alignment": alignment(z1, z2, temperature),
        "repulsion": repulsion(torch.cat((z1, z2)), temperature),
    }
    return terms["alignment"] + terms["repulsion"], terms
