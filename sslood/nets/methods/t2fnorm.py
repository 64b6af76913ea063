"""T2FNorm: a head that sees features of one length in training, and those of the network in testing.

Regmi et al. 2024, "T2FNorm: train-time feature normalization for OOD detection in image classification",
CVPR workshops, arXiv:2305.17797.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslood.core.precision import at_least_float32


class NormedHead(nn.Linear):
    """Linear head W, bias b, trained on W z / (temperature |z|) + b, tested as W z / (temperature m) + b.

    The paper's temperature is 0.1, and its m is 1. `length` is m. Nothing in training fixes how long features
    are, so with m = 1 the softmax of testing may be many times as sharp as that of training; `measure` takes
    the mean length instead, which leaves the order by length of features as it is. `folded` is the plain head
    of testing, which a model file keeps.
    """

    length: Tensor

    def __init__(self, head: nn.Linear, temperature: float):
        super().__init__(head.in_features, head.out_features)
        self.load_state_dict(head.state_dict())
        self.temperature = temperature
        self.register_buffer("length", torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        """Features [N, D] -> logits [N, K]."""
        z = at_least_float32(z)
        return super().forward(
            (F.normalize(z, dim=1) if self.training else z / self.length) / self.temperature
        )

    @torch.no_grad()
    def measure(self, z: Tensor) -> None:
        """Set `length` to the mean length of features [N, D], unless all are zero."""
        mean = z.cpu().double().norm(dim=1).mean()  # Apple's GPUs have no float64
        if mean > 0:
            self.length.copy_(mean)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return the plain head with the logits of testing."""
        head = nn.Linear(
            self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype
        )
        head.weight.copy_(self.weight / self.temperature / self.length)
        head.bias.copy_(self.bias)
        return head
