"""fDBD (Liu and Qin 2024): distance of the features to the decision boundaries."""

import numpy as np

from sslood.core.errors import InputError
from sslood.ood.kit.fitting import Streaming, Sums
from sslood.ood.kit.outputs import Head, Outputs


class Fdbd(Streaming):
    """-mean over c != c* of |f_c* - f_c| / (|w_c* - w_c| |z - mean|), c* the predicted class.

    The mean is that of the ID train features. Two classes of equal weights have no boundary and add 0.
    """

    reads = ("features",)
    needs_head = True

    def _gather(self, source: Outputs) -> Sums:
        return {"sum": source.features.sum(axis=0, dtype=np.float64), "count": np.array(len(source))}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        if len(source.head.weight) < 2:
            raise InputError(f"{source.name}: fdbd needs a classifier of at least two classes")
        return {**vars(source.head), "mean": sums["sum"] / sums["count"]}

    def _score(self, outputs: Outputs) -> np.ndarray:
        weight = self.state["weight"].astype(np.float64)
        apart = np.stack([np.linalg.norm(weight - row, axis=1) for row in weight])
        apart[apart == 0] = np.inf
        logits = Head(weight, self.state["bias"]).logits(outputs.features)
        gaps = logits.max(axis=1, keepdims=True) - logits
        boundary = (gaps / apart[logits.argmax(axis=1)]).sum(axis=1) / (len(weight) - 1)
        return -boundary / np.maximum(np.linalg.norm(outputs.features - self.state["mean"], axis=1), 1e-12)
