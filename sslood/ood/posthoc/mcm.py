"""MCM, maximum concept matching: softmax of the cosines with the vectors of the classes' names.

Ming, Cai, Gu, Sun, Li and Li: Delving into Out-of-Distribution Detection with Vision-Language
Representations, NeurIPS 2022, arXiv:2211.13445, eq. 1.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sslood.core.rows import unit_rows
from sslood.core.settings import Auto, Settings, above
from sslood.ood.geometry.logits import log_of_rest
from sslood.ood.geometry.products import number, product
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class MCMSettings(Settings):
    """Hyperparameters of MCM."""

    temperature: Annotated[float | Auto, above(0), "that cosines are divided by; 1 in the paper"] = 1.0


class MCM(Detector):
    """log(1 - max_c softmax(cos(z, t_c) / temperature)), t_c the text vector of class c.

    Ranks as the paper's -max softmax does, and does not saturate. For models that come with such vectors.
    """

    reads = ("features",)
    needs_concepts = ("labels",)
    least_classes = 2  # a single class has probability 1 always
    Settings = MCMSettings
    space = {"temperature": (0.01, 0.1, 1.0)}  # 0.01 is CLIP's own, and nearly 1 what the paper ends at

    def _fit(self, source: Outputs) -> Arrays:
        return {"labels": unit_rows(source.need_concepts("labels"))}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        cosines = product(unit_rows(parts["features"]), state["labels"].T)
        return log_of_rest(cosines / number(self.settings.temperature))
