"""VICReg whose projection is a Gaussian."""

from typing import ClassVar, Literal

from stages.selfsup.stochastic import StochasticVICReg


class BayesZVICReg(StochasticVICReg):
    """The projection of a view is drawn (see `stages.selfsup.stochastic`)."""

    space: ClassVar[Literal["h", "z"]] = "z"
