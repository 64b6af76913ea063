"""KL matching: divergence from the typical prediction of a class.

Hendrycks et al.: Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022, arXiv:1911.11132,
sec. 3.
"""

import numpy as np
import torch
from torch import Tensor

from sslood.ood.geometry.logits import log_probabilities
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import LogSums, Streaming, Sums
from sslood.ood.kit.outputs import Outputs


class KLMatching(Streaming):
    """min_k KL(p || d_k), d_k the mean softmax of the ID validation images predicted as class k.

    A class that is never predicted there has no template and is left out.
    """

    reads = ("logits",)
    on_validation = True

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
        logs = log_probabilities(parts["logits"])
        p = logs.exp()
        return ((p * logs).sum(1, keepdim=True) - p @ state["log_templates"].T).amin(1)
