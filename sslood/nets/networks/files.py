"""Model files: weights with all that is needed to use them."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.card import ModelCard, check_is
from sslood.nets.networks.gaussian import GaussianHead, build_prior
from sslood.nets.networks.heads import build_head, build_projector
from sslood.nets.networks.model import Model, as_state
from sslood.nets.networks.reference import check_reference, reference_answer
from sslood.nets.networks.user_architectures import check_source, is_outside, is_own, own_network


def save_model(path: str | Path, modules: Mapping[str, nn.Module], card: ModelCard) -> None:
    """Write the state of `modules` ("backbone", and others by prefix) as a model file.

    Floating tensors are stored as float32. The reference of the written card is computed here, from the
    weights as they are stored. Raises InputError if the modules are not those that the card describes, or a
    weight is not finite.
    """
    arrays, card = stored(modules, card, path)
    save_tensors(path, arrays, kind="model", metadata=card.metadata())


def stored(
    modules: Mapping[str, nn.Module], card: ModelCard, where: str | Path
) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the arrays and the card that `save_model` writes; `where` is named in its errors."""
    arrays = {
        f"{name}.{key}": (value.float() if value.is_floating_point() else value).cpu().contiguous().numpy()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    model = _rebuilt(arrays, card, where)
    return arrays, card.replace(reference=reference_answer(model, card))


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[Model, ModelCard]:
    """Return (model in eval mode on `device`, its card).

    Raises InputError, naming the key, if the weights do not fit the architecture of the card or are not
    finite, and if the model computes something else than when it was written.
    """
    arrays, metadata = load_tensors(path, kind="model")
    return restore_model(arrays, metadata, path, device), ModelCard.read(metadata, path)


def load_named(
    path: str | Path, name: str | None, seed: int | None, device: torch.device | str = "cpu"
) -> tuple[Model, ModelCard]:
    """Return what `load_model` does, of a file that must hold the model `name` of this seed.

    None asks for none. Raises InputError as `load_model` and `check_is` do.
    """
    model, card = load_model(path, device)
    check_is(card, path, name, seed)
    return model, card


def restore_model(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    path: str | Path,
    device: torch.device | str = "cpu",
) -> Model:
    """Return the model of a file's arrays and metadata in eval mode; `path` is named in messages.

    Raises InputError as `load_model` does.
    """
    card = ModelCard.read(metadata, path)
    if is_own(card.arch):
        check_source(card.arch, card.code, path)
    model = _rebuilt(arrays, card, path)
    check_reference(model, card, path)
    # channels last: what tensor cores read, and a quarter faster for the ResNets on a CPU too
    return model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _rebuilt(arrays: Mapping[str, np.ndarray], card: ModelCard, path: str | Path) -> Model:
    """Return the model of the card with the weights `arrays`, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        try:
            model = _empty(card, arrays)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    _fill(model, arrays, path)
    return model


def _empty(card: ModelCard, arrays: Mapping[str, np.ndarray]) -> Model:
    backbone: nn.Module
    if is_own(card.arch):
        backbone = own_network(card.arch)
    elif is_outside(card.arch):  # named, not imported: what no stage of the pipeline needs is no dependency
        most = sum(array.size for array in arrays.values())
        backbone = import_module("sslood.nets.external.opening").build(card.arch, card.network, most)
    else:
        backbone = build_backbone(card.arch, channels=card.channels)
    size = card.feature_dim
    head = None if card.head_classes is None else build_head(size, len(card.head_classes))
    rotation = build_head(size, 4) if "rotation.weight" in arrays else None
    projector = None
    if card.projector is not None:
        # only layers without batch norm have a bias
        projector = build_projector(size, card.projector, batch_norm="projector.0.bias" not in arrays)
        size = size if card.stochastic and card.stochastic["space"] == "h" else card.projector[-1]
    if card.stochastic is None:
        return Model(backbone, head, projector, rotation=rotation)
    gaussian = GaussianHead(size, size, single=card.stochastic["sigma"] == "single")
    prior = build_prior(card.stochastic["components"], size)
    return Model(backbone, head, projector, gaussian, prior, card.stochastic["space"])


def _fill(model: Model, arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    expected = model.state_dict()
    for key in arrays:
        if key not in expected:
            raise InputError(
                f"{path}: weight {key!r} has no place in this architecture; does the file belong to another?"
            )
    for key, value in expected.items():
        if key not in arrays:
            raise InputError(
                f"{path}: weight {key!r} is missing; does the file belong to another architecture?"
            )
        if arrays[key].shape != tuple(value.shape):
            shape, need = list(arrays[key].shape), list(value.shape)
            raise InputError(f"{path}: weight {key!r} has shape {shape}, the architecture needs {need}")
        floating = value.is_floating_point()
        if arrays[key].dtype != (np.float32 if floating else value.numpy().dtype):
            raise InputError(
                f"{path}: weight {key!r} is {arrays[key].dtype}, which no stage writes; write the file again"
            )
        if floating and not np.isfinite(arrays[key]).all():
            raise InputError(
                f"{path}: weight {key!r} has NaN or infinite values; the training diverged (lower its "
                "learning rate) or the file is damaged"
            )
    state = {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}
    model.load_state_dict(as_state(expected, state))
