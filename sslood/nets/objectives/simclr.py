"""SimCLR: NT-Xent, the normalised temperature-scaled cross-entropy.

Chen et al. 2020, "A simple framework for contrastive learning of visual representations", arXiv:2002.05709,
eq. 1.
"""

from torch import Tensor

from sslood.nets.selfsup.contrastive import Contrastive
from sslood.nets.selfsup.losses.contrastive import nt_xent


class SimCLR(Contrastive):
    """Two views of an image attract, all other images of the batch repel."""

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return nt_xent(z1, z2, self.settings.temperature)
