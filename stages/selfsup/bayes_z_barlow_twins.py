"""Barlow Twins whose projection is a Gaussian."""

from typing import ClassVar, Literal

from stages.selfsup.stochastic import StochasticBarlowTwins


class BayesZBarlowTwins(StochasticBarlowTwins):
    """The projection of a view is drawn (see `stages.selfsup.stochastic`)."""

    space: ClassVar[Literal["h", "z"]] = "z"
