"""Classifiers from scratch by methods with a name: each section says what differs from plain training.

A section `methods.<name>` may hold keys of `train`, keys of `augment.classifier` under `augment`, and those
of MethodSettings. So {loss: logitnorm, temperature: 0.04, augment: {pixmix: 4}} is LogitNorm with PixMix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.needs import CLASSIFIED, Need
from sslood.core.precision import at_least_float32
from sslood.core.settings import Settings, above, at_least, checked, read_section
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.rotations import rotations
from sslood.nets.methods.classify import Classify, ClassifySettings
from sslood.nets.methods.logitnorm import normalised_logits
from sslood.nets.methods.regmixup import mixed, mixing, regmixup
from sslood.nets.methods.supervised import Batch, accuracy
from sslood.nets.methods.t2fnorm import NormedHead
from sslood.nets.networks.build import seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.engine import compiled

NEEDS, MIXING = (CLASSIFIED,), (Need(images=1),)  # of ID train and of the mixing set


@dataclass(frozen=True)
class MethodSettings(Settings):
    """What a method may have beside settings of `train` and views; the defaults are plain training."""

    loss: Annotated[
        Literal["cross_entropy", "logitnorm", "t2fnorm"],
        "cross-entropy of the logits, of logits of one length, or of features of one length",
    ] = "cross_entropy"
    temperature: Annotated[
        float, above(0), "divides what logitnorm (0.04) or t2fnorm (0.1) brings to one length"
    ] = 1.0
    regmixup: Annotated[int, at_least(0), "alpha of RegMixup's Beta law (10 in the paper), 0 = off"] = 0
    rotation: Annotated[
        float, at_least(0), "weight of the cross-entropy of quarter turns (1 in OpenOOD's RotPred), 0 = off"
    ] = 0.0
    length: Annotated[
        Literal["mean", "one"],
        "what t2fnorm divides features by in testing: their mean length on ID validation, or one (published)",
    ] = "mean"

    def _check(self) -> None:
        if self.temperature != 1 and self.loss == "cross_entropy":
            raise InputError("temperature is of logitnorm and t2fnorm; choose one as `loss`, or take it out")
        if self.length != "mean" and self.loss != "t2fnorm":
            raise InputError("length is of t2fnorm; choose it as `loss`, or take it out")


def read_method(
    where: str, shared: Mapping[str, Any], recipe: str
) -> tuple[MethodSettings, ClassifySettings, AugmentSettings]:
    """Return (the method's own settings, how it trains, its views) from its section at FILE:KEY.

    shared: the section `train`; recipe: FILE:KEY of `augment.classifier`. Raises InputError, naming the
    section, for an unknown key or a wrong value.
    """
    section = read_section(where)
    names = {field.name for field in fields(ClassifySettings)}
    training = {key: value for key, value in section.items() if key in names}
    own = {key: value for key, value in section.items() if key not in {*names, "augment"}}
    views = section.get("augment", {})
    if not isinstance(views, Mapping):
        raise InputError(f"{where}.augment: must hold keys and values, found {views!r}")
    return (
        checked(MethodSettings, own, where),
        checked(ClassifySettings, {**shared, **training}, where if training else "train"),
        checked(AugmentSettings, {**read_section(recipe), **views}, f"{where}.augment" if views else recipe),
    )


class Variant(Classify):
    """A classifier trained by a method; the last epoch is kept.

    With a rotation weight every image is seen in all four positions: its class upright, its turn in each, as
    OpenOOD's RotPred (Hendrycks et al. 2019, arXiv:1906.12340). What RegMixup mixes is seen upright alone:
    mixtures teach the classes only, and turning them too would take eight passes of an image instead of five.
    """

    def __init__(self, model: Model, *args: Any, method: MethodSettings, seed: int, **how: Any):
        self.method = method
        if method.rotation:
            with seeded(seed, "rotation"):
                model.rotation = build_head(model.need_head().in_features, 4)
        if method.loss == "t2fnorm":
            model.head = NormedHead(model.need_head(), method.temperature)
        super().__init__(model, *args, seed=seed, **how)
        self._outputs = compiled(self._run, self.label, self.machine)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self._mixing = self.views.generator("mixing", epoch)

    def watch(self, epoch: int) -> dict[str, float]:
        head = self.model.need_head()
        if isinstance(head, NormedHead) and self.method.length == "mean":
            head.measure(self.clean_features(self.validation.images))
        return super().watch(epoch)

    def _run(self, images: Tensor, n: int) -> tuple[Tensor, ...]:
        """Return logits of the classes [N + M, K], and with a rotation weight of the turns [4 N, 4].

        images: N = `n` of the set, and after them M mixed ones.
        """
        if self.model.rotation is None:
            return (self.model(images),)
        turned = rotations(images[:n])
        if len(images) == n:
            features = self.model.features(turned)
            return self.model.need_head()(features[:n]), self.model.rotation(features)
        own, more = self.model.features(torch.cat((turned, images[n:]))).tensor_split([4 * n])
        return self.model.need_head()(torch.cat((own[:n], more))), self.model.rotation(own)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.method.loss == "logitnorm":
            logits = normalised_logits(logits, self.method.temperature)
        return F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        n, terms = len(labels), {}
        if alpha := self.method.regmixup:
            partner, share = mixing(n, alpha, self._mixing)
            images = mixed(images, partner, share)
        logits, *turned = map(at_least_float32, self._outputs(images, n))
        loss = regmixup(self._loss, logits, labels, partner, share) if alpha else self._loss(logits, labels)
        if turned:
            turns = torch.arange(4, device=labels.device).repeat_interleave(n)
            terms = {"classes": loss, "rotation": F.cross_entropy(turned[0], turns)}
            loss = loss + self.method.rotation * terms["rotation"]
        return loss, {**terms, "train_accuracy": accuracy(logits[:n], labels)}

    def saved_modules(self) -> dict[str, Any]:
        """Return the modules that the model file keeps, by prefix: the head as it is tested."""
        head = self.model.need_head()
        modules = {
            "backbone": self.model.backbone,
            "head": head.folded() if isinstance(head, NormedHead) else head,
        }
        return modules if self.model.rotation is None else {**modules, "rotation": self.model.rotation}
