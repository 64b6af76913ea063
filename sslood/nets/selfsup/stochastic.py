"""Objectives whose embedding is a Gaussian: samples through a two-view loss, plus a divergence to a prior."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.core.precision import at_least_float32, standard_normal
from sslood.core.settings import at_least
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.gaussian import (
    GaussianHead,
    build_prior,
    kl_monte_carlo,
    kl_standard_normal,
    sample,
)
from sslood.nets.networks.heads import build_projector
from sslood.nets.selfsup.losses.barlow_twins import barlow_twins
from sslood.nets.selfsup.losses.vicreg import vicreg
from sslood.nets.selfsup.objective import Objective, ProjectorSettings, Weight
from sslood.nets.training.ranks import gather, share
from sslood.nets.training.watch import spread


@dataclass(frozen=True)
class StochasticSettings(ProjectorSettings):
    """Settings of the Gaussian, its prior and their divergence."""

    samples: Annotated[int, at_least(1), "draws of each embedding (the papers' S)"]
    beta: Annotated[float, at_least(0), "weight of the divergence from the prior"]
    components: Annotated[int, at_least(0), "of the prior: 0 = a standard normal, else a learned mixture"]
    kl: Annotated[Literal["closed", "monte_carlo"], "form of the divergence"]
    sigma: Annotated[Literal["diagonal", "single"], "one standard deviation per dimension, or one for all"]

    def _check(self) -> None:
        super()._check()
        if self.components and self.kl == "closed":
            raise InputError("the divergence to a mixture has no closed form; use kl: monte_carlo")


class Stochastic(Objective):
    """L = mean_s loss(z1_s, z2_s) + beta (KL_1 + KL_2) / 2 over S draws of each view's embedding.

    `space` h: the representation is drawn, and each draw goes through the projector (all draws of a view in
    one batch, over which batch norm takes its statistics); downstream stages use the mean. `space` z: the
    projection is drawn, downstream stages use the deterministic representation. A subclass defines
    `pair_loss`.
    """

    space: ClassVar[Literal["h", "z"]]

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        super().__init__(backbone, settings, classes=classes)
        self.projector = build_projector(backbone.feature_dim, settings.projector)
        self.size = backbone.feature_dim if self.space == "h" else settings.projector[-1]
        self.gaussian = GaussianHead(self.size, self.size, single=settings.sigma == "single")
        self.prior = build_prior(settings.components, self.size)

    def before_epoch(self, epoch: int, generator: torch.Generator) -> None:
        self.generator = generator

    def before_batch(self, n: int) -> None:
        """Draw the noise of both views, [2, S, n, D], and keep this rank's rows of it."""
        noise = standard_normal((2, self.settings.samples, n, self.size), self.generator)
        self.noise = share(noise.to(self.gaussian.mu.weight.dtype), dim=2)

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
            both = {name: (first[name] + second[name]) / 2 for name in ("kl", "sigma")}
            loss = torch.stack([loss for loss, _ in pairs]).mean() + self.settings.beta * both["kl"]
            return loss, {**terms, **both, "spread": first["spread"]}

    def _draws(self, backbone: nn.Module, view: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return draws of a view's projection, [S, N, P], with its divergence, mean sigma and spread."""
        base = backbone(view) if self.space == "h" else self.projector(backbone(view))
        with torch.autocast(base.device.type, enabled=False):
            mu, log_variance = self.gaussian(at_least_float32(base))
            u = sample(mu, log_variance, noise)
            kl = (
                kl_standard_normal(mu, log_variance)
                if self.settings.kl == "closed"
                else kl_monte_carlo(u, mu, log_variance, self.prior)
            )
            sigma = (0.5 * log_variance.detach()).exp().mean()
        z = self.projector(u.flatten(0, 1)).unflatten(0, u.shape[:2]) if self.space == "h" else u
        terms = {"kl": kl.mean(), "sigma": sigma, "spread": spread(mu)}
        return gather(at_least_float32(z), dim=1), terms

    def representation(self, features: Tensor) -> Tensor:
        return self.gaussian(at_least_float32(features))[0] if self.space == "h" else features

    def saved_modules(self) -> Mapping[str, nn.Module]:
        return {"projector": self.projector, "gaussian": self.gaussian, "prior": self.prior}

    def metadata(self) -> dict[str, Any]:
        s = self.settings
        law = {"space": self.space, "sigma": s.sigma, "components": s.components}
        return {**super().metadata(), "stochastic": law}


@dataclass(frozen=True)
class StochasticBarlowTwinsSettings(StochasticSettings):
    """Those of the Gaussian, and those of Barlow Twins."""

    off_diagonal: Annotated[float, at_least(0), "weight lambda of the off-diagonal correlations"]
    scale: Annotated[float, at_least(0), "factor of the loss without the divergence"]


class StochasticBarlowTwins(Stochastic):
    """Draws agree between the views, and their dimensions are not redundant."""

    Settings = StochasticBarlowTwinsSettings

    def pair_loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = barlow_twins(z1, z2, self.settings.off_diagonal)
        return self.settings.scale * loss, terms


@dataclass(frozen=True)
class StochasticVICRegSettings(StochasticSettings):
    """Those of the Gaussian, and those of VICReg."""

    invariance: Weight
    variance: Weight
    covariance: Weight
    scale: Annotated[float, at_least(0), "factor of the loss without the divergence"]


class StochasticVICReg(Stochastic):
    """Draws agree between the views, and every dimension varies, independently of the others."""

    Settings = StochasticVICRegSettings

    def pair_loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.settings
        loss, terms = vicreg(z1, z2, s.invariance, s.variance, s.covariance)
        return s.scale * loss, terms
