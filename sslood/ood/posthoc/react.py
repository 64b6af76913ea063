"""ReAct (Sun, Guo and Li 2021): energy of the logits from clipped features."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.special import logsumexp

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.kit.fitting import Sums, TwoPass
from sslood.ood.kit.outputs import Head, Outputs


@dataclass(frozen=True)
class ReactSettings(Settings):
    quantile: Annotated[
        float | Auto, inside(0, 1), "share of all ID train activations below the clipping value"
    ] = 0.9


class React(TwoPass):
    """-log sum_c exp(f_c(min(z, limit))).

    The exact quantile of a stream in bounded memory: a first pass counts the upper halves of the activations'
    bits, which rank as the activations do; a second counts the lower halves where the quantile lies.
    """

    reads = ("features",)
    needs_head = True
    Settings = ReactSettings
    space = {"quantile": (0.8, 0.85, 0.9, 0.95, 0.99)}

    def _gather(self, source: Outputs) -> Sums:
        count, bits = np.array(len(source)), _ordered(source.features)
        if self.found is None:
            return {"high": _counts(bits >> 16), "values": np.array(bits.size), "count": count}
        low = [_counts(bits[bits >> 16 == high] & 0xFFFF) for high in self.found["high"]]
        return {"low": np.stack(low), "count": count}

    def _between(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        place = self.settings.quantile * (int(sums["values"]) - 1)
        ranks, upto = np.array([np.floor(place), np.ceil(place)]).astype(np.int64), np.cumsum(sums["high"])
        high = np.searchsorted(upto, ranks, side="right")
        found = {"high": high, "rank": ranks - (upto - sums["high"])[high], "part": place - ranks[0]}
        return {**found, "count": sums["count"]}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        found = self.found
        low = [np.searchsorted(np.cumsum(one), rank, side="right")
               for one, rank in zip(sums["low"], found["rank"], strict=True)]  # fmt: skip
        below, above = _values(found["high"] << 16 | np.array(low))
        return {"limit": np.array([below + found["part"] * (above - below)]), **vars(source.head)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        clipped = np.minimum(outputs.features, self.state["limit"])
        return -logsumexp(Head(self.state["weight"], self.state["bias"]).logits(clipped), axis=1)


def _ordered(rows: np.ndarray) -> np.ndarray:
    """Return the bits of float32 values as numbers that rank as the values do: uint32 [n]."""
    bits = np.ascontiguousarray(rows, np.float32).ravel().view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | 0x80000000)


def _values(ordered: np.ndarray) -> np.ndarray:
    """Return the values, float64, of which these are the `_ordered` bits."""
    bits = np.where(ordered >> 31, ordered & 0x7FFFFFFF, ~ordered & 0xFFFFFFFF).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)


def _counts(halves: np.ndarray) -> np.ndarray:
    return np.bincount(halves, minlength=2**16)
