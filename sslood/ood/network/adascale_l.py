"""AdaSCALE-L: AdaSCALE that scales the logits, as LTS does.

Regmi: AdaSCALE: Adaptive Scaling for OOD Detection, 2025, arXiv:2503.08023.
"""

from torch import Tensor

from sslood.ood.kit.network_detector import Network
from sslood.ood.network.adascale_a import AdaSCALEA, logits_of


class AdaSCALEL(AdaSCALEA):
    """-log sum_c exp(f_c(z) r^2), r as of AdaSCALE-A."""

    def _scaled(self, network: Network, features: Tensor, ratios: Tensor) -> Tensor:
        return logits_of(network, features) * ratios**2
