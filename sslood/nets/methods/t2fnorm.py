"""T2FNorm: a head that sees features of one length in training, and those of the network in testing.

Regmi et al. 2024, "T2FNorm: train-time feature normalization for OOD detection in image classification",
CVPR workshops, arXiv:2305.17797.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslood.core.precision import at_least_float32


class NormedHead(nn.Linear):
    """A linear head W with bias b, trained on W z / (temperature |z|) + b, tested as W z / temperature + b.

    The paper's temperature is 0.1. `folded` is the plain head of testing, which a model file keeps.
    """

    def __init__(self, head: nn.Linear, temperature: float):
        super().__init__(head.in_features, head.out_features)
        self.load_state_dict(head.state_dict())
        self.temperature = temperature

    def forward(self, z: Tensor) -> Tensor:
        """Features [N, D] -> logits [N, K]."""
        z = at_least_float32(z)
        return super().forward((F.normalize(z, dim=1) if self.training else z) / self.temperature)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return the plain head with the logits of testing."""
        head = nn.Linear(
            self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype
        )
        head.weight.copy_(self.weight / self.temperature)
        head.bias.copy_(self.bias)
        return head
