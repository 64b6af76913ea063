"""Model files: weights with all that is needed to use them, checked against the set they meet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.gaussian import GaussianHead, build_prior
from sslood.nets.networks.heads import build_head, build_projector
from sslood.nets.networks.user_architectures import check_source, is_own, own_network

REQUIRED = (
    "name arch objective seed size channels mean std resize id classes head_classes feature_dim "
    "projector settings"
).split()
_STAGES = {"classifier": "train", "energy": "energy", "leaveout": "leaveout", "adopted": "adopt"}


class Model(nn.Module):
    """A backbone with, where the file has them, a linear head, a projector, and a Gaussian with its prior.

    `rotation` is the linear classifier of quarter turns that rotation prediction leaves behind.

    `space` says where the Gaussian stands: "h", on the backbone's features, or "z", on the projections.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None = None,
        projector: nn.Module | None = None,
        gaussian: nn.Module | None = None,
        prior: nn.Module | None = None,
        space: str | None = None,
        rotation: nn.Module | None = None,
    ):
        super().__init__()
        self.backbone, self.head, self.projector = backbone, head, projector
        self.gaussian, self.prior, self.space = gaussian, prior, space
        self.rotation = rotation

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [N, C, H, W] -> features [N, D], before the head; of a Gaussian on h its mean."""
        return self.embedded(x)["features"]

    def embedded(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images [N, C, H, W] -> features [N, D], projections [N, P], mu and log_variance.

        What the model does not have is left out. Projections are those of the mean of a Gaussian.
        """
        found = {"features": self.backbone(x)}
        if self.space == "h":
            found["mu"], found["log_variance"] = self.gaussian(found["features"])
            found["features"] = found["mu"]
        if self.projector is not None:
            found["projections"] = self.projector(found["features"])
        if self.space == "z":
            found["mu"], found["log_variance"] = self.gaussian(found["projections"])
            found["projections"] = found["mu"]
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [N, C, H, W] -> logits [N, K]; InputError if the model has no head."""
        if self.head is None:
            raise InputError(
                "this model is an encoder without a classifier head; train one with the stage `train`"
            )
        return self.head(self.features(x))


def save_model(path: str | Path, modules: Mapping[str, nn.Module], metadata: Mapping[str, Any]) -> None:
    """Write the state of `modules` ("backbone", and others by prefix) as a model file.

    Floating tensors are stored as float32. ValueError if `metadata` lacks one of REQUIRED.
    """
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise ValueError(f"metadata of a model lacks {', '.join(missing)}")
    arrays = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            value = value.detach().cpu()
            arrays[f"{name}.{key}"] = (
                (value.float() if value.is_floating_point() else value).contiguous().numpy()
            )
    save_tensors(path, arrays, kind="model", metadata=metadata)


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """Return (model in eval mode on `device`, metadata).

    Raises InputError, naming the key, if the weights do not fit the architecture in the metadata.
    """
    arrays, metadata = load_tensors(path, kind="model")
    return restore_model(arrays, metadata, path, device), metadata


def restore_model(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    path: str | Path,
    device: torch.device | str = "cpu",
) -> Model:
    """Return the model of a file's arrays and metadata in eval mode; `path` is named in messages.

    Raises InputError, naming the key, if the weights do not fit the architecture in the metadata.
    """
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: metadata lacks {', '.join(missing)}; write it again with the stage that makes it"
        )
    if is_own(metadata["arch"]):
        check_source(metadata["arch"], metadata.get("code", {}), path)
    with torch.random.fork_rng(devices=[]):
        model = _empty(metadata, arrays)
    _fill(model, arrays, path)
    # channels last: what tensor cores read, and a quarter faster for the ResNets on a CPU too
    return model.eval().to(device, memory_format=torch.channels_last)


def _empty(metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Model:
    backbone = _backbone(metadata)
    classes, widths = metadata["head_classes"], metadata["projector"]
    head = None if classes is None else build_head(backbone.feature_dim, len(classes))
    projector = None
    if widths is not None:
        # batch norm leaves its mark in the keys; a lone linear layer is told by its missing bias
        batch_norm = "projector.0.bias" not in arrays
        projector = build_projector(backbone.feature_dim, widths, batch_norm=batch_norm)
    rotation = build_head(backbone.feature_dim, 4) if "rotation.weight" in arrays else None
    law = metadata.get("stochastic")
    if law is None:
        return Model(backbone, head, projector, rotation=rotation)
    size = backbone.feature_dim if law["space"] == "h" else widths[-1]
    gaussian = GaussianHead(size, size, single=law["sigma"] == "single")
    return Model(backbone, head, projector, gaussian, build_prior(law["components"], size), law["space"])


def _backbone(metadata: Mapping[str, Any]) -> nn.Module:
    if not is_own(metadata["arch"]):
        return build_backbone(metadata["arch"], channels=metadata["channels"])
    network = own_network(metadata["arch"])
    network.feature_dim = metadata["feature_dim"]
    return network


def _fill(model: Model, arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    wanted = model.state_dict()
    for key in arrays:
        if key not in wanted:
            raise InputError(
                f"{path}: weight {key!r} has no place in this architecture; is the file of another one?"
            )
    for key, value in wanted.items():
        if key not in arrays:
            raise InputError(f"{path}: weight {key!r} is missing; is the file of another architecture?")
        if arrays[key].shape != tuple(value.shape):
            found, need = list(arrays[key].shape), list(value.shape)
            raise InputError(f"{path}: weight {key!r} has shape {found}, the architecture needs {need}")
    model.load_state_dict({key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()})


def check_fits(
    metadata: Mapping[str, Any], set_metadata: Mapping[str, Any], what: str | Path, *, id_set: bool = True
) -> None:
    """Raise InputError unless the model `metadata` (of file `what`) was made for images like the set's.

    Size and channels must agree; with `id_set` also the set's name and classes. The message names
    both sides and the stage to run again.
    """
    keys = ["size", "channels"] + (["classes"] if id_set else [])
    same = all(metadata[key] == set_metadata[key] for key in keys)
    if same and (not id_set or metadata["id"] == set_metadata["name"]):
        return
    stage = _STAGES.get(metadata["objective"], "pretrain")
    made, given = (
        _describe(metadata, metadata["id"], id_set),
        _describe(set_metadata, set_metadata["name"], id_set),
    )
    raise InputError(
        f"{what}: the model was made for {made}, but the set is {given}; "
        f"it comes from another profile: run the stage `{stage}` again (`dvc repro`)"
    )


def _describe(metadata: Mapping[str, Any], name: str, with_classes: bool) -> str:
    text = f"{name!r} ({metadata['size']}x{metadata['size']} pixels, {metadata['channels']} channels"
    if not with_classes:
        return text + ")"
    classes = metadata["classes"]
    shown = ", ".join(map(str, classes[:4])) + (", …" if len(classes) > 4 else "")
    return f"{text}, {len(classes)} classes: {shown})"
