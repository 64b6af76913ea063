"""Objectives whose embedding is a Gaussian: samples through a two-view loss, plus a divergence to a prior."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.nets.losses.barlow_twins import barlow_twins
from sslood.nets.losses.vicreg import vicreg
from sslood.nets.networks.gaussian import (
    GaussianHead,
    build_prior,
    kl_monte_carlo,
    kl_standard_normal,
    sample,
)
from sslood.nets.networks.heads import build_projector
from sslood.nets.selfsup.objective import Objective, need_weights
from sslood.nets.training.ranks import gathered, share
from sslood.nets.training.watch import spread


@dataclass(frozen=True)
class StochasticConstants:
    """Widths of the projector; draws, weight of the divergence, prior and form of the KL, sigma."""

    projector: tuple[int, ...]
    samples: int  # draws of each embedding (the papers' S)
    beta: float
    components: int  # of the prior: 0 = a standard normal, else a learned mixture
    kl: Literal["closed", "monte_carlo"]
    sigma: Literal["diagonal", "single"]

    def __post_init__(self):
        if self.samples < 1:
            raise InputError(f"samples is {self.samples}; draw each embedding at least once")
        if not 0 <= self.beta < math.inf:
            raise InputError(
                f"beta is {self.beta}; use a finite number of at least 0: below, it would reward distance "
                "from the prior"
            )
        if self.components < 0:
            raise InputError(f"components is {self.components}; use 0 (a standard normal) or more")
        if self.components and self.kl == "closed":
            raise InputError("the divergence to a mixture has no closed form; use kl: monte_carlo")


class Stochastic(Objective):
    """L = mean_s loss(z1_s, z2_s) + beta (KL_1 + KL_2) / 2 over S draws of each view's embedding.

    `space` h: the representation is drawn, and each draw goes through the projector (all draws of a view in
    one batch, whose statistics batch norm takes); downstream uses the mean. `space` z: the projection is
    drawn, downstream uses the deterministic representation. A subclass defines `pair_loss`.
    """

    space: ClassVar[Literal["h", "z"]]

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__(backbone, constants, classes=classes)
        self.projector = build_projector(backbone.feature_dim, constants.projector)
        self.size = backbone.feature_dim if self.space == "h" else constants.projector[-1]
        self.gaussian = GaussianHead(self.size, self.size, single=constants.sigma == "single")
        self.prior = build_prior(constants.components, self.size)

    def before_epoch(self, epoch: int, generator: torch.Generator) -> None:
        self.generator = generator

    def before_batch(self, n: int) -> None:
        """Draw the noise of both views, [2, S, n, D], and keep that for this rank's rows."""
        size = (2, self.constants.samples, n, self.size)
        noise = torch.randn(size, device=self.generator.device, generator=self.generator)
        self.noise = share(noise, dim=2)

    @abstractmethod
    def pair_loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Projections [N, D] of one draw of each view -> (loss, its terms)."""

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        sides = zip(views, self.noise, strict=True)
        (z1, first), (z2, second) = (self._draws(backbone, view, noise) for view, noise in sides)
        with torch.autocast(z1.device.type, enabled=False):
            pairs = [self.pair_loss(a, b) for a, b in zip(z1, z2, strict=True)]
            terms = {name: torch.stack([t[name] for _, t in pairs]).mean() for name in pairs[0][1]}
            shared = {name: (first[name] + second[name]) / 2 for name in ("kl", "sigma")}
            loss = torch.stack([loss for loss, _ in pairs]).mean() + self.constants.beta * shared["kl"]
            return loss, {**terms, **shared, "spread": first["spread"]}

    def _draws(self, backbone: nn.Module, view: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return draws of a view's projection, [S, N, P], with its divergence, mean sigma and spread."""
        base = backbone(view) if self.space == "h" else self.projector(backbone(view))
        with torch.autocast(base.device.type, enabled=False):
            mu, log_variance = self.gaussian(base.float())
            u = sample(mu, log_variance, noise)
            kl = (
                kl_standard_normal(mu, log_variance)
                if self.constants.kl == "closed"
                else kl_monte_carlo(u, mu, log_variance, self.prior)
            )
            sigma = (0.5 * log_variance.detach()).exp().mean()
        z = self.projector(u.flatten(0, 1)).unflatten(0, u.shape[:2]) if self.space == "h" else u
        return gathered(z.float(), dim=1), {"kl": kl.mean(), "sigma": sigma, "spread": spread(mu)}

    def representation(self, features: Tensor) -> Tensor:
        return self.gaussian(features.float())[0] if self.space == "h" else features

    def exported(self) -> Mapping[str, nn.Module]:
        return {"projector": self.projector, "gaussian": self.gaussian, "prior": self.prior}

    def described(self) -> dict[str, Any]:
        c = self.constants
        law = {"space": self.space, "sigma": c.sigma, "components": c.components}
        return {**super().described(), "stochastic": law}


@dataclass(frozen=True)
class BarlowTwinsConstants(StochasticConstants):
    """The constants of Barlow Twins beside the Gaussian's; the factor does not scale the divergence."""

    off_diagonal: float
    scale: float

    def __post_init__(self):
        super().__post_init__()
        need_weights(self, "off_diagonal", "scale")


class StochasticBarlowTwins(Stochastic):
    """Draws agree between the views, and their dimensions do not repeat each other."""

    Constants = BarlowTwinsConstants

    def pair_loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = barlow_twins(z1, z2, self.constants.off_diagonal)
        return self.constants.scale * loss, terms


@dataclass(frozen=True)
class VICRegConstants(StochasticConstants):
    """The constants of VICReg beside the Gaussian's; the factor does not scale the divergence."""

    invariance: float
    variance: float
    covariance: float
    scale: float

    def __post_init__(self):
        super().__post_init__()
        need_weights(self, "invariance", "variance", "covariance", "scale")


class StochasticVICReg(Stochastic):
    """Draws agree between the views, and every dimension spreads on its own."""

    Constants = VICRegConstants

    def pair_loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.constants
        loss, terms = vicreg(z1, z2, c.invariance, c.variance, c.covariance)
        return c.scale * loss, terms
