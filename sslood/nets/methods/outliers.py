"""Training against auxiliary outliers: what is trained, and with which loss.

energy: energy margins (Liu et al. 2020, "Energy-based out-of-distribution detection", arXiv:2010.03759,
section 3.3). oe: outlier exposure (Hendrycks et al. 2019, "Deep anomaly detection with outlier exposure",
arXiv:1812.04606, section 4.3). background: a background class (Dhamija et al. 2018, "Reducing network
agnostophobia", NeurIPS, section 2).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import CLASSIFIED, Need
from sslood.core.precision import at_least_float32
from sslood.core.rounding import decimal
from sslood.core.settings import Limits, at_least, checked, near
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.energy import auto_margins, energy, margin_loss, untrained_margins
from sslood.nets.methods.frozen import FrozenFeatures, pick, seen_views
from sslood.nets.methods.supervised import Batch, WithOutliers, separation, watched_accuracy
from sslood.nets.networks.model import Model
from sslood.nets.training.best import Best
from sslood.nets.training.settings import TrainingSettings

NEEDS, AUXILIARY = (CLASSIFIED,), (Need(images=1),)  # of ID train and of the outliers
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class EnergySettings(TrainingSettings):
    """The section `energy`: how a network is trained against outliers, whatever the loss."""

    auxiliary_batch_size: Annotated[int, at_least(1), "auxiliary outliers per batch, beside the ID images"]
    weight: Annotated[float, at_least(0), "weight of the outliers' term"]
    batch_norm: Annotated[
        Literal["frozen", "joint", "separate"],
        "statistics of batch norm: those of the start; of batches of both; of both apart, the ID ones kept",
    ]
    select: Annotated[
        Literal["last", "validation"],
        "epoch that is kept: the last, or the best on ID validation and the tuning set",
    ]
    margins: Annotated[
        Literal["auto", "fixed"], "auto: from the start model's energies; fixed: m_in and m_out"
    ]
    gap: Annotated[
        float,
        Limits(-0.5, low_included=False),
        "with margins auto, how much farther apart, 1 = thrice as far",
    ]
    m_in: Annotated[float, Limits(), "energy that ID images are pulled below, with fixed margins"]
    m_out: Annotated[float, Limits(), "energy that auxiliary outliers are pushed above, with fixed margins"]
    views: Annotated[
        int, at_least(0), "mode head: augmented views of each image, made once; 0: new ones in every epoch"
    ] = field(default=0, kw_only=True)


@dataclass(frozen=True)
class OutlierSettings(EnergySettings):
    """The section `energy` with what a section of `outliers` changes, and the loss that it names."""

    loss: Annotated[Literal["energy", "oe", "background"], "what is asked of outliers"]


def energy_objective(
    logits: Tensor, labels: Tensor, *, weight: float, m_in: float, m_out: float
) -> tuple[Tensor, Terms]:
    """Return (CE + weight * margin_loss, its terms) for logits [N + M, K], `labels` [N] of the first."""
    inside, outside = energy(logits[: len(labels)]), energy(logits[len(labels) :])
    cross = F.cross_entropy(logits[: len(labels)], labels)
    margin = margin_loss(inside, outside, m_in=m_in, m_out=m_out)
    terms = {"cross_entropy": cross, "margin_loss": margin, "energy_id": inside.mean()}
    return cross + weight * margin, {**terms, "energy_auxiliary": outside.mean()}


def exposure_objective(logits: Tensor, labels: Tensor, *, weight: float) -> tuple[Tensor, Terms]:
    """Return (CE + weight * mean_out(logsumexp u - mean u), its terms), arguments as in `energy_objective`.

    The second term is the cross-entropy of the outliers from the uniform distribution.
    """
    inside, outside = logits[: len(labels)], logits[len(labels) :]
    cross = F.cross_entropy(inside, labels)
    uniform = (torch.logsumexp(outside, 1) - outside.mean(1)).mean()
    terms = {"cross_entropy": cross, "uniform": uniform}
    return cross + weight * uniform, {**terms, **_energies(inside, outside)}


def background_objective(logits: Tensor, labels: Tensor, *, weight: float) -> tuple[Tensor, Terms]:
    """Return (CE over K + 1 classes: ID + weight * outliers, terms), arguments as in `energy_objective`.

    The last class is the background, whose logit is fixed at 0: softmax probabilities depend on differences
    of logits, so this loses nothing, and it leaves a head of K outputs. The energy at temperature 1 is then
    the logit of the background: p(background) = sigmoid(E).
    """
    padded = F.pad(logits, (0, 1))
    cross = F.cross_entropy(padded[: len(labels)], labels)
    outside = F.softplus(-energy(logits[len(labels) :])).mean()
    terms = {"cross_entropy": cross, "background": outside}
    return cross + weight * outside, {**terms, **_energies(logits[: len(labels)], logits[len(labels) :])}


def _energies(inside: Tensor, outside: Tensor) -> Terms:
    return {"energy_id": energy(inside).mean(), "energy_auxiliary": energy(outside).mean()}


OBJECTIVES: Mapping[str, Callable[..., tuple[Tensor, Terms]]] = {
    "energy": energy_objective,
    "oe": exposure_objective,
    "background": background_objective,
}


def outlier_score(logits: Tensor, loss: str) -> Tensor:
    """Return the score [N] that a loss is made for, larger = more OOD: the energy, of oe log(1 - MSP).

    That ranks as 1 - MSP does, which in float32 is 0 for all logits whose largest is 17 above the others.
    """
    if loss != "oe":
        return energy(logits)
    wide = logits.cpu().double()  # mps has no float64
    others = wide.scatter(1, wide.argmax(1, keepdim=True), -torch.inf)
    return F.logsigmoid(torch.logsumexp(others, 1) - wide.amax(1))


def read_candidates(
    shared: Mapping[str, Any], section: Mapping[str, Any], where: str
) -> tuple[list[OutlierSettings], list[str]]:
    """Return (settings to be tried, in order, the keys that vary).

    They are one, or all combinations of the lists under `candidates`. shared: the section `energy`; section:
    of `outliers`, at the FILE:KEY `where`, whose keys override the shared ones. InputError that names a wrong
    key or value.
    """
    own = {key: value for key, value in section.items() if key != "candidates"}
    lists = section.get("candidates") or {}
    known = OutlierSettings.__dataclass_fields__.keys()
    if not isinstance(lists, Mapping):
        raise InputError(f"{where}.candidates: must hold keys and lists, found {lists!r}")
    for key, values in lists.items():
        if key not in known - {"loss", "precision", "save_every"}:
            raise InputError(f"{where}.candidates: unknown key {key!r}{near(str(key), known)}")
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{where}.candidates.{key}: must be a list with a value or more, found {values!r}"
            )
    checked(EnergySettings, shared, "energy")
    combinations = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    return [checked(OutlierSettings, {**shared, **own, **one}, where) for one in combinations], list(lists)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Context in which batch norm normalises by batches but does not move its running statistics."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum


class Outliers(WithOutliers):
    """A loss on ID images and one on auxiliary outliers, both augmented, in one batch.

    Batch norm "frozen" uses the statistics of the start model throughout: a batch of ID and auxiliary images
    together would be normalised by statistics that no test batch has, and would move them towards the
    auxiliaries; fixed statistics make the function that is trained the one that is tested. "joint" does what
    published code does, one batch of both. "separate" passes both parts one after the other; those of ID
    images move the running statistics. `mode` "head" freezes the backbone as a whole, with its statistics:
    clean images are passed once, and with `views` above 0 augmented ones too, that many views of each.

    `margins` holds m_in and m_out, rounded, with their origin, for the metadata, {} for a loss without.
    InputError unless m_in < m_out, LeftOut if both come from the energies.
    """

    settings: OutlierSettings

    def __init__(
        self,
        model: Model,
        data: ResidentSet,
        validation: ResidentSet,
        auxiliary: ResidentSet,
        tuning: Tensor,
        *,
        mode: Literal["full", "head"],
        fresh_head: bool,
        settings: OutlierSettings,
        frozen: FrozenFeatures | None = None,
        **how: Any,
    ):
        """frozen: of another task with the same sets and start, whose backbone does not change."""
        self.mode, self.tuning, size = mode, tuning, settings.auxiliary_batch_size
        self.frozen = frozen or FrozenFeatures()
        how |= {"outlier_batch_size": size, "stream": "auxiliary", "settings": settings}
        super().__init__(model, data, validation, auxiliary, **how)
        self.untrained = untrained_margins(model.need_head().out_features) if fresh_head else None
        self.proposed = self.untrained  # margins of the setting auto without a gap
        self.margins = self._choose_margins() if settings.loss == "energy" else {}
        self.best: Best | None = None
        if settings.select == "validation":
            self.best = Best(self.model)
            self.modules = nn.ModuleDict({"model": self.model, "best": self.best})

    def set_modes(self) -> None:
        self.model.train()
        if self.settings.batch_norm == "frozen":
            for layer in self.model.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()  # dropout stays on
        if self.mode == "head":
            self.model.backbone.eval()
        self.model.backbone.requires_grad_(self.mode == "full")

    def predict(self, images: Tensor) -> Tensor:
        if self.mode != "head":
            return super().predict(images)
        features = self.frozen.clean(images, self.settings.batch_size, self.clean_features)
        return self.evaluated(self.model.need_head(), features)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits [N, K] of augmented images, or of features where views are kept."""
        if self._keeps_views:
            return at_least_float32(self.model.need_head()(images))
        return super().logits(images)

    def batches(self, indices: Iterator[Tensor]) -> Iterator[Batch]:
        """Yield images and labels, or features in place of images where views are kept."""
        if not self._keeps_views:
            yield from super().batches(indices)
            return
        inside = self._views_of("id", self.data.images)
        outside = self._views_of(self.stream, self.outliers.images)
        self.set_modes()  # making them was an evaluation
        for index, others in zip(indices, self._outlier_indices, strict=False):
            seen = pick(inside, index, self._generator), pick(outside, others, self._others)
            yield torch.cat(seen), self.data.labels[index]

    @property
    def _keeps_views(self) -> bool:
        return self.mode == "head" and self.settings.views > 0

    def _views_of(self, stream: str, images: Tensor) -> Tensor:
        count, size = self.settings.views, self.settings.batch_size
        return self.frozen.views(stream, count, size, lambda: seen_views(self, stream, images, count))

    def _choose_margins(self) -> dict[str, Any]:
        """Return m_in and m_out, and the mean energies of clean images before training."""
        measured = [energy(self.predict(data.images)) for data in (self.data, self.outliers)]
        self.proposed = self.untrained or auto_margins(measured[0], measured[1])
        if self.settings.margins == "fixed":
            m_in, m_out = self.settings.m_in, self.settings.m_out
        elif self.untrained:
            m_in, m_out = self.untrained
        else:
            m_in, m_out = map(decimal, auto_margins(measured[0], measured[1], gap=self.settings.gap))
        if not m_in < m_out:
            message = f"energy: m_in is {m_in:.4g} and m_out {m_out:.4g}; use m_in below m_out"
            raise InputError(message) if self.settings.margins == "fixed" else LeftOut(message)
        means = [decimal(values.mean().item()) for values in measured]
        start = dict(zip(("id", "auxiliary"), means, strict=True))
        return {"m_in": m_in, "m_out": m_out, "margins": self.settings.margins, "start_mean_energy": start}

    def step(self, batch: Batch) -> tuple[Tensor, Terms]:
        images, labels = batch
        if self.settings.batch_norm == "separate" and self.mode == "full":
            with kept_statistics(self.model):
                outside = self.logits(images[len(labels) :])
            logits = torch.cat((self.logits(images[: len(labels)]), outside))
        else:
            logits = self.logits(images)
        bounds = {key: self.margins[key] for key in ("m_in", "m_out") if key in self.margins}
        return OBJECTIVES[self.settings.loss](logits, labels, weight=self.settings.weight, **bounds)

    def watch(self, epoch: int) -> dict[str, float]:
        """Return accuracy, AUROC and OSCR on ID validation and the tuning set; keep the best epoch so far."""
        inside, outside = self.predict(self.validation.images), self.predict(self.tuning)
        scores = [outlier_score(logits, self.settings.loss) for logits in (inside, outside)]
        found = separation(scores[0], scores[1], inside.argmax(1) == self.validation.labels)
        if self.best is not None:
            self.best.offer(self.model, found["validation_oscr"], epoch)
        return {"validation_accuracy": watched_accuracy(inside, self.validation.labels), **found}
