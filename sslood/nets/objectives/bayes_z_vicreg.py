"""VICReg whose projection is a Gaussian."""

from typing import ClassVar, Literal

from sslood.nets.selfsup.stochastic import StochasticVICReg


class BayesZVICReg(StochasticVICReg):
    """The projection of a view is drawn (see `sslood.nets.selfsup.stochastic`)."""

    space: ClassVar[Literal["h", "z"]] = "z"
