"""VICReg whose representation is a Gaussian."""

from typing import ClassVar, Literal

from sslood.nets.selfsup.stochastic import StochasticVICReg


class BayesHVICReg(StochasticVICReg):
    """The representation of a view is drawn (see `sslood.nets.selfsup.stochastic`)."""

    space: ClassVar[Literal["h", "z"]] = "h"
