"""KL matching (Hendrycks et al. 2022, sec. 3): divergence from the typical prediction of a class."""

import numpy as np
from scipy.special import logsumexp

from sslood.ood.kit.fitting import LogSums, Streaming, Sums
from sslood.ood.kit.log_softmax import log_probabilities
from sslood.ood.kit.outputs import Outputs


class KlMatching(Streaming):
    """min_k KL(p || d_k), d_k the mean softmax of the ID validation images predicted as class k.

    A class that is never predicted there has no template and is left out.
    """

    reads = ("logits",)
    on_validation = True

    def _gather(self, source: Outputs) -> Sums:
        logs = log_probabilities(source.logits)
        predicted, count = logs.argmax(axis=1), logs.shape[1]
        sums = np.full((count, count), -np.inf)
        for k in np.unique(predicted):
            sums[k] = logsumexp(logs[predicted == k], axis=0)
        return {"templates": LogSums(sums), "count": np.bincount(predicted, minlength=count)}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        seen = sums["count"] > 0
        return {"log_templates": sums["templates"].logs[seen] - np.log(sums["count"][seen])[:, None]}

    def _score(self, outputs: Outputs) -> np.ndarray:
        logs = log_probabilities(outputs.logits)
        p = np.exp(logs)
        divergence = (p * logs).sum(axis=1, keepdims=True) - p @ self.state["log_templates"].T
        return divergence.min(axis=1)
