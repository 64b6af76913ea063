"""Many large pictures through a detector file faster than torch's own kernels, to the same decisions.

onnxruntime fuses the network and keeps its maps in the layout of the processor's vectors; each core sees
pictures of its own, which it also decodes. Features differ from torch's in the last bits, as those of another
processor do. So that p-values, decisions and classes are those of `Deployed.decide` all the same, it judges
each picture whose score is within MARGIN times the largest difference seen of a calibration score, or whose
two likeliest classes are as close.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from sslood.core.batches import batches
from sslood.deploy.inputs import Inputs
from sslood.deploy.scorer import Decisions, Deployed
from sslood.nets.inference.extract import extract, outputs
from sslood.ood.kit.outputs import Outputs

INPUT = "images"  # of the graph
FEW = 64  # pictures that are not worth opening the runtime for
LARGE = 96  # pixels of a side from which the runtime is faster; smaller pictures fill torch's batches
FIRST = 4  # pictures that are judged both ways before any is judged one way
MARGIN = 32.0  # times the largest difference seen
EPSILON = float(np.finfo(np.float32).eps)
WORST = 1e-3  # of the spread of calibration scores: a runtime that differs by more is not used
CONTINUOUS = {  # detectors whose score jumps nowhere, or only where the likeliest class changes
    *("knn", "mahalanobis", "rmds", "gmm", "ssd", "known_bad", "vim", "residual"),
    *("energy", "msp", "max_logit", "entropy", "gen"),
}


class Quick:
    """The decisions of a `Deployed` scorer about many pictures.

    look: one uint8 picture [C, size, size] -> its features, in whatever thread; the runtime uses that alone.
    """

    def __init__(self, deployed: Deployed, session: Any):
        self.deployed, self.session = deployed, session
        self.rest = copy.copy(deployed.network)
        self.rest._modules = {**deployed.network._modules, "backbone": nn.Identity()}
        metadata = deployed.metadata
        mean, std = (np.array(metadata[key])[:, None, None] for key in ("mean", "std"))
        self.scale, self.shift = (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)
        self.difference: dict[str, float] = {}
        self.again = 0  # pictures that were judged by torch too

    def look(self, picture: np.ndarray) -> np.ndarray:
        """Return the features [D] of one picture."""
        pixels = picture[None].astype(np.float32, order="C")
        pixels *= self.scale
        pixels -= self.shift
        found: np.ndarray = self.session.run(None, {INPUT: pixels})[0][0]
        return found

    def decide(self, images: np.ndarray, features: np.ndarray) -> Decisions:
        """Return what `Deployed.decide` says of images [N, C, size, size]; features [N, D]: of `look`."""
        if not self.difference:
            self._measure(images[:FIRST], features[:FIRST])
        if not self.usable:
            return self.deployed.decide(images)
        found, logits = self._decided(features)
        doubtful = np.flatnonzero(self._doubtful(found.scores, logits))
        if not len(doubtful):
            return found
        self.again += len(doubtful)
        exact = self.deployed.decide(images[doubtful])
        predicted = [*found.predicted]
        for place, name in zip(doubtful, exact.predicted, strict=True):
            predicted[place] = name
        for name in ("scores", "p_values", "is_ood"):
            getattr(found, name)[doubtful] = getattr(exact, name)
        return replace(found, predicted=predicted)

    @property
    def usable(self) -> bool:
        """Whether the runtime gives what torch gives, up to rounding."""
        spread = float(np.ptp(self.deployed.calibrated.calibration))
        return self.difference.get("scores", 0.0) <= WORST * spread

    def _decided(self, features: np.ndarray) -> tuple[Decisions, np.ndarray | None]:
        with torch.inference_mode():
            parts: Mapping[str, torch.Tensor] = outputs(self.rest, torch.from_numpy(features))
        arrays: dict[str, Any] = {key: value.float().numpy() for key, value in parts.items()}
        logits = arrays.get("logits")
        return self.deployed.decided(Inputs(Outputs("images", **arrays)), logits), logits

    def _measure(self, images: np.ndarray, features: np.ndarray) -> None:
        """Compare with torch on some pictures."""
        found, logits = self._decided(features)
        metadata, spread = self.deployed.metadata, float(np.ptp(self.deployed.calibrated.calibration))
        parts = extract(self.deployed.network, batches(images, 1), mean=metadata["mean"], std=metadata["std"])
        exact, exact_logits = self._decided(parts["features"])
        differences = np.abs(found.scores - exact.scores)
        self.difference["scores"] = max(float(differences.max()), EPSILON * spread)
        if logits is not None and exact_logits is not None:
            most = float(np.abs(logits - exact_logits).max())
            self.difference["logits"] = max(most, EPSILON * float(np.abs(logits).max()))

    def _doubtful(self, scores: np.ndarray, logits: np.ndarray | None) -> np.ndarray:
        """Return bool [N]: whether rounding could change the p-value or the class."""
        margin = MARGIN * self.difference["scores"]
        calibration = self.deployed.calibrated.calibration
        low, high = (np.searchsorted(calibration, scores + way * margin) for way in (-1.0, 1.0))
        doubtful: np.ndarray = low != high
        if logits is not None and logits.shape[1] > 1:
            two = np.partition(logits, -2, axis=1)[:, -2:]
            doubtful |= np.abs(two[:, 1] - two[:, 0]) <= MARGIN * self.difference["logits"]
        return doubtful


def quick(deployed: Deployed, count: int) -> Quick | None:
    """Return how `count` pictures are judged faster; None where `Deployed.decide` is to judge them.

    That is so for few or small pictures, without onnxruntime, on a GPU, and for networks and detectors that
    this way does not cover.
    """
    if count < FEW or deployed.metadata["size"] < LARGE:
        return None
    calibrated = deployed.calibrated
    covered = calibrated.detectors.keys() <= CONTINUOUS and calibrated.combination in (None, "sum")
    if not covered or deployed.model is None:
        return None
    if next(deployed.model.parameters()).device.type != "cpu" or deployed.model.dtype != torch.float32:
        return None
    if not (find_spec("onnx") and find_spec("onnxruntime")):
        return None
    kept = deployed.__dict__  # opened once for a scorer
    if "quick" not in kept:
        kept["quick"] = _open(deployed)
    found: Quick | None = kept["quick"]
    return found


def _open(deployed: Deployed) -> Quick | None:
    import onnxruntime

    from sslood.deploy.quick.graph import Unsupported, graph_of

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # each thread has pictures of its own
    options.log_severity_level = 4
    shape = deployed.metadata["channels"], deployed.metadata["size"]
    try:
        model = graph_of(deployed.network.backbone, *shape)
    except Unsupported:
        return None
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:  # the runtime refuses the graph; its errors share no other class
        return None
    return Quick(deployed, session)
