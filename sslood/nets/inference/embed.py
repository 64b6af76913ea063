"""Embeddings of all image sets under one model, from one forward, and augmented copies for SSD_k."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.files import load_tensors, read_metadata
from sslood.core.machine import machine
from sslood.core.precision import Precision
from sslood.core.seeding import numpy_stream, stream_seed
from sslood.core.settings import Settings, at_least
from sslood.data.images.augment import AugmentSettings, augment
from sslood.data.sets.roles.roles import ROLES, names_of_roles, record_role
from sslood.nets.inference.extract import Arrays, check_batch_invariance, check_finite, extract
from sslood.nets.inference.looks import Looks, seeing
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.files import load_named
from sslood.nets.networks.model import Model


@dataclass(frozen=True)
class EmbedSettings(Settings):
    """The section `embed` of params.yaml."""

    batch_size: Annotated[int, at_least(1), "images per forward pass"]
    precision: Annotated[Precision, "of the forward passes; embeddings are stored as float32"]
    shots: Annotated[
        int, at_least(1), "images per class of an OOD set (in all where it has no labels) for SSD_k"
    ]
    copies: Annotated[int, at_least(1), "augmented copies of each of these images"]
    mirror: Annotated[bool, "features are the mean over an image and its mirror image, in twice the time"] = (
        False
    )
    shift: Annotated[int, at_least(0), "and over both shifted by so many pixels, in three times the time"] = 0

    @property
    def looks(self) -> Looks:
        """How often the network sees an image."""
        return Looks(self.mirror, self.shift)


def shot_pool(labels: np.ndarray, shots: int, seed: int, name: str) -> np.ndarray:
    """Return the sorted positions of the pool: `shots` images per class, or in all if no label is known (-1).

    A class with fewer images gives all of them. Drawn from the stream ("shots", name).
    """
    rng = numpy_stream(seed, "shots", name)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rng.permutation(group)[:shots] for group in groups])).astype(np.int64)


def copies_of(
    images: np.ndarray, recipe: AugmentSettings, batch_size: int, seed: int
) -> Iterator[torch.Tensor]:
    """Yield one augmented view of uint8 images [P, C, H, W] in batches, floats in [0, 1], drawn from `seed`.

    The draws are made on the CPU, so the copies are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    for batch in batches(images, batch_size):
        yield augment(batch, recipe, generator)


def embed_model(
    path: str,
    sets: Mapping[str, Mapping[str, Any]],
    folder: str,
    id_name: str,
    *,
    settings: EmbedSettings,
    recipe: AugmentSettings,
    seed: int,
    name: str | None = None,
) -> tuple[Arrays, dict[str, Any]]:
    """Return (tensors, metadata) of the embeddings file of the model file `path`; see `embed_sets`.

    sets: name -> {role: …}; folder: of the set files; name: that the model must have, with this seed, None
    for any. InputError if it is another, or was made for other images.
    """
    network, card = load_named(path, name, seed, machine(settings.precision).device)
    check_fits(card, read_metadata(f"{folder}/{id_name}.safetensors", kind="set"), path)
    tensors, contents = embed_sets(
        network, card, sets, folder, id_name, settings=settings, recipe=recipe, seed=seed, where=path
    )
    return tensors, {
        "model": card.name, "seed": seed, "model_metadata": read_metadata(path), "id": id_name,
        "classes": card.classes, "recipe": vars(recipe), "shots": settings.shots, "copies": settings.copies,
        "sets": contents, **settings.looks.metadata(),
    }  # fmt: skip


def embed_sets(
    model: Model,
    card: ModelCard,
    sets: Mapping[str, Mapping[str, Any]],
    folder: str,
    id_name: str,
    *,
    settings: EmbedSettings,
    recipe: AugmentSettings,
    seed: int,
    where: str,
) -> tuple[Arrays, dict[str, Any]]:
    """Return (tensors, sets) of an embeddings file. `sets`: name -> {role: …}; `where`: the model's file.

    Raises InputError for an unknown role, a set of another size, a network that mixes the images of a
    batch, or values that are not finite.
    """
    if sets.get(id_name, {}).get("role") != "id":
        raise InputError(f"sets: the ID set {id_name!r} is not among them with role id; add it to `sets`")
    settings.looks.check(card.size, "embed.shift")
    model = seeing(model, settings.looks)
    tensors: Arrays = {**_head(model), **_prior(model)}
    contents: dict[str, Any] = {}
    for name, role in names_of_roles(sets, "sets").items():
        if role == "id" and name != id_name:
            raise InputError(f"sets: both {id_name!r} and {name!r} have role id; keep one")
        splits = ROLES[role].embedded
        if not splits:
            continue
        keys = [f"{split}.{part}" for split in splits for part in ("images", "labels")]
        images, set_metadata = load_tensors(f"{folder}/{name}.safetensors", kind="set", only=keys)
        check_fits(card, set_metadata, where, id_set=role == "id")
        if role == "id":
            check_batch_invariance(
                model, images["validation.images"], name=card.name, mean=card.mean, std=card.std
            )
        for split in splits:
            stream = batches(images[f"{split}.images"], settings.batch_size)
            arrays = extract(model, stream, mean=card.mean, std=card.std, precision=settings.precision)
            arrays["labels"] = images[f"{split}.labels"]
            check_finite(arrays, model=card.name, where=f"{name} ({split})")
            tensors.update({f"{name}.{split}.{key}": values for key, values in arrays.items()})
        if ROLES[role].is_ood:
            tensors.update(_shots(model, card, images, name, settings, recipe, seed))
        counts = {split: len(images[f"{split}.images"]) for split in splits}
        contents[name] = {"splits": counts, **record_role(role)}
    return tensors, contents


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
    if model.gaussian is None or model.prior is None:
        return {}
    state = model.prior.state_dict()
    single = torch.zeros(1, model.gaussian.mu.out_features)
    mu, log_variance = (state.get(key, single) for key in ("mu", "log_variance"))
    parts = {"log_weights": state.get("weights", torch.zeros(1)).log_softmax(0)}
    parts |= {"mu": mu, "log_variance": log_variance}
    return {f"prior.{part}": value.float().cpu().numpy() for part, value in parts.items()}


def _shots(
    model: Model,
    card: ModelCard,
    images: Arrays,
    name: str,
    settings: EmbedSettings,
    recipe: AugmentSettings,
    seed: int,
) -> Arrays:
    """Return "<set>.shots.features" [P, copies, D] and "<set>.shots.index" [P] of an OOD set."""
    index = shot_pool(images["test.labels"], settings.shots, seed, name)
    views = []
    for copy in range(settings.copies):
        own = stream_seed(seed, "shots", name, copy)
        stream = copies_of(images["test.images"][index], recipe, settings.batch_size, own)
        arrays = extract(model, stream, mean=card.mean, std=card.std, precision=settings.precision)
        views.append(arrays["features"])
    return {f"{name}.shots.features": np.stack(views, 1), f"{name}.shots.index": index}
