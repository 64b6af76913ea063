"""DINO: match a momentum teacher's assignment to prototypes (Caron et al. 2021, eq. 1 and 4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sslood.core.errors import InputError
from sslood.nets.networks.heads import build_projector
from sslood.nets.selfsup.objective import Objective
from sslood.nets.selfsup.teacher import Teacher, teacher_momentum
from sslood.nets.training.ranks import averaged
from sslood.nets.training.schedules import linear_between
from sslood.nets.training.watch import spread


def dino(
    s1: Tensor, s2: Tensor, t1: Tensor, t2: Tensor, centre: Tensor, student_t: float, teacher_t: Tensor
) -> Tensor:
    """Return the loss of logits [N, K] of student s and teacher t, each against the other view.

    Cross-entropy of softmax(s / student_t) under softmax((t - centre) / teacher_t), averaged over the
    images and both directions.
    """
    loss = 0.0
    for student, teacher in ((s1, t2), (s2, t1)):
        aim = ((teacher - centre) / teacher_t).softmax(1)
        loss = loss - (aim * (student / student_t).log_softmax(1)).sum(1).mean() / 2
    return loss


def used(logits: Tensor) -> Tensor:
    """Return how many prototypes the assignments softmax(logits [N, K]) use together, in [1, K].

    The exponential of their mean's entropy, over all ranks. 1 is the collapse that embeddings do not show.
    """
    mean = averaged(logits.detach().softmax(1).mean(0))
    return torch.special.entr(mean).sum().exp()


class Prototypes(nn.Module):
    """Cosines of [N, D] with K learned directions: a weight-normed linear layer, its lengths held at 1."""

    def __init__(self, inputs: int, count: int):
        super().__init__()
        # as a linear layer starts: only directions count, and the longer a row the slower it turns
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(count, inputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=1) @ normalize(self.weight, dim=1).T


@dataclass(frozen=True)
class Constants:
    """The head, its prototypes, temperatures and averages.

    `head`: widths before the prototypes, GELU between them. The teacher's temperature rises in a line over
    the first `temperature_epochs` epochs. `frozen_epochs`: the prototypes stay as they are that long.
    """

    head: tuple[int, ...]
    prototypes: int
    ema: float
    centre: float
    student_temperature: float
    first_teacher_temperature: float
    teacher_temperature: float
    temperature_epochs: int
    frozen_epochs: int

    def __post_init__(self):
        for name in ("ema", "centre"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; a moving average's share lies in [0, 1]")
        for name in ("student_temperature", "first_teacher_temperature", "teacher_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0, and finite")
        if self.prototypes < 2 or min(self.temperature_epochs, self.frozen_epochs) < 0:
            raise InputError("dino: use at least 2 prototypes, and numbers of epochs of at least 0")


class DINO(Objective):
    """Student and momentum teacher agree on prototypes; centring and sharpening keep them from one answer.

    The head is not exported: the file keeps the backbone.
    """

    Constants = Constants

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__(backbone, constants, classes=classes)
        self.head = build_projector(
            backbone.feature_dim, constants.head, batch_norm=False, activation=nn.GELU, key="head"
        )
        self.prototypes = Prototypes(constants.head[-1], constants.prototypes)
        self.teacher = Teacher(backbone, self.head, self.prototypes)
        self.register_buffer("centre", torch.zeros(constants.prototypes))
        # a tensor, so that a compiled step does not depend on its value
        self.register_buffer("temperature", torch.zeros(()), persistent=False)

    def before_epoch(self, epoch: int, generator: torch.Generator) -> None:
        c = self.constants
        share = epoch / max(1, c.temperature_epochs - 1) if epoch < c.temperature_epochs else 1.0
        self.temperature.fill_(linear_between(c.first_teacher_temperature, c.teacher_temperature, share))
        self.prototypes.requires_grad_(epoch >= c.frozen_epochs)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.constants
        z = [self.head(backbone(view)) for view in views]
        students = [self.prototypes(each).float() for each in z]
        teachers = [self.teacher(view).float() for view in views]
        with torch.autocast(z[0].device.type, enabled=False):
            loss = dino(*students, *teachers, self.centre.clone(), c.student_temperature, self.temperature)
            both = torch.cat(teachers)
            terms = {"spread": spread(z[0]), "prototypes": used((both - self.centre) / self.temperature)}
            self.centre.lerp_(averaged(both.mean(0)), 1 - c.centre)
            return loss, terms

    def after_step(self, backbone: nn.Module, step: int, steps: int) -> None:
        momentum = teacher_momentum(self.constants.ema, step, steps)
        self.teacher.follow(backbone, self.head, self.prototypes, momentum=momentum)
