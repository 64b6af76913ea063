"""Model, preprocessing, detectors and threshold in one file, and decisions about any images from it.

from sslood.deploy.scorer import load_deployed

scorer = load_deployed("data/detectors/simclr-ssd.safetensors")
decisions = scorer.decide(images)  # uint8 [N, C, size, size]

A file that was fitted to vectors has no network, and decides about vectors only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslood.core.batches import batches
from sslood.core.errors import InputError, out_of_memory
from sslood.core.files import save_tensors
from sslood.deploy.calibrated import Calibrated
from sslood.deploy.folded import folded
from sslood.deploy.inputs import Inputs
from sslood.deploy.maps.nearest import Nearest
from sslood.deploy.maps.patches import Patches
from sslood.deploy.packed import VERSION, checksum, damaged, pack, read_file, unpack
from sslood.deploy.thresholds import discoveries, in_percent
from sslood.nets.inference.extract import extract
from sslood.nets.inference.looks import as_fitted, seen_once
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import restore_model
from sslood.nets.networks.model import Model
from sslood.nets.networks.reference import numbers
from sslood.ood.kit.outputs import Head, Outputs
from sslood.views.opened import open_model

BATCH = 256  # images in memory at a time
VALUES = 2**20  # of the images that a network is shown at a time: beyond, its maps leave the caches
TOLERANCE = 1e-2  # of the scores of fixed images: float32 of another processor costs 1e-4, a lie more
VECTORS = "vectors"  # the `arch` of a model that is elsewhere: its vectors come, not pictures
WEIGHT, BIAS = "head.weight", "head.bias"
_MODEL = "model."
_PARTS: dict[str, Any] = {"patches": Patches, "nearest": Nearest}  # key of the content, prefix of the arrays


def network_batch(shape: Sequence[int]) -> int:
    """Return how many images [C, H, W] a network is shown at a time, at most BATCH."""
    return max(1, min(BATCH, VALUES // math.prod(shape)))


@dataclass(frozen=True)
class Decisions:
    """scores float64 [N], larger = more OOD; p_values [N]; is_ood bool [N]; predicted: class names, "" if
    the model has no classifier."""

    scores: np.ndarray
    p_values: np.ndarray
    is_ood: np.ndarray
    predicted: list[str]

    def judge_together(self, rate: float, calibration: int) -> "Decisions":
        """Return the decisions by false-discovery control over all images at once, by `discoveries`.

        At most the share `rate` of the images called OOD is expected to be ID; calibration: number of images
        that the p-values come from. Raises InputError for a rate that they do not allow.
        """
        return replace(self, is_ood=discoveries(self.p_values, rate, calibration))


@dataclass(frozen=True)
class Deployed:
    """A scorer: network, its metadata (preprocessing, classes), and the calibrated detectors.

    model: None for one that was fitted to vectors. head: the linear classifier on the features, if there is
    one. patches, nearest: for heat maps and ID neighbours, if the file keeps them (`deploy.maps.explaining`).
    """

    model: Model | None
    metadata: Mapping[str, Any]
    calibrated: Calibrated
    head: Head | None = None
    patches: Patches | None = None
    nearest: Nearest | None = None

    @property
    def network(self) -> Model:
        """The model; InputError for a scorer of vectors, which has none."""
        if self.model is None:
            raise InputError(
                "this detector was fitted to vectors and has no network, so it cannot see pictures: score "
                "their vectors (--vectors), or fit one to pictures with `sslood fit --images`"
            )
        return self.model

    def decide(self, images: np.ndarray) -> Decisions:
        """Score uint8 images [N, C, size, size] of the model's size and channels.

        Raises InputError for another shape or dtype, or if the network gives values that are not finite.
        """
        network, size, channels = self.network, self.metadata["size"], self.metadata["channels"]
        if images.dtype != np.uint8 or images.shape[1:] != (channels, size, size):
            raise InputError(
                f"images must be uint8 of shape (N, {channels}, {size}, {size}), "
                f"found {images.dtype} {images.shape}; read files with `sslood.deploy.pictures.read_pictures`"
            )
        preprocessing = {"mean": self.metadata["mean"], "std": self.metadata["std"]}
        parts = batches(images, network_batch(images.shape[1:]))
        arrays: dict[str, Any] = {**extract(network, parts, **preprocessing)}
        inputs = Inputs(Outputs("images", **arrays))
        if self.calibrated.reads_network:
            device = next(network.parameters()).device
            once = open_model(seen_once(network), device=device, **preprocessing)
            inputs = Inputs(inputs.outputs, images, once)
        return self.decided(inputs, arrays.get("logits"))

    def decide_vectors(self, vectors: np.ndarray, logits: np.ndarray | None = None) -> Decisions:
        """Score vectors, float [N, D], of the model whose features the detectors were fitted to.

        logits, float [N, K]: of its classifier, for detectors that read them, and to predict classes; by
        default those of `head`. Raises InputError for other widths or values that are not finite, for logits
        that are missing, and if a detector needs the network.
        """
        if self.calibrated.reads_network:
            raise InputError(f"{self.calibrated.name} looks at pictures through the network; give pictures")
        if (found := vectors.shape[1:]) != (width := (self.metadata["feature_dim"],)):
            raise InputError(f"vectors must have the shape (N, {width[0]}), found {(len(vectors), *found)}")
        if logits is None and self.head is not None:
            logits = self.head.logits(vectors).astype(np.float32)
        known = len(self.metadata["head_classes"] or [])
        if logits is not None and logits.shape[1] != known:
            raise InputError(f"logits are {logits.shape[1]} wide, but the detector knows {known} classes")
        return self.decided(Inputs(Outputs("vectors", vectors, logits=logits)), logits)

    def decided(self, inputs: Inputs, logits: np.ndarray | None) -> Decisions:
        """Decide about images from what the detectors read of them; logits [N, K] give the classes."""
        scores, places = self.calibrated.score(inputs), self.calibrated.places(inputs)
        return Decisions(
            scores,
            self.calibrated.p_values(scores, places),
            self.calibrated.is_ood(scores, places),
            self._predicted(logits, len(inputs)),
        )

    def _predicted(self, logits: np.ndarray | None, count: int) -> list[str]:
        if logits is None:
            return [""] * count
        names, head = self.metadata["classes"], self.metadata["head_classes"]
        return [str(names[head[index]]) for index in logits.argmax(axis=1)]


def describe_rule(scorer: Deployed, fdr: float | None = None) -> dict[str, str]:
    """Return in words how a scorer decides, heading -> text; fdr: the rate of `judge_together`, if used."""
    metadata, calibrated = scorer.metadata, scorer.calibrated
    threshold = calibrated.threshold
    rate = in_percent(threshold.alpha)
    rule = f"score above {threshold.value:.6g}: at most {rate} of ID pictures, on average"
    if calibrated.by_class is not None:
        rule = f"score above the threshold of the predicted class: at most {rate} of ID pictures of each, "
        rule += "on average"
    if fdr is not None:
        rule = f"judged together: at most {in_percent(fdr)} of the pictures called OOD are ID, on average"
    settings = {name: asdict(detector.settings) for name, detector in calibrated.detectors.items()}
    values = [f"{name}.{key} = {value}" for name, one in settings.items() for key, value in one.items()]
    tested = ", ".join(map(str, calibrated.catches))
    rows = {
        "Detector": calibrated.name,
        "Settings": ", ".join(values),
        "Model": f"{metadata['name']}, seed {metadata['seed']}",
        "ID": f"{metadata['id']}: {', '.join(map(str, metadata['classes']))}",
        "Called OOD": rule,
        "Calibrated on": f"{threshold.images} ID pictures"
        + ("" if calibrated.by_class is None else f", of each class at least {calibrated.fewest}"),
        "Measured": tested and f"called OOD: {tested}",
    }
    return {heading: text for heading, text in rows.items() if text}


def save_deployed(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    calibrated: Calibrated,
    *,
    patches: Patches | None = None,
    nearest: Nearest | None = None,
) -> None:
    """Write a model file's arrays and metadata and calibrated detectors as one file.

    For detectors of vectors: the metadata of `sslood.deploy.tables.fitted.vector_card`, and no arrays but the
    classifier's, if there is one. patches, nearest: kept beside them; no score depends on these.
    """
    state, content = pack(calibrated)
    for part in (patches, nearest):
        own, said = ({}, {}) if part is None else part.pack()
        state, content = state | own, content | said
    tensors = {**{f"{_MODEL}{key}": array for key, array in arrays.items()}, **state}
    deployed = Deployed(_model(arrays, metadata, path), metadata, calibrated, _head(arrays))
    content |= {"model_metadata": dict(metadata), "answers": _answers(deployed)}
    content["checksum"] = checksum(tensors, content)
    save_tensors(path, tensors, kind="detector", metadata=content)


def load_deployed(path: str | Path, device: torch.device | str = "cpu") -> Deployed:
    """Read a file of `save_deployed`.

    Raises InputError if it is missing, cut short, of another kind or version, or not as it was written: its
    checksum, each part as `unpack` and `restore_model` check it, and the scores of two fixed images.
    """
    arrays, content = read_file(path)
    where, metadata = str(path), content.get("model_metadata")
    written = content.get("version") != VERSION or content.get("checksum") == checksum(arrays, content)
    if not written:
        raise damaged(where, "its content has not the checksum that was written with it")
    parts, own = _parts(arrays, content, where)
    calibrated = unpack(own, content, where, str(device))
    if not isinstance(metadata, dict):
        raise damaged(where, "it does not describe its model")
    weights = {key.removeprefix(_MODEL): array for key, array in arrays.items() if key.startswith(_MODEL)}
    model = _model(weights, metadata, path, device)
    model = None if model is None else folded(model)
    deployed = Deployed(model, metadata, calibrated, _head(weights), **parts)
    _check_answers(deployed, content.get("answers"), where)
    return deployed


def _parts(
    arrays: Mapping[str, np.ndarray], content: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return (the optional parts that the content names, the arrays of detectors and calibration)."""
    own = {key: array for key, array in arrays.items() if not key.startswith(_MODEL)}
    parts = {}
    for name in sorted(_PARTS.keys() & content.keys()):
        some = {key: own.pop(key) for key in [*own] if key.startswith(f"{name}.")}
        parts[name] = _PARTS[name].unpack(some, content[name], where)
    return parts, own


