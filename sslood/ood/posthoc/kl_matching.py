"""KL matching: divergence from the typical prediction of a class.

Hendrycks et al.: Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022, arXiv:1911.11132,
sec. 3.
"""

from collections.abc import Sequence
from math import factorial

import numpy as np
import torch
from torch import Tensor

from sslood.ood.geometry.logits import log_probabilities, log_probability_and_rest
from sslood.ood.geometry.products import number, product
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import LogSums, Streaming, Sums
from sslood.ood.kit.outputs import Outputs

NEAR = 0.1  # log ratios below which a series has more digits than the closed form
ABOVE = tuple((-1) ** n / factorial(n) for n in range(2, 12))  # of x + e^-x - 1, from x^2 on
BELOW = tuple((-1) ** n * (n - 1) / factorial(n) for n in range(2, 12))  # of 1 - e^-x (1 + x)


class KLMatching(Streaming):
    """min_k KL(p || d_k), d_k the mean softmax of the ID validation images predicted as class k.

    A class that is never predicted there has no template and is left out.
    """

    reads = ("logits",)
    on_validation = True
    least_classes = 2  # a single class is its own template

    def _gather(self, source: Outputs) -> Sums:
        logs = log_probabilities(torch.from_numpy(source.need("logits").astype(np.float64)))
        predicted, count = logs.argmax(1), logs.shape[1]
        sums = np.full((count, count), -np.inf)
        for k in predicted.unique().tolist():
            sums[k] = torch.logsumexp(logs[predicted == k], 0).numpy()
        return {"templates": LogSums(sums), "count": np.bincount(predicted.numpy(), minlength=count)}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        seen = sums["count"] > 0
        return {"log_templates": sums["templates"].logs[seen] - np.log(sums["count"][seen])[:, None]}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        logs, _ = log_probability_and_rest(parts["logits"])
        templates, _ = log_probability_and_rest(state["log_templates"])
        # the cross-entropy finds the template by one product; its divergence is then summed term by term
        nearest = product(logs.exp(), templates.T).argmax(1)
        return _divergence(logs, templates[nearest])


def _divergence(logs: Tensor, template: Tensor) -> Tensor:
    """Return KL(p || d) of log p [n, K] from log d [n, K]: [n], nowhere below 0.

    As both sum to 1, it is sum_k p_k (r + e^-r - 1), r = log p_k - log d_k: no term is below 0, so a small
    sum keeps its digits, which sum p log p - sum p log d loses. Where p < d a term is d (r e^r - e^r + 1).
    """
    r = logs - template
    size = r.abs()
    fell = torch.exp(-size)
    # of the larger of p and d: r + e^-r - 1 or 1 - e^-r (1 + r), r now above 0, by their series near 0
    above = torch.where(size < NEAR, _series(size, ABOVE), size + torch.expm1(-size))
    below = torch.where(size < NEAR, _series(size, BELOW), -torch.expm1(-size) - size * fell)
    return (torch.maximum(logs, template).exp() * torch.where(r > 0, above, below)).sum(1)


def _series(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return x^2 (c_0 + c_1 x + ...)."""
    total = torch.zeros_like(x)
    for c in reversed(coefficients):
        total = total * x + number(c)
    return x * x * total
