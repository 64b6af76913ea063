"""The ID pictures that a picture is most like, by name: what the detector compares it with.

The names are those of ID pictures in their folder, or their places in an image set. The pictures themselves
are in no detector file; who has the folder can have them shown.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.rows import unit_rows
from sslood.data.sets.images import from_array, read_image
from sslood.deploy.maps.patches import chosen
from sslood.ood.geometry.nearest.bank import directions
from sslood.ood.geometry.products import product

MOST = 10_000  # ID pictures that are kept, at even steps
_PREFIX = "nearest."


@dataclass(frozen=True)
class Neighbour:
    """An ID picture: its name, and the cosine of the angle between its features and those asked about."""

    name: str
    likeness: float


@dataclass(frozen=True)
class Nearest:
    """Features of ID pictures as unit vectors float32 [n, D], and their names."""

    vectors: np.ndarray
    names: tuple[str, ...]

    def find(self, features: np.ndarray, count: int = 3) -> list[list[Neighbour]]:
        """Return the `count` most alike ID pictures of each row of features [N, D], the most alike first."""
        queries = torch.from_numpy(unit_rows(features.astype(np.float64)))
        likeness = product(queries, torch.from_numpy(self.vectors).double().T).numpy()
        order = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
        return [
            [Neighbour(self.names[place], float(likeness[row, place])) for place in places]
            for row, places in enumerate(order.tolist())
        ]

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return (arrays, JSON values) of a detector file from which `unpack` makes the same again."""
        return {f"{_PREFIX}vectors": self.vectors.astype(np.float16)}, {"nearest": {"names": [*self.names]}}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], said: Any, where: str) -> "Nearest":
        """Return what `pack` was given; InputError naming the file `where` if it contradicts itself."""
        vectors = arrays.get(f"{_PREFIX}vectors", np.empty(0))
        names = said.get("names") if isinstance(said, dict) and said.keys() == {"names"} else None
        if not (
            isinstance(names, list)
            and len(arrays) == 1
            and all(isinstance(name, str) for name in names)
            and vectors.dtype == np.float16
            and vectors.ndim == 2
            and len(vectors) == len(names)
            and np.isfinite(vectors).all()
        ):
            raise InputError(
                f"{where}: the nearest ID pictures are not what the file says of them; the file is damaged: "
                "copy it again, or write it again"
            )
        return cls(directions(vectors.astype(np.float32)), tuple(names))


def keep_nearest(features: np.ndarray, names: Sequence[str]) -> Nearest:
    """Return at most MOST of the pictures with these features [N, D] and names, at even steps."""
    places = chosen(len(names), MOST)
    kept = directions(directions(features[places]).astype(np.float16).astype(np.float32))
    return Nearest(kept, tuple(names[place] for place in places))


def inside(name: str) -> bool:
    """Whether a name stays in its folder, whoever wrote it."""
    path = Path(name)
    return not path.anchor and ".." not in path.parts


def opened(where: str | Path) -> Callable[[str], tuple[Image.Image, Path | None] | None]:
    """Return what finds a picture by its name: the picture with its file, or None if it is not there.

    where: the folder of the ID pictures, or the file of an image set, whose names are "SET.SPLIT[PLACE]".
    Raises InputError if it is neither.
    """
    where = Path(os.path.expanduser(where))
    if where.is_dir():
        return lambda name: _from_folder(where, name)
    arrays, metadata = load_tensors(where, kind="set")
    return lambda name: _from_set(arrays, metadata["name"], name)


def _from_folder(folder: Path, name: str) -> tuple[Image.Image, Path] | None:
    if not inside(name):
        return None
    path = folder / name
    try:
        return read_image(path), path.absolute()
    except InputError:  # gone or broken since
        return None


def _from_set(arrays: Mapping[str, np.ndarray], own: str, name: str) -> tuple[Image.Image, None] | None:
    split, _, place = name.removeprefix(f"{own}.").removesuffix("]").partition("[")
    images = arrays.get(f"{split}.images", ())
    if not place.isdecimal() or int(place) >= len(images):
        return None
    image = images[int(place)]
    return from_array(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))), None
