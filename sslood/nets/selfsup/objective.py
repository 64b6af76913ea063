"""What every objective of pretraining is: a module that turns views of a batch into a loss.

An objective is one file in nets/objectives, found by its name: its settings, its networks, and its loss as a
pure function. Only what several objectives share has a home elsewhere, since adding to a shared room re-runs
all of them: losses in nets/selfsup/losses, bases of classes in nets/selfsup.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sslood.core.discovery import class_named
from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import Needs
from sslood.core.precision import at_least_float32
from sslood.core.settings import Settings as BaseSettings
from sslood.core.settings import at_least, read_section
from sslood.data.images.augment import AugmentSettings
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.heads import build_projector
from sslood.nets.selfsup.settings import PretrainSettings, recipes_of, recorded, settings_of
from sslood.nets.training.ranks import gather
from sslood.nets.training.watch import spread

Weight = Annotated[float, at_least(0), "weight in the loss"]


@dataclass(frozen=True)
class NoSettings(BaseSettings):
    """For objectives that have nothing to set."""


@dataclass(frozen=True)
class ProjectorSettings(BaseSettings):
    """For objectives with a projector on the backbone."""

    projector: Annotated[tuple[int, ...], at_least(1), "widths of the projector's layers"]

    def _check(self) -> None:
        need_widths("projector", self.projector)


class Objective(nn.Module, ABC):
    """One objective with all that it owns: projectors, predictors, a momentum teacher, statistics.

    Parameters that require a gradient are trained with the backbone's; buffers and frozen modules
    (a teacher) are updated by `after_step`. All of it is saved in checkpoints through `state_dict`.
    A subclass names its `Settings` (the section `objectives.<name>`) and defines `forward`. It is built
    under a seed, after the backbone.
    """

    Settings: ClassVar[type[BaseSettings]] = NoSettings
    views: ClassVar[int] = 2  # augmented views of each image that `forward` takes
    trains: ClassVar[bool] = True  # False: the untrained encoder is the result
    needs: ClassVar[Needs] = ()  # of ID train

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        super().__init__()
        self.settings = settings

    @abstractmethod
    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Normalised views, each [N, C, H, W], and labels [N] -> (loss, terms to be recorded), scalars.

        The terms include "spread" (see `watch.spread`), which shows a collapse. Under torchrun the views are
        this rank's rows, and the loss is a mean over them, or is computed from embeddings that `gather`
        collects from all ranks where images of a batch interact (see `sslood.nets.training.ranks`).
        """

    def prepared(self, backbone: nn.Module) -> None:
        """Take over what the backbone has just taken from training images (`Backbone.prepare`)."""

    def before_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Prepare epoch `epoch` (from 0); `generator` is its stream for the objective's own draws."""

    def before_batch(self, n: int) -> None:
        """Draw what `forward` needs for n images (of all ranks); outside `forward`, which may be compiled."""

    def after_step(self, backbone: nn.Module, step: int, steps: int) -> None:
        """Update what gradients do not (a moving average, a centre) after step `step` of `steps`."""

    def saved_modules(self) -> Mapping[str, nn.Module]:
        """Return the modules that the model file keeps beside the backbone, by prefix."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """Return the entries of the model file's metadata from which the `saved_modules` can be rebuilt."""
        return {"projector": self.settings.projector} if "projector" in self.saved_modules() else {}

    def representation(self, features: Tensor) -> Tensor:
        """Return what downstream stages use of the backbone's features [N, D]: as a rule these themselves."""
        return features


class TwoViews(Objective):
    """Backbone and projector on each of two views, and a symmetric loss of the two projections.

    The views go through the network one after the other, so each has its own batch statistics.
    A subclass defines `loss`; its settings extend ProjectorSettings.
    """

    batch_norm: ClassVar[bool] = True  # in the projector

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        super().__init__(backbone, settings, classes=classes)
        self.projector = build_projector(backbone.feature_dim, settings.projector, batch_norm=self.batch_norm)

    @abstractmethod
    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Projections [N, D] of the two views and labels [N] -> (loss, its terms)."""

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z1, z2 = (self.projector(backbone(view)) for view in views)
        # logarithms of sums and squared correlations lose their digits in half precision
        with torch.autocast(z1.device.type, enabled=False):
            z1, z2 = gather(at_least_float32(z1)), gather(at_least_float32(z2))
            loss, terms = self.loss(z1, z2, gather(labels))
            return loss, {**terms, "spread": spread(z1)}

    def saved_modules(self) -> Mapping[str, nn.Module]:
        return {"projector": self.projector}


def need_widths(key: str, widths: Sequence[int]) -> None:
    """Raise InputError that names `key` if there is no layer at all."""
    if not widths:
        raise InputError(f"{key} must hold at least one width, found none")


def need_classes(name: str, classes: int) -> None:
    """Raise LeftOut where an objective that learns from labels would see a single one."""
    if classes < 2:
        raise LeftOut(f"objective {name}: the ID set has a single class; use simclr, which needs no labels")


class Plan(NamedTuple):
    """What one pretraining does: the name and class of its objective, how it is trained, and its views."""

    objective: str
    kind: type[Objective]
    training: PretrainSettings
    own: Any  # settings of the objective
    recipes: tuple[AugmentSettings, AugmentSettings]

    def recorded(self) -> dict[str, Any]:
        """Return all settings that affect the result, for metadata and fingerprint."""
        return recorded(self.training, self.own, self.recipes)


def read_plan(name: str, shared: Mapping[str, Any], constants: str, recipe: str) -> Plan:
    """Return the plan of an objective whose section stands at `constants`, FILE:KEY; see `plan_of`."""
    _class_of(name)  # a wrong name is reported before a section that is not there
    return plan_of(name, shared, read_section(constants), constants, recipe)


def plan_of(
    name: str, shared: Mapping[str, Any], section: Mapping[str, Any], where: str, recipe: str
) -> Plan:
    """Return the plan of the objective `name` with the constants `section`.

    shared: the section `pretrain`; where: what messages call the constants; recipe: FILE:KEY of the section
    `augment.pretrain`. Raises InputError for an unknown objective, key or value.
    """
    kind = _class_of(name)
    training, own = settings_of(shared, section, kind.Settings, where)
    augment = section.get("augment"), f"{where}.augment"
    if "augment" in section and augment[0] is None:  # a key without a value
        raise InputError(f"{where}.augment: must hold keys and values, found None")
    return Plan(name, kind, training, own, recipes_of(read_section(recipe), recipe, *augment, kind.views))


def _class_of(name: str) -> type[Objective]:
    return class_named("sslood.nets.objectives", name, Objective, "objective")
