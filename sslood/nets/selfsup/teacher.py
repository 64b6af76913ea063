"""A momentum teacher: networks that follow the trained ones as an exponential moving average."""

import copy

import torch
from torch import Tensor, nn

from sslood.nets.training.schedules import cosine_between


class Teacher(nn.Module):
    """Copies of `students`, one after the other, without gradients.

    Weights follow by `follow`. Batch norm is the teacher's own: in training mode it uses the statistics of
    its batch, as in the authors' code of BYOL and DINO, and no buffer of the student is copied.
    """

    def __init__(self, *students: nn.Module):
        super().__init__()
        self.networks = nn.ModuleList(copy.deepcopy(student) for student in students)
        self.requires_grad_(False)

    def copy(self, *students: nn.Module) -> None:
        """Take all weights and buffers of the students, as at the start."""
        for network, student in zip(self.networks, students, strict=True):
            network.load_state_dict(student.state_dict())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        for network in self.networks:
            x = network(x)
        return x

    @torch.no_grad()
    def follow(self, *students: nn.Module, momentum: float) -> None:
        """w <- momentum w + (1 - momentum) student's w, for all weights at once."""
        own: list[Tensor] = list(self.networks.parameters())
        targets: list[Tensor] = [weight for student in students for weight in student.parameters()]
        torch._foreach_lerp_(own, targets, 1 - momentum)


def teacher_momentum(start: float, step: int, steps: int) -> float:
    """Return the momentum after step `step` of `steps`: a cosine from `start` to 1.

    Grill et al. 2020, "Bootstrap your own latent", arXiv:2006.07733, section 3.3.
    """
    return cosine_between(start, 1.0, step, steps)
