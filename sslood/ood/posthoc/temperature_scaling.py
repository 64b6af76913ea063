"""Maximum softmax probability at the temperature that calibrates the classifier (Guo et al. 2017)."""

import numpy as np

from sslood.ood.kit.detector import known_labels
from sslood.ood.kit.fitting import Rows, Streaming, Sums
from sslood.ood.kit.log_softmax import log_of_rest, log_probabilities
from sslood.ood.kit.outputs import Outputs

RANGE = (0.01, 100.0)  # a classifier that is always right has no best temperature: its loss falls to T = 0


def calibrating_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the T in RANGE of least mean -log softmax(logits / T)[label]; logits [N, K], labels [N]."""
    from scipy.optimize import minimize_scalar  # a quarter of a second that no other detector needs

    rows = np.arange(len(labels))
    found = minimize_scalar(
        lambda log_t: -log_probabilities(logits, np.exp(log_t))[rows, labels].mean(),
        bounds=np.log(RANGE),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


class TemperatureScaling(Streaming):
    """log(1 - max softmax(f / T)), T fitted on ID validation, of which batches and shards keep the logits."""

    reads = ("logits",)
    on_validation = True

    piece = 2**62  # all at once: one array, without a copy of the parts

    def _gather(self, source: Outputs) -> Sums:
        return {"logits": Rows((source.logits,)), "labels": Rows((known_labels(source),))}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        logits, labels = sums["logits"].all, sums["labels"].all
        # one order whatever the shards: the minimum is so flat that rounding of its sums moves it
        order = np.lexsort((labels, *logits.T))
        return {"temperature": np.array([calibrating_temperature(logits[order], labels[order])])}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return log_of_rest(outputs.logits / self.state["temperature"])