def _model(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    path: str | Path,
    device: torch.device | str = "cpu",
) -> Model | None:
    """Return the model as the detectors saw images; None where vectors come from a model elsewhere."""
    if metadata.get("arch") != VECTORS:
        return as_fitted(restore_model(arrays, metadata, path, device), metadata)
    card = ModelCard.read(metadata, path)
    count = len(card.head_classes or [])
    shapes = {WEIGHT: [count, card.feature_dim], BIAS: [count]} if arrays else {}
    for key in {*shapes, *arrays}:
        array = np.asarray(arrays.get(key, []))
        if list(array.shape) != shapes.get(key) or array.dtype != np.float32 or not np.isfinite(array).all():
            raise damaged(str(path), f"weight {key!r} is not that of a classifier of its vectors")
    return None


def _head(arrays: Mapping[str, np.ndarray]) -> Head | None:
    return Head(arrays[WEIGHT], arrays[BIAS]) if {WEIGHT, BIAS} <= arrays.keys() else None


def _answers(deployed: Deployed) -> list[float]:
    """Return the scores of two fixed images or vectors, one of noise and one that is smooth."""
    if deployed.model is None:
        widths = deployed.metadata["feature_dim"], len(deployed.metadata["head_classes"] or [])
        vectors, logits = (
            np.stack([numbers(width, key), np.linspace(0, 1, width)]).astype(np.float32)
            for key, width in enumerate(widths, start=3)
        )
        given = logits if widths[1] and deployed.head is None else None
        return [float(one) for one in deployed.decide_vectors(vectors, given).scores]
    shape = (deployed.metadata["channels"], deployed.metadata["size"], deployed.metadata["size"])
    noise = 128 + 50 * numbers(math.prod(shape), 2).reshape(shape)
    smooth = np.broadcast_to(np.linspace(0, 255, shape[-1]), shape)
    images = np.stack([noise, smooth]).clip(0, 255).astype(np.uint8)
    return [float(score) for score in deployed.decide(images).scores]


def _check_answers(deployed: Deployed, then: Any, where: str) -> None:
    """Raise InputError unless model and detectors score the fixed images as when the file was written."""
    try:
        now = _answers(deployed)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if out_of_memory(error):
            raise
        text = str(error).partition("\n")[0]
        raise damaged(where, f"its detector cannot compute a score ({text})") from None
    scale = np.maximum(np.abs(now), np.ptp(deployed.calibrated.calibration))
    fits = isinstance(then, list) and len(then) == len(now) and {*map(type, then)} == {float}
    if not fits or not (np.abs(np.subtract(then, now)) <= TOLERANCE * scale).all():
        raise damaged(where, f"it scores two fixed images {now}, where {then} were written")
