"""No objective: the untrained encoder, control of every comparison and start of a classifier from scratch."""

from dataclasses import dataclass
from typing import ClassVar

from stages.selfsup.objective import Objective


@dataclass(frozen=True)
class Constants:
    """There is nothing to set."""


class Scratch(Objective):
    """Leaves the backbone as it was initialised."""

    Constants = Constants
    trains: ClassVar[bool] = False
