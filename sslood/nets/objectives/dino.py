"""DINO: match a momentum teacher's assignment to prototypes.

Caron et al. 2021, "Emerging properties in self-supervised vision transformers", arXiv:2104.14294,
eq. 1 and 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sslood.core.precision import at_least_float32
from sslood.core.settings import Settings, above, at_least, between
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.heads import build_projector
from sslood.nets.selfsup.objective import Objective, need_widths
from sslood.nets.selfsup.teacher import Teacher, teacher_momentum
from sslood.nets.training.ranks import average
from sslood.nets.training.schedules import linear_between
from sslood.nets.training.watch import spread


def dino(
    s1: Tensor, s2: Tensor, t1: Tensor, t2: Tensor, centre: Tensor, student_t: float, teacher_t: Tensor
) -> Tensor:
    """Return the loss of logits [N, K] of student s and teacher t, each against the other view.

    Cross-entropy of softmax(s / student_t) under softmax((t - centre) / teacher_t), average over the
    images and both directions.
    """
    losses = []
    for student, teacher in ((s1, t2), (s2, t1)):
        target = ((teacher - centre) / teacher_t).softmax(1)
        losses.append(-(target * (student / student_t).log_softmax(1)).sum(1).mean())
    return (losses[0] + losses[1]) / 2


def prototypes_used(logits: Tensor) -> Tensor:
    """Return how many prototypes the assignments softmax(logits [N, K]) use together, in [1, K].

    The exponential of the entropy of their mean, over all ranks. 1 is a collapse that embeddings do not show.
    """
    mean = average(logits.detach().softmax(1).mean(0))
    return torch.special.entr(mean).sum().exp()


class Prototypes(nn.Module):
    """Cosines of [N, D] with K learned directions: a weight-normed linear layer, its lengths fixed at 1."""

    def __init__(self, inputs: int, count: int):
        super().__init__()
        # as a linear layer starts: only directions count, and the longer a row the slower it turns
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(count, inputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=1) @ normalize(self.weight, dim=1).T


@dataclass(frozen=True)
class DINOSettings(Settings):
    """Settings of DINO."""

    head: Annotated[tuple[int, ...], at_least(1), "widths before the prototypes, GELU between them"]
    prototypes: Annotated[int, at_least(2), "number of prototypes"]
    ema: Annotated[float, between(0, 1), "momentum of the teacher at the start; a cosine leads it to 1"]
    centre: Annotated[float, between(0, 1), "momentum of the centre of the teacher's logits"]
    student_temperature: Annotated[float, above(0), "divides the student's logits"]
    first_teacher_temperature: Annotated[float, above(0), "divides the teacher's logits in the first epoch"]
    teacher_temperature: Annotated[float, above(0), "divides the teacher's logits later"]
    temperature_epochs: Annotated[int, at_least(0), "epochs over which it moves linearly from the first"]
    frozen_epochs: Annotated[int, at_least(0), "epochs at the start in which the prototypes are not trained"]

    def _check(self) -> None:
        need_widths("head", self.head)


class DINO(Objective):
    """Student and momentum teacher agree on prototypes; centring and sharpening keep them from one answer.

    The model file keeps the backbone alone.
    """

    Settings = DINOSettings
    centre: Tensor
    temperature: Tensor

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        super().__init__(backbone, settings, classes=classes)
        self.head = build_projector(
            backbone.feature_dim, settings.head, batch_norm=False, activation=nn.GELU, key="head"
        )
        self.prototypes = Prototypes(settings.head[-1], settings.prototypes)
        self.teacher = Teacher(backbone, self.head, self.prototypes)
        self.register_buffer("centre", torch.zeros(settings.prototypes))
        # a tensor, so that a compiled step does not depend on its value
        self.register_buffer("temperature", torch.zeros(()), persistent=False)

    def prepared(self, backbone: nn.Module) -> None:
        self.teacher.copy(backbone, self.head, self.prototypes)

    def before_epoch(self, epoch: int, generator: torch.Generator) -> None:
        s = self.settings
        share = epoch / max(1, s.temperature_epochs - 1) if epoch < s.temperature_epochs else 1.0
        self.temperature.fill_(linear_between(s.first_teacher_temperature, s.teacher_temperature, share))
        self.prototypes.requires_grad_(epoch >= s.frozen_epochs)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.settings
        z = [self.head(backbone(view)) for view in views]
        students = [at_least_float32(self.prototypes(each)) for each in z]
        teachers = [at_least_float32(self.teacher(view)) for view in views]
        with torch.autocast(z[0].device.type, enabled=False):
            (s1, s2), (t1, t2) = students, teachers
            loss = dino(s1, s2, t1, t2, self.centre.clone(), s.student_temperature, self.temperature)
            both = torch.cat(teachers)
            terms = {
                "spread": spread(z[0]),
                "prototypes": prototypes_used((both - self.centre) / self.temperature),
            }
            self.centre.lerp_(average(both.mean(0)), 1 - s.centre)
            return loss, terms

    def after_step(self, backbone: nn.Module, step: int, steps: int) -> None:
        momentum = teacher_momentum(self.settings.ema, step, steps)
        self.teacher.follow(backbone, self.head, self.prototypes, momentum=momentum)
