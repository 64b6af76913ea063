"""NegLabel: share of the classes' names, among many words that are none of them, in what an image resembles.

Jiang, Liu, Fang, Chen, Liu, Zheng and Han: Negative Label Guided OOD Detection with Pretrained
Vision-Language Models, ICLR 2024, arXiv:2403.20078. That words are taken by the 95 % quantile of their
similarity to the classes is recalled, not read.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.rows import unit_rows
from sslood.core.seeding import numpy_stream
from sslood.core.settings import Auto, Settings, above, at_least, inside
from sslood.ood.geometry.products import number, product
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs

QUANTILE = 0.95
LEAST = 1e-300  # of a share, so that it has a logarithm


@dataclass(frozen=True)
class NegLabelSettings(Settings):
    """Hyperparameters of NegLabel."""

    temperature: Annotated[float | Auto, above(0), "that cosines are divided by; 0.01 in the paper"] = 0.01
    groups: Annotated[int, at_least(1), "random groups of the words, whose shares are averaged"] = 100
    kept: Annotated[
        float | Auto, inside(0, 1.01), "share of the words that are kept, the least similar to the classes"
    ] = 1.0


class NegLabel(Detector):
    """log(m / (1 - m)), m the mean over groups g of N_g / (P + N_g).

    P = sum_c e^(c / T) and N_g = sum of e^(n_j / T) over its words; c and n_j are the cosines of an image's
    vector with those of the classes and of the negative words. The paper's score is 1 - m, larger on ID: so
    this ranks as its negative. It saturates neither near m = 0 nor near 1, but where a share is below 1e-300.
    """

    reads = ("features",)
    needs_concepts = ("labels", "negatives")
    Settings = NegLabelSettings
    space = {"temperature": (0.01, 0.1, 1.0), "kept": (0.25, 0.5, 1.0)}  # our own, about the paper's

    def _fit(self, source: Outputs) -> Arrays:
        labels, words = (unit_rows(source.need_concepts(part)) for part in self.needs_concepts)
        similar = np.quantile(words @ labels.T, QUANTILE, axis=1)
        kept = np.argsort(similar, kind="stable")[: max(1, round(self.settings.kept * len(words)))]
        order = numpy_stream(self.seed, "neglabel").permutation(np.sort(kept))
        groups = min(self.settings.groups, len(order))
        member = np.zeros((len(order), groups))
        member[np.arange(len(order)), np.arange(len(order)) % groups] = 1.0
        return {"labels": labels, "words": words[order], "member": member}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows, temperature = unit_rows(parts["features"]), number(self.settings.temperature)
        classes, words = (product(rows, state[key].T) / temperature for key in ("labels", "words"))
        top = torch.maximum(classes.amax(1), words.amax(1))[:, None]
        of_classes = (classes - top).exp().sum(1, keepdim=True)
        of_words = product((words - top).exp(), state["member"])
        total = torch.maximum(of_classes + of_words, number(LEAST))
        shares = [(part / total).mean(1) for part in (of_words, of_classes)]
        logs = [torch.maximum(share, number(LEAST)).log() for share in shares]
        return logs[0] - logs[1]
