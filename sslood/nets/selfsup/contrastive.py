"""The base of contrastive objectives: a projector without batch norm, and a temperature."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sslood.core.settings import above
from sslood.nets.selfsup.objective import ProjectorSettings, TwoViews


@dataclass(frozen=True)
class ContrastiveSettings(ProjectorSettings):
    """Settings of SimCLR and SupCon."""

    temperature: Annotated[float, above(0), "divides the similarities"]


class Contrastive(TwoViews):
    """Two views whose projections attract and repel at a temperature. A subclass defines `loss`."""

    Settings: ClassVar[type[ProjectorSettings]] = ContrastiveSettings
    batch_norm: ClassVar[bool] = False
