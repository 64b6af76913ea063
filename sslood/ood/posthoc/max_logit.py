"""Maximum logit.

Hendrycks et al.: Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022, arXiv:1911.11132.
"""

from torch import Tensor

from sslood.ood.kit.detector import Detector, Tensors


class MaxLogit(Detector):
    """-max_c f_c(x)."""

    reads = ("logits",)

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return -parts["logits"].amax(1)
