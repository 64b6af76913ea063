"""Barlow Twins whose projection is a Gaussian."""

from typing import ClassVar, Literal

from sslood.nets.selfsup.stochastic import StochasticBarlowTwins


class BayesZBarlowTwins(StochasticBarlowTwins):
    """The projection of a view is drawn (see `sslood.nets.selfsup.stochastic`)."""

    space: ClassVar[Literal["h", "z"]] = "z"
