"""Maximum softmax probability at the temperature that calibrates the classifier (Guo et al. 2017)."""

import numpy as np

from stages.ood.detector import Detector, known_labels
from stages.ood.logs import log_of_rest, log_probabilities
from stages.ood.outputs import Outputs

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


class TemperatureScaling(Detector):
    """log(1 - max softmax(f / T)), T fitted on ID validation."""

    reads = ("logits",)
    on_validation = True

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        return {"temperature": np.array([calibrating_temperature(source.logits, known_labels(source))])}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return log_of_rest(outputs.logits / self.state["temperature"])
