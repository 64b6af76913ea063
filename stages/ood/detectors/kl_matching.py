"""KL matching (Hendrycks et al. 2022, sec. 3): divergence from the typical prediction of a class."""

import numpy as np
from scipy.special import logsumexp

from stages.ood.detector import Detector
from stages.ood.logs import log_probabilities
from stages.ood.outputs import Outputs


class KlMatching(Detector):
    """min_k KL(p || d_k), d_k the mean softmax of the ID validation images predicted as class k.

    A class that is never predicted there has no template and is left out.
    """

    reads = ("logits",)
    on_validation = True

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        logs = log_probabilities(source.logits)
        predicted = logs.argmax(axis=1)
        means = [
            logsumexp(logs[predicted == k], axis=0) - np.log(np.sum(predicted == k))
            for k in np.unique(predicted)
        ]
        return {"log_templates": np.stack(means)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        logs = log_probabilities(outputs.logits)
        p = np.exp(logs)
        divergence = (p * logs).sum(axis=1, keepdims=True) - p @ self.state["log_templates"].T
        return divergence.min(axis=1)
