"""Model, preprocessing, detectors and threshold in one file, and decisions about any images from it.

from sslood.deploy.scorer import load_deployed
scorer = load_deployed("data/detectors/simclr-ssd.safetensors")
decisions = scorer.decide(images)   # uint8 [N, C, size, size]
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.core.files import atomic, load_tensors, save_tensors
from sslood.data.sets.images import SUFFIXES, read_image, to_array
from sslood.data.sets.tree import list_images
from sslood.deploy.calibrated import Calibrated, Given, pack, unpack
from sslood.deploy.thresholds import discoveries
from sslood.nets.inference.extract import batches, extract
from sslood.nets.networks.files import Model, restore_model
from sslood.ood.kit.outputs import Outputs
from sslood.views.network_view import open_model

BATCH = 256  # images in memory at a time
_MODEL = "model."


@dataclass(frozen=True)
class Decisions:
    """scores float64 [N], larger = more OOD; p_values [N]; is_ood bool [N]; predicted: class names, "" if
    the model has no classifier."""

    scores: np.ndarray
    p_values: np.ndarray
    is_ood: np.ndarray
    predicted: list[str]


@dataclass(frozen=True)
class Deployed:
    """A scorer: network, its metadata (preprocessing, classes), and the calibrated detectors."""

    model: Model
    metadata: Mapping[str, Any]
    calibrated: Calibrated

    def decide(self, images: np.ndarray) -> Decisions:
        """Score uint8 images [N, C, size, size] of the model's size and channels.

        Raises InputError for another shape or dtype, or if the network gives values that are not finite.
        """
        size, channels = self.metadata["size"], self.metadata["channels"]
        if images.dtype != np.uint8 or images.shape[1:] != (channels, size, size):
            raise InputError(
                f"images must be uint8 of shape (N, {channels}, {size}, {size}), "
                f"found {images.dtype} {images.shape}; read files with `read_folder`"
            )
        preprocessing = {"mean": self.metadata["mean"], "std": self.metadata["std"]}
        arrays = extract(self.model, batches(images, BATCH), **preprocessing)
        given = Given(Outputs("images", **arrays))
        if self.calibrated.asks_network:
            device = next(self.model.parameters()).device
            given = Given(given.outputs, images, open_model(self.model, device=device, **preprocessing))
        scores = self.calibrated.score(given)
        return Decisions(
            scores,
            self.calibrated.p_values(scores),
            self.calibrated.is_ood(scores),
            self._predicted(arrays.get("logits"), len(images)),
        )

    def _predicted(self, logits: np.ndarray | None, count: int) -> list[str]:
        if logits is None:
            return [""] * count
        names, head = self.metadata["classes"], self.metadata["head_classes"]
        return [str(names[head[place]]) for place in logits.argmax(axis=1)]


def facts(scorer: Deployed, fdr: float | None = None) -> dict[str, str]:
    """Return in words what decides: for people who look at the decisions. fdr: as of `judge_together`."""
    metadata, threshold = scorer.metadata, scorer.calibrated.threshold
    rule = f"score above {threshold.value:.6g}: at most {threshold.alpha:.1%} of ID pictures, on average"
    if fdr is not None:
        rule = f"judged together: at most {fdr:.1%} of the pictures called OOD are ID, on average"
    classes = ", ".join(map(str, metadata["classes"]))
    return {
        "Detector": scorer.calibrated.name,
        "Model": f"{metadata['name']}, seed {metadata['seed']}",
        "ID": f"{metadata['id']}: {classes}",
        "Called OOD": rule,
        "Calibrated on": f"{threshold.images} ID pictures",
    }


def save_deployed(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    calibrated: Calibrated,
) -> None:
    """Write a model file's arrays and metadata and calibrated detectors as one file."""
    found, content = pack(calibrated)
    tensors = {**{f"{_MODEL}{key}": array for key, array in arrays.items()}, **found}
    save_tensors(path, tensors, kind="detector", metadata={**content, "model_metadata": dict(metadata)})


def load_deployed(path: str | Path, device: torch.device | str = "cpu") -> Deployed:
    """Read a file of `save_deployed`; InputError if it is missing, cut short, of another kind or newer."""
    arrays, content = load_tensors(path, kind="detector")
    weights = {key.removeprefix(_MODEL): array for key, array in arrays.items() if key.startswith(_MODEL)}
    calibrated = unpack(arrays, content, str(path), str(device))
    metadata = content["model_metadata"]
    return Deployed(restore_model(weights, metadata, path, device), metadata, calibrated)


def judge_together(table: str | Path, rate: float, calibration: int) -> int:
    """Set is_ood in a CSV of `score` by false-discovery control at `rate`; return how many are OOD.

    Benjamini and Hochberg on the p-values of all its images (see `discoveries`, and its InputError).
    Reads the file twice, so that only the p-values are in memory.
    """
    with open(table, newline="", encoding="utf-8") as file:
        p = np.array([float(row["p_value"]) for row in csv.DictReader(file)])
    called = discoveries(p, rate, calibration)
    with (
        open(table, newline="", encoding="utf-8") as file,
        atomic(table) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as out,
    ):
        rows = csv.DictReader(file)
        writer = csv.DictWriter(out, rows.fieldnames, lineterminator="\n")
        writer.writeheader()
        for row, flag in zip(rows, called, strict=True):
            writer.writerow(row | {"is_ood": "true" if flag else "false"})
    return int(called.sum())


def find_pictures(where: Path) -> tuple[Path, list[Path]]:
    """Return (folder, paths of the pictures in it and in its folders, sorted); `where` may be one picture.

    Raises InputError if there is nothing, or no picture.
    """
    if where.is_file():
        return where.parent, [where]
    if not where.is_dir():
        raise InputError(f"{where}: no such folder or picture")
    paths = [Path(path) for path in list_images(where)]
    if not paths:
        raise InputError(f"{where}: no image in it; known endings: {', '.join(SUFFIXES)}")
    return where, paths


def read_folder(
    paths: Sequence[Path],
    size: int,
    channels: int,
    *,
    batch_size: int = BATCH,
    unreadable: list[Path] | None = None,
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yield (paths, uint8 [B, channels, size, size]) by the chain of all sets, in constant memory.

    Raises InputError naming a file that cannot be read; if a list `unreadable` is given, the file goes
    in there instead and its row is left out.
    """

    def load(path: Path) -> np.ndarray | None:
        try:
            return to_array(read_image(path), size, channels)
        except InputError:
            if unreadable is None:
                raise
            return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), batch_size):
            piece = paths[start : start + batch_size]
            found = list(zip(piece, pool.map(load, piece), strict=True))
            if unreadable is not None:
                unreadable.extend(path for path, array in found if array is None)
            found = [pair for pair in found if pair[1] is not None]
            if found:
                yield [path for path, _ in found], np.stack([array for _, array in found])
