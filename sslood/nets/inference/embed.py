"""Embeddings of all image sets under one model, from one forward, and augmented copies for SSD_k."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.seeding import numpy_stream, stream_seed
from sslood.data.images.augment import Recipe, augment
from sslood.nets.inference.extract import Arrays, batches, check_batch_invariance, check_finite, extract
from sslood.nets.networks.files import Model, check_fits
from sslood.roles.roles import ROLES, names_of_roles, record_role


@dataclass(frozen=True)
class EmbedOptions:
    """The section `embed` of params.yaml."""

    batch_size: int
    shots: int
    copies: int

    def __post_init__(self):
        for key, value in vars(self).items():
            if value < 1:
                raise InputError(f"embed: {key} is {value}; use at least 1")


def shot_pool(labels: np.ndarray, shots: int, seed: int, name: str) -> np.ndarray:
    """Return the sorted positions of the pool: `shots` images per class, or in all if no label is known (-1).

    A class with fewer images gives all of them. Drawn from the stream ("shots", name).
    """
    rng = numpy_stream(seed, "shots", name)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rng.permutation(group)[:shots] for group in groups])).astype(np.int64)


def copies_of(images: np.ndarray, recipe: Recipe, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield one augmented view of uint8 images [P, C, H, W] in batches, floats in [0, 1], drawn from `seed`.

    The draws are made on the CPU, so the copies are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    for batch in batches(images, batch_size):
        yield augment(batch, recipe, generator)


def embed_sets(
    model: Model,
    metadata: Mapping[str, Any],
    sets: Mapping[str, Mapping[str, Any]],
    folder: str,
    id_name: str,
    *,
    options: EmbedOptions,
    recipe: Recipe,
    seed: int,
    what: str,
) -> tuple[Arrays, dict[str, Any]]:
    """Return (tensors, sets) of an embeddings file. `sets`: name -> {role: …}; `what`: the model's file.

    Raises InputError for an unknown role, a set of another size, a network that mixes the images of a
    batch, or values that are not finite.
    """
    if sets.get(id_name, {}).get("role") != "id":
        raise InputError(f"sets: the ID set {id_name!r} is not among them with role id; add it to `sets`")
    found: Arrays = {**_head(model), **_prior(model)}
    described: dict[str, Any] = {}
    preprocessing = {"mean": metadata["mean"], "std": metadata["std"]}
    for name, role in names_of_roles(sets, "sets").items():
        if role == "id" and name != id_name:
            raise InputError(f"sets: both {id_name!r} and {name!r} have role id; keep one")
        splits = ROLES[role].embedded
        if not splits:
            continue
        wanted = [f"{split}.{part}" for split in splits for part in ("images", "labels")]
        tensors, set_metadata = load_tensors(f"{folder}/{name}.safetensors", kind="set", only=wanted)
        check_fits(metadata, set_metadata, what, id_set=role == "id")
        if role == "id":
            check_batch_invariance(
                model, tensors["validation.images"], name=metadata["name"], **preprocessing
            )
        for split in splits:
            arrays = extract(model, batches(tensors[f"{split}.images"], options.batch_size), **preprocessing)
            arrays["labels"] = tensors[f"{split}.labels"]
            check_finite(arrays, model=metadata["name"], where=f"{name} ({split})")
            found.update({f"{name}.{split}.{key}": values for key, values in arrays.items()})
        if ROLES[role].is_ood:
            found.update(_shots(model, tensors, name, options, recipe, seed, preprocessing))
        counts = {split: len(tensors[f"{split}.images"]) for split in splits}
        described[name] = {"splits": counts, **record_role(role)}
    return found, described


def _head(model: Model) -> Arrays:
    """Return "head.weight" [K, D] and "head.bias" [K], for detectors that read the classifier itself."""
    if model.head is None:
        return {}
    state = model.head.state_dict()
    return {f"head.{part}": state[part].float().cpu().numpy() for part in ("weight", "bias")}


def _prior(model: Model) -> Arrays:
    """Return a stochastic model's prior as a mixture: "prior.log_weights" [K], ".mu", ".log_variance" [K, D].

    A standard normal is a mixture of one.
    """
    if model.gaussian is None:
        return {}
    state = model.prior.state_dict()
    single = torch.zeros(1, model.gaussian.mu.out_features)
    mu, log_variance = (state.get(key, single) for key in ("mu", "log_variance"))
    parts = {"log_weights": state.get("weights", torch.zeros(1)).log_softmax(0)}
    parts |= {"mu": mu, "log_variance": log_variance}
    return {f"prior.{part}": value.float().cpu().numpy() for part, value in parts.items()}


def _shots(
    model: Model,
    tensors: Arrays,
    name: str,
    options: EmbedOptions,
    recipe: Recipe,
    seed: int,
    preprocessing: Mapping[str, Any],
) -> Arrays:
    """Return "<set>.shots.features" [P, copies, D] and "<set>.shots.index" [P] of an OOD set."""
    index = shot_pool(tensors["test.labels"], options.shots, seed, name)
    images = tensors["test.images"][index]
    views = []
    for copy in range(options.copies):
        stream = copies_of(images, recipe, options.batch_size, stream_seed(seed, "shots", name, copy))
        views.append(extract(model, stream, **preprocessing)["features"])
    return {f"{name}.shots.features": np.stack(views, 1), f"{name}.shots.index": index}
