"""A deployed scorer as one ONNX graph: from uint8 images to score, p-value, decision and predicted class.

The rate of false alarms is an optional input, so that it can be changed after export.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslood.core.batches import normalise
from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.deploy.calibrated import KINDS, Calibrated
from sslood.deploy.scorer import Deployed
from sslood.deploy.thresholds import ROUNDING
from sslood.nets.inference.extract import outputs
from sslood.ood.kit.combining import Combiner
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import NetworkDetector

OPSET = 18
LARGEST = 2**31  # bytes of one protobuf file


class Scorer(nn.Module):
    """uint8 images [N, C, size, size], alpha [1], fdr [1] -> (score, p_value, is_ood[, predicted_class]).

    All are [N]. OOD is a p-value of at most alpha, as `Deployed.decide` says for the alpha of its threshold;
    where fdr is above 0, what `discoveries` says of the N images together. The network computes in float32,
    the detector in float64, as `Deployed.decide` does.
    """

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.network = deployed.network.to("cpu").to(memory_format=torch.contiguous_format)
        metadata, calibrated = deployed.metadata, deployed.calibrated
        self.mean, self.std = torch.tensor(metadata["mean"]), torch.tensor(metadata["std"])
        self.detector = Together(calibrated)
        self.p_values = PValues(calibrated)

    def forward(self, images: Tensor, alpha: Tensor, fdr: Tensor) -> tuple[Tensor, ...]:
        parts = outputs(self.network, normalise(images, self.mean, self.std))
        score = self.detector({part: value.double() for part, value in parts.items()})
        p_value = self.p_values(score, parts.get("logits"))
        together = fdr > 0
        # ONNX runtimes lack `where` of booleans. An image whose score is NaN is not to pass as ID.
        is_ood = (
            (together & (p_value <= cut(p_value, fdr))) | (~together & ~(p_value > alpha)) | score.isnan()
        )
        decided = (score, p_value, is_ood)
        return (*decided, parts["logits"].argmax(1)) if "logits" in parts else decided


def cut(p: Tensor, rate: Tensor) -> Tensor:
    """Return the largest p-value that Benjamini and Hochberg's method rejects at a rate [1], 0 if none: [].

    p: float64 [N]. By the operations of `discoveries`, in an order that ONNX can express.
    """
    ordered = p.sort().values
    ones = torch.ones_like(ordered)
    rejected = ordered * (ones.sum() / ones.cumsum(0)) <= rate * (1 + ROUNDING)
    return torch.where(rejected, ordered, torch.zeros_like(ordered)).amax(0)


class PValues(nn.Module):
    """Scores float64 [N] and logits [N, K], if there are any -> conformal p-values [N].

    They are among all calibration images or, if classes have thresholds, those of the predicted class.
    """

    def __init__(self, calibrated: Calibrated):
        super().__init__()
        by_class = calibrated.by_class
        self.calibration = torch.from_numpy(np.array(calibrated.calibration))  # a copy: files are memory maps
        self.predicted = None if by_class is None else torch.from_numpy(np.array(by_class.predicted))

    def forward(self, score: Tensor, logits: Tensor | None) -> Tensor:
        above = self.calibration >= score[:, None]
        if self.predicted is None or logits is None:
            return (1.0 + above.double().sum(1)) / (len(self.calibration) + 1)
        own = self.predicted == logits.argmax(1)[:, None]
        return (1.0 + (above & own).double().sum(1)) / (1.0 + own.double().sum(1))


class Together(nn.Module):
    """Parts (name -> float64 [N, width]) -> the score [N] of a detector, or of those that are combined."""

    def __init__(self, calibrated: Calibrated):
        super().__init__()
        scorers = [_exportable(detector).scorer() for detector in calibrated.detectors.values()]
        self.scorers, by = nn.ModuleList(scorers), calibrated.combination
        self.combiner = None if by is None else Combiner(calibrated.references, by)

    def forward(self, parts: dict[str, Tensor]) -> Tensor:
        scores = torch.stack([scorer(parts) for scorer in self.scorers], 1)
        return scores[:, 0] if self.combiner is None else self.combiner(scores)


def contract(deployed: Deployed) -> dict[str, str]:
    """Return the metadata of the file: all that a user of the graph must know."""
    metadata, calibrated = deployed.metadata, deployed.calibrated
    size, channels = metadata["size"], metadata["channels"]
    head = metadata["head_classes"]
    names = None if head is None else [str(metadata["classes"][place]) for place in head]
    by_class = calibrated.by_class
    limit = "the threshold" if by_class is None else "the threshold of the predicted class"
    kept: dict[str, Any] = {
        "input": f"images: uint8 (batch, {channels}, {size}, {size}), values 0 to 255, "
        f"{'grey' if channels == 1 else 'RGB'}; any batch size",
        "preprocessing": f"resize as in training: {metadata['resize']}; the graph divides by 255 and "
        "normalises with mean and std itself",
        **({"levels": metadata["levels"]} if metadata.get("levels") else {}),
        "mean": metadata["mean"],
        "std": metadata["std"],
        "score": "larger = more out-of-distribution",
        "p_value": "conformal, small = out-of-distribution"
        + ("" if by_class is None else ", among the calibration images of the predicted class"),
        "is_ood": f"score above {limit}; by the optional inputs alpha and fdr otherwise",
        "alpha_input": f"alpha: float64 (1,), optional, by default {calibrated.threshold.alpha}: is_ood is a "
        f"p_value of at most alpha, of which there is none below {1 / (calibrated.fewest + 1):.3g}",
        "fdr_input": "fdr: float64 (1,), optional, by default 0, which is not used: is_ood judges a batch "
        "together, so that at most the share fdr of those called OOD is expected to be ID",
        "threshold": calibrated.threshold.value if by_class is None else by_class.values,
        "alpha": calibrated.threshold.alpha,
        "calibration_images": calibrated.threshold.images,
        "catches": [asdict(catch) for catch in calibrated.catches],
        "warnings": calibrated.warnings(),
        "detector": calibrated.name,
        "model": metadata["name"],
        "id": metadata["id"],
        "classes": names,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in kept.items()}


def _rates(deployed: Deployed) -> dict[str, float]:
    """Return the optional inputs of the graph with their values by default."""
    return {"alpha": deployed.calibrated.threshold.alpha, "fdr": 0.0}


def exportable_names() -> list[str]:
    """Return the names of the detectors that can be written as a graph."""
    return sorted(
        name for name, kind in KINDS.items() if issubclass(kind, Detector) and not kind.unexportable
    )


def _exportable(detector: Detector | NetworkDetector) -> Detector:
    """Return the detector; TypeError if it runs the network itself, which `check_exportable` refuses."""
    if not isinstance(detector, Detector):
        raise TypeError(f"{type(detector).__name__} scores images, not outputs")
    return detector


def check_exportable(deployed: Deployed, where: str | Path) -> None:
    """Raise InputError if the detector cannot be written as a graph, with the reason and those that can."""
    calibrated, size = deployed.calibrated, 0
    if calibrated.combination == "cauchy":
        raise _refusal(deployed, where, "ONNX runtimes lack the arctangent of float64, which `cauchy` needs")
    for detector in calibrated.detectors.values():
        reason = detector.unexportable if isinstance(detector, Detector) else "it runs the network itself"
        if reason:
            raise _refusal(deployed, where, reason)
        size += sum(array.nbytes for array in (detector.state or {}).values())
    if size >= LARGEST:
        raise InputError(
            f"{where}: the detector holds {size / 2**30:.1f} GiB, more than the 2 GiB of one ONNX file; "
            "choose one that keeps no bank of images"
        )


def _refusal(deployed: Deployed, where: str | Path, reason: str) -> InputError:
    return InputError(
        f"{where}: detector {deployed.calibrated.name!r} cannot be written as ONNX, since {reason}; "
        f"these can: {', '.join(exportable_names())}, and combinations of them by sum, fisher or simes"
    )


def export(deployed: Deployed, path: str | Path, *, where: str | Path) -> list[str]:
    """Write a scorer as ONNX and return the names of the outputs.

    `where` is named in messages. Raises InputError if the detector cannot be traced, or the packages of
    requirements-onnx.txt are not installed.
    """
    check_exportable(deployed, where)
    try:
        import onnx
        import onnxscript  # noqa: F401 - what torch writes graphs with
    except ImportError as error:
        raise InputError(
            f"writing ONNX needs the package {error.name!r}: pip install -r requirements-onnx.txt"
        ) from None
    scorer, metadata = Scorer(deployed).eval(), deployed.metadata
    example = torch.zeros(2, metadata["channels"], metadata["size"], metadata["size"], dtype=torch.uint8)
    rates = {name: np.array([value]) for name, value in _rates(deployed).items()}
    names = ["score", "p_value", "is_ood", *(["predicted_class"] if metadata["head_classes"] else [])]
    program = torch.onnx.export(
        scorer,
        (example, *map(torch.from_numpy, rates.values())),
        input_names=["images", *rates],
        output_names=names,
        opset_version=OPSET,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}, "alpha": None, "fdr": None},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch.onnx.export returned no program")
    proto = program.model_proto
    # an input with an initializer of its name need not be given
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(rate, name) for name, rate in rates.items())
    onnx.helper.set_model_props(proto, contract(deployed))
    with atomic(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return names
