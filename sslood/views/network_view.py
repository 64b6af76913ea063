"""A model opened for the detectors that query the network, once it is known to fit the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from sslood.core.settings import Settings
from sslood.nets.inference.extract import check_batch_invariance
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.model import Model
from sslood.ood.kit.network_detector import Network
from sslood.views.opened import open_model


@dataclass(frozen=True)
class NetworkSettings(Settings):
    """The section `network` of params.yaml, beside its detectors."""

    precision: Annotated[Literal["float64", "float32"], "of the network; half would turn signs of gradients"]


def checked_network(
    model: Model,
    card: ModelCard,
    where: str | Path,
    images: np.ndarray,
    sets: Sequence[Mapping[str, Any]],
) -> Network:
    """Return `open_model` of a model and its card, on the device and in the precision of its weights.

    images: uint8 [N, C, H, W] of the ID set; sets: metadata of all sets that the network will see. Raises
    InputError naming `where` if they do not fit the model, or the network mixes the images of a batch.
    """
    for set_metadata in sets:
        check_fits(card, set_metadata, where, id_set=set_metadata["name"] == card.id)
    check_batch_invariance(model, images, name=card.name, mean=card.mean, std=card.std)
    return open_model(model, device=next(model.parameters()).device, mean=card.mean, std=card.std)
