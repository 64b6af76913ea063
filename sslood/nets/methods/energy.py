"""Energy-bounded fine-tuning with auxiliary outliers.

Liu et al. 2020, "Energy-based out-of-distribution detection", arXiv:2010.03759, section 3.3.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sslood.core.errors import InputError, LeftOut
from sslood.core.files import read_metadata
from sslood.core.needs import CLASSIFIED, Need
from sslood.core.rounding import decimal
from sslood.core.settings import Limits, at_least
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import Batch, WithOutliers
from sslood.nets.networks.build import seeded
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.files import load_model
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.settings import TrainingSettings

NEEDS, AUXILIARY = (CLASSIFIED,), (Need(images=1),)  # of ID train and of the outliers
CONFIDENT = 0.99  # the softmax probability that defines m_in of an untrained head


@dataclass(frozen=True)
class EnergySettings(TrainingSettings):
    """The section `energy`."""

    auxiliary_batch_size: Annotated[int, at_least(1), "auxiliary outliers per batch, beside the ID images"]
    weight: Annotated[float, at_least(0), "weight of the energy term"]
    margins: Annotated[
        Literal["auto", "fixed"], "auto: from the start model's energies; fixed: m_in and m_out"
    ]
    m_in: Annotated[float, Limits(), "energy that ID images are pulled below, with fixed margins"]
    m_out: Annotated[float, Limits(), "energy that auxiliary outliers are pushed above, with fixed margins"]


def start_model(init_model: str | Path, id_set: str | Path, seed: int) -> tuple[Model, ModelCard, bool]:
    """Return (model with a head over all classes, the card of the start, whether that head is fresh).

    InputError where model and ID set do not match.
    """
    start, card = load_model(init_model)
    check_fits(card, read_metadata(id_set, kind="set"), init_model)
    classes = list(range(len(card.classes)))
    fresh = card.head_classes != classes
    with seeded(seed, "head"):
        head = build_head(card.feature_dim, len(classes)) if fresh else start.need_head()
    return Model(start.backbone, head), card, fresh


def energy(logits: Tensor) -> Tensor:
    """Return E(x) = -logsumexp of the logits [N, K] -> [N], at temperature 1 (eq. 4); larger = more OOD."""
    return -torch.logsumexp(logits, 1)


def margin_loss(energy_in: Tensor, energy_out: Tensor, *, m_in: float, m_out: float) -> Tensor:
    """Return mean_in max(0, E - m_in)^2 + mean_out max(0, m_out - E)^2 (section 3.3), means over samples."""
    above = F.relu(energy_in - m_in).square().mean()
    below = F.relu(m_out - energy_out).square().mean()
    return above + below


def energy_objective(
    logits: Tensor, labels: Tensor, *, weight: float, m_in: float, m_out: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (CE + weight * margin_loss, its terms) for logits [N + M, K], `labels` [N] of the first."""
    inside, outside = energy(logits[: len(labels)]), energy(logits[len(labels) :])
    cross = F.cross_entropy(logits[: len(labels)], labels)
    margin = margin_loss(inside, outside, m_in=m_in, m_out=m_out)
    terms = {"cross_entropy": cross, "margin_loss": margin, "energy_id": inside.mean()}
    return cross + weight * margin, {**terms, "energy_auxiliary": outside.mean()}


def auto_margins(energy_in: Tensor, energy_out: Tensor) -> tuple[float, float]:
    """Return (m_in, m_out) from the energies of the start model on ID training and auxiliary images.

    m_in = median of the ID energies; m_out = the median of the auxiliary energies, but at least the
    level that 95 % of the ID images lie below. So both margins lie within what the network already
    produces, at its own scale: half of the ID images already satisfy m_in, and the loss pulls in the
    upper half, where detection fails, and pushes out the auxiliaries that look like ID. Margins far
    from a network's energies distort it instead (constants do not transfer between networks).
    """
    level = torch.tensor([0.5, 0.95], dtype=torch.float64)
    m_in, upper = _quantiles(energy_in, level).tolist()
    m_out = max(upper, _quantiles(energy_out, level[:1]).item())
    return m_in, m_out


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    # torch.quantile refuses more than 16 million values, and not every device has float64
    ordered = values.cpu().double().sort().values
    position = levels * (len(ordered) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], position - low)


def untrained_margins(classes: int) -> tuple[float, float]:
    """Return (m_in, m_out) for an untrained head, whose energies are not informative yet.

    m_out = -ln K, the energy of K equal logits of zero; m_in = the energy of one logit that stands out
    from zeros by enough for a probability of 0.99: -ln((K - 1) / (1 - 0.99)).
    """
    return -math.log((classes - 1) / (1 - CONFIDENT)), -math.log(classes)


class Energy(WithOutliers):
    """CE + weight * margin_loss on ID and auxiliary images, both augmented, in one batch; last epoch kept.

    Batch norm uses the statistics of the start model throughout. A batch of ID and auxiliary images together
    would be normalised by statistics that no test batch has, and would move them towards the auxiliaries;
    fixed statistics make the function that is trained the one that is tested. `mode` "head" freezes the
    backbone as a whole.

    `margins` holds m_in and m_out, rounded, with their origin, for the metadata. InputError unless m_in <
    m_out, LeftOut if both come from the energies.
    """

    settings: EnergySettings

    def __init__(
        self,
        model: Model,
        data: ResidentSet,
        validation: ResidentSet,
        auxiliary: ResidentSet,
        *,
        mode: Literal["full", "head"],
        fresh_head: bool,
        settings: EnergySettings,
        **how: Any,
    ):
        self.mode, size = mode, settings.auxiliary_batch_size
        how |= {"outlier_batch_size": size, "stream": "auxiliary", "settings": settings}
        super().__init__(model, data, validation, auxiliary, **how)
        self.margins = self._choose_margins(fresh_head)

    def set_modes(self) -> None:
        self.model.eval()
        self.model.backbone.requires_grad_(self.mode == "full")

    def _choose_margins(self, fresh_head: bool) -> dict[str, Any]:
        """Return m_in and m_out, and the mean energies of clean images before training."""
        measured = [energy(self.predict(data.images)) for data in (self.data, self.outliers)]
        if self.settings.margins == "fixed":
            m_in, m_out = self.settings.m_in, self.settings.m_out
        elif fresh_head:
            m_in, m_out = untrained_margins(self.model.need_head().out_features)
        else:
            m_in, m_out = map(decimal, auto_margins(*measured))
        if not m_in < m_out:
            message = f"energy: m_in is {m_in:.4g} and m_out {m_out:.4g}; use m_in below m_out"
            raise InputError(message) if self.settings.margins == "fixed" else LeftOut(message)
        means = [decimal(values.mean().item()) for values in measured]
        start = dict(zip(("id", "auxiliary"), means, strict=True))
        return {"m_in": m_in, "m_out": m_out, "margins": self.settings.margins, "start_mean_energy": start}

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        bounds = {key: self.margins[key] for key in ("m_in", "m_out")}
        return energy_objective(self.logits(images), labels, weight=self.settings.weight, **bounds)
