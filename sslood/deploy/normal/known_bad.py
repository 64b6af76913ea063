"""Nearness to known bad examples: what a few of them tell that normal ones cannot.

The few-shot setting is that of SSD_k (Sehwag, Chiang and Mittal, ICLR 2021, arXiv:2103.12051), whose Gaussian
of the known images needs dozens of them. The distance to the nearest one is useful from one on; it is the
other half of the score of Sun et al. (ICML 2022, arXiv:2204.06507), and the two are summed.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sslood.core.rows import unit_rows
from sslood.ood.geometry.nearest.bank import directions, kth_distance
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs


def kind_of(place: str | Path, places: Sequence[str | Path]) -> str:
    """Return what examples are called: their file or folder by name, or by path if two have one name."""
    stems = [Path(one).stem for one in places]
    return Path(place).stem if stems.count(Path(place).stem) == 1 else str(place)


class KnownBad(Detector):
    """Minus the Euclidean distance to the nearest known bad example, features divided by their length: in
    [-2, 0], larger = more OOD. `fit` takes the outputs of the bad examples.

    Alone it calls nothing OOD that is unlike both normal and bad examples, so it is summed with a score that
    does.
    """

    reads = ("features",)
    searches_bank = True

    def _fit(self, source: Outputs) -> Arrays:
        return {"bank": directions(source.need("features"))}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return -kth_distance(state["bank"], unit_rows(parts["features"]).float(), 1)
