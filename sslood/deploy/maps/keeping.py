"""What a detector file keeps so that pictures can be explained: patches of ID, and ID pictures by name."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sslood.data.sets.crops import file_of
from sslood.data.sets.roles.roles import read_split
from sslood.deploy.maps.nearest import Nearest, inside, keep_nearest
from sslood.deploy.maps.patches import HELDOUT, IMAGES, Patches, chosen, fit_patches
from sslood.deploy.maps.reading import BATCH, Reader
from sslood.deploy.normal.fit_pictures import FittedPictures
from sslood.deploy.pictures import chain_of, read_pictures
from sslood.nets.networks.files import restore_model
from sslood.ood.kit.outputs import Embeddings


def patches_of_pictures(fitted: FittedPictures, *, seed: int, device: str = "cpu") -> Patches:
    """Return the patches to keep of pictures that a detector was fitted to, read again: 600 at most.

    Those that teach the detector are compared with, and those that calibrate it give the scale.
    """
    metadata, split = fitted.card.metadata(), fitted.fitted.split
    paths = fitted.pictures.paths
    sides = [
        [paths[rows[place]] for place in chosen(len(rows), most)]
        for rows, most in ((split.fit, IMAGES), (split.calibration, HELDOUT))
    ]
    reader = Reader(restore_model(fitted.arrays, metadata, fitted.card.name, device), metadata)

    def batches(some: Sequence[Path]) -> Iterator[np.ndarray]:
        return (images for _, images in read_pictures(some, chain_of(metadata), batch_size=BATCH))

    with tqdm(total=sum(map(len, sides)), desc="maps", unit="image", disable=None) as bar:
        train, heldout = map(batches, sides)
        return fit_patches(reader, train, len(sides[0]), heldout, seed=seed, progress=bar.update)


def nearest_of_pictures(fitted: FittedPictures) -> Nearest:
    """Return the ID pictures to keep, by the names that they were found by.

    Where a list names one outside its own folder, all are named from the folder that holds them all.
    """
    paths, found = fitted.pictures.paths, fitted.found
    names = found.names
    if not all(map(inside, names)):
        every = [os.path.abspath(path) for path in found.paths]
        folder = os.path.commonpath([os.path.dirname(file_of(path)) for path in every])
        names = [Path(path).relative_to(folder).as_posix() for path in every]
    return keep_nearest(fitted.pictures.features, [names[found.places[path]] for path in paths])


def patches_of_set(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], folder: Path, device: str = "cpu"
) -> Patches:
    """Return the patches to keep for a model file, of ID train and validation of its set in `folder`.

    For a model that was trained on validation the scale is that of ID test, as its threshold is.
    """
    name = metadata["id"]
    heldout = "test" if metadata.get("saw_validation") else "validation"
    sides = []
    for split, most in (("train", IMAGES), (heldout, HELDOUT)):
        images, _ = read_split(folder, name, split)
        sides.append(images[chosen(len(images), most)])
    reader = Reader(restore_model(arrays, metadata, f"model {metadata['name']!r}", device), metadata)

    def batches(images: np.ndarray) -> Iterator[np.ndarray]:
        return (images[start : start + BATCH] for start in range(0, len(images), BATCH))

    with tqdm(total=sum(map(len, sides)), desc="maps", unit="image", disable=None) as bar:
        train, held = map(batches, sides)
        return fit_patches(
            reader, train, len(sides[0]), held, seed=int(metadata["seed"]), progress=bar.update
        )


def nearest_of_set(embeddings: Embeddings) -> Nearest:
    """Return the ID pictures to keep, called SET.SPLIT[PLACE]: those of ID train."""
    outputs = embeddings.outputs(embeddings.id, "train")
    return keep_nearest(
        outputs.need("features"), [f"{embeddings.id}.train[{place}]" for place in range(len(outputs))]
    )
