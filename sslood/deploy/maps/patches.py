"""Where a picture is unlike ID: each patch's distance to the nearest patch of ID train, on a fixed scale.

PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", 2022, arXiv:2106.08265) keeps
a coreset of the patches of normal pictures, and scores a patch by the distance to the nearest of them. Ours:
vectors are centred and of length one, several resolutions count alike, and the scale is that of held-out ID
pictures, the same for every picture, so that colours of two pictures can be compared.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from sslood.core.errors import InputError
from sslood.core.rounding import decimal
from sslood.core.seeding import numpy_stream
from sslood.core.settings import above, at_least, strict
from sslood.deploy.maps.coreset import k_centre
from sslood.deploy.maps.reading import Reader
from sslood.ood.geometry.nearest.bank import directions, kth_distance

IMAGES = 500  # ID train pictures that patches are taken from, and
HELDOUT = 100  # those of ID validation that give the scale
POOL, BANK = 10_000, 2_000  # patches to choose from, and those that are kept
TOP = 0.999  # quantile of ID patches that is 1 on the scale; the median is 0
SPREAD = 1.0  # patches, standard deviation of the smoothing
LEAST = (
    2e-3  # distance from 0 to 1 of the scale where ID pictures are all alike: ten times what float16 rounds
)
_PREFIX = "patches."


@dataclass(frozen=True)
class Scale:
    """Distances that become 0 and 1: median and 99.9 % quantile of the patches of held-out ID pictures."""

    median: Annotated[float, at_least(0), "distance"]
    top: Annotated[float, above(0), "distance"]
    images: Annotated[int, at_least(1), "number of held-out ID pictures"]


@dataclass(frozen=True)
class Patches:
    """Patches of ID train to compare with: unit vectors float32 [M, D], their centre [D], and the scale.

    widths: number of entries of each resolution in a vector.
    """

    bank: np.ndarray
    centre: np.ndarray
    widths: tuple[int, ...]
    scale: Scale

    def heat(self, vectors: np.ndarray) -> np.ndarray:
        """Return how unlike ID each patch of `Reader` vectors [N, h, w, D] is: float64 [N, h, w].

        Larger = more OOD; 0 is the median of ID, 1 what one patch in a thousand of ID reaches. Not bounded.
        Raises InputError for vectors of another network.
        """
        if vectors.shape[-1] != self.bank.shape[1]:
            raise InputError(
                f"the patches kept have {self.bank.shape[1]} values, those of the network "
                f"{vectors.shape[-1]}; the file is damaged: write it again with --maps"
            )
        low, span = self.scale.median, self.scale.top - self.scale.median
        return (self._distances(vectors) - low) / span

    def _distances(self, vectors: np.ndarray) -> np.ndarray:
        rows = _directions(vectors.reshape(-1, vectors.shape[-1]), self.centre, self.widths)
        found = kth_distance(torch.from_numpy(self.bank), torch.from_numpy(rows), 1).numpy()
        maps = found.reshape(vectors.shape[:3])
        return gaussian_filter(maps, (0, SPREAD, SPREAD), mode="nearest")

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return (arrays, JSON values) of a detector file from which `unpack` makes the same again."""
        arrays = {f"{_PREFIX}bank": self.bank.astype(np.float16), f"{_PREFIX}centre": self.centre}
        return arrays, {"patches": {"widths": list(self.widths), "scale": asdict(self.scale)}}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], said: Any, where: str) -> "Patches":
        """Return what `pack` was given; InputError naming the file `where` if it contradicts itself."""
        said = strict(_Said, said if isinstance(said, dict) else {}, f"{where}: patches")
        bank, centre = (arrays.get(f"{_PREFIX}{name}", np.empty(0)) for name in ("bank", "centre"))
        types = len(arrays) == 2 and (bank.dtype, centre.dtype) == (np.float16, np.float32)
        form = (sum(said.widths),)
        fits = bank.ndim == 2 and bank.size > 0 and bank.shape[1:] == centre.shape == form
        finite = np.isfinite(bank).all() and np.isfinite(centre).all()
        if not (types and fits and finite and min(said.widths) > 0):
            raise InputError(
                f"{where}: the patches for heat maps are not what the file says of them; it is damaged: copy "
                "it again, or write it again with --maps"
            )
        scale = strict(Scale, said.scale, f"{where}: patches.scale")
        if scale.top <= scale.median:
            raise InputError(f"{where}: patches.scale does not ascend; the file is damaged: copy it again")
        return cls(directions(bank.astype(np.float32)), np.asarray(centre), said.widths, scale)


@dataclass(frozen=True)
class _Said:
    """The JSON values of `Patches.pack`."""

    widths: tuple[int, ...]
    scale: dict


def chosen(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` places, at even steps from the first: int64."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def fit_patches(
    reader: Reader,
    train: Iterable[np.ndarray],
    count: int,
    heldout: Iterable[np.ndarray],
    *,
    seed: int,
    progress: Callable[[int], object] = lambda count: None,
) -> Patches:
    """Choose the patches to keep from the `count` pictures of `train`, and the scale from those of `heldout`.

    Both give batches uint8 [B, C, size, size]; memory for a batch, POOL vectors and the distances. Of each
    picture equally many patches are drawn by `seed`, POOL of all together, and BANK of these are kept.
    InputError for no pictures.
    """
    rng, parts = numpy_stream(seed, "patches"), []
    each = max(1, POOL // max(count, 1))
    for images in train:
        for rows in reader(images)[1].reshape(len(images), -1, sum(reader.widths)):
            parts.append(rows[np.sort(rng.permutation(len(rows))[:each])])
        progress(len(images))
    if not parts:
        raise InputError("heat maps need pictures to compare with, and there are none")
    pool, widths = np.concatenate(parts), tuple(reader.widths)
    centre = pool.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows = _directions(pool, centre, widths)
    bank = rows[k_centre(rows, BANK, seed)]
    kept = directions(bank.astype(np.float16).astype(np.float32))  # as the file holds them
    draft = Patches(kept, centre, widths, Scale(0.0, 1.0, 1))
    maps = []
    for images in heldout:
        maps.append(draft._distances(reader(images)[1]))
        progress(len(images))
    if not maps:
        raise InputError("the scale of heat maps needs held-out ID pictures, and there are none")
    found = np.concatenate(maps)
    median, top = (decimal(float(value)) for value in np.quantile(found, (0.5, TOP)))
    return Patches(kept, centre, widths, Scale(median, max(top, median + LEAST), len(found)))


def _directions(rows: np.ndarray, centre: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """Return vectors [P, D] less the centre, each resolution of length one, together of length one."""
    parts = np.split(rows - centre, np.cumsum(widths)[:-1], axis=1)
    return directions(np.concatenate([directions(part) for part in parts], axis=1))
