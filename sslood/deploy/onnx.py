"""A deployed scorer as one ONNX graph: from uint8 images to score, p-value, decision and predicted class."""

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
from sslood.nets.inference.extract import outputs
from sslood.ood.kit.combining import Combiner
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import NetworkDetector

OPSET = 18
LARGEST = 2**31  # bytes of one protobuf file


class Scorer(nn.Module):
    """uint8 images [N, C, size, size] -> (score, p_value, is_ood[, predicted_class]), each [N].

    The network computes in float32, the detector in float64, as `Deployed.decide` does.
    """

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.network = deployed.network.to("cpu").to(memory_format=torch.contiguous_format)
        metadata, calibrated = deployed.metadata, deployed.calibrated
        self.mean, self.std = torch.tensor(metadata["mean"]), torch.tensor(metadata["std"])
        self.detector = Together(calibrated)
        self.calibration = torch.from_numpy(np.array(calibrated.calibration))  # a copy: files are memory maps
        self.threshold = calibrated.threshold.value

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        parts = outputs(self.network, normalise(images, self.mean, self.std))
        score = self.detector({part: value.double() for part, value in parts.items()})
        above = (self.calibration >= score[:, None]).double().sum(1)
        # not `score > threshold`: an image whose score is NaN is not to pass as ID
        decided = (score, (1.0 + above) / (len(self.calibration) + 1), ~(score <= self.threshold))
        return (*decided, parts["logits"].argmax(1)) if "logits" in parts else decided


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
    kept: dict[str, Any] = {
        "input": f"images: uint8 (batch, {channels}, {size}, {size}), values 0 to 255, "
        f"{'grey' if channels == 1 else 'RGB'}; any batch size",
        "preprocessing": f"resize as in training: {metadata['resize']}; the graph divides by 255 and "
        "normalises with mean and std itself",
        **({"levels": metadata["levels"]} if metadata.get("levels") else {}),
        "mean": metadata["mean"],
        "std": metadata["std"],
        "score": "larger = more out-of-distribution",
        "p_value": "conformal, small = out-of-distribution",
        "is_ood": "score above the threshold",
        "threshold": calibrated.threshold.value,
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
    names = ["score", "p_value", "is_ood", *(["predicted_class"] if metadata["head_classes"] else [])]
    program = torch.onnx.export(
        scorer,
        (example,),
        input_names=["images"],
        output_names=names,
        opset_version=OPSET,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch.onnx.export returned no program")
    proto = program.model_proto
    onnx.helper.set_model_props(proto, contract(deployed))
    with atomic(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return names
