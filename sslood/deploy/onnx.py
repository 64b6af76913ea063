"""A deployed scorer as one ONNX graph: from uint8 images to score, p-value, decision and predicted class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.data.images.resident import normalise
from sslood.deploy.graphs import FORMS
from sslood.deploy.scorer import Deployed
from sslood.nets.inference.extract import outputs

OPSET = 18
LARGEST = 2**31  # bytes of one protobuf file


class Scorer(nn.Module):
    """uint8 images [N, C, size, size] -> (score, p_value, is_ood[, predicted_class]), each [N].

    The network computes in float32, the detector in float64, as `Deployed.decide` does.
    """

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.network = deployed.model.to("cpu", memory_format=torch.contiguous_format)
        metadata, calibrated = deployed.metadata, deployed.calibrated
        self.mean, self.std = torch.tensor(metadata["mean"]), torch.tensor(metadata["std"])
        # copies: a file's arrays are memory maps
        state = {key: torch.from_numpy(np.array(a)) for key, a in calibrated.detector.state.items()}
        self.detector = FORMS[calibrated.name](state, calibrated.detector.settings)
        self.calibration = torch.from_numpy(np.array(calibrated.calibration))
        self.threshold = calibrated.threshold.value

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = outputs(self.network, normalise(images, self.mean, self.std))
        wide = {part: value.double() for part, value in found.items()}
        score = self.detector(wide)
        above = (self.calibration >= score[:, None]).double().sum(1)
        decided = (score, (1.0 + above) / (len(self.calibration) + 1), score > self.threshold)
        return (*decided, found["logits"].argmax(1)) if "logits" in found else decided


def contract(deployed: Deployed) -> dict[str, str]:
    """Return what a user of the graph must know, as the texts of the file's metadata."""
    metadata, calibrated = deployed.metadata, deployed.calibrated
    size, channels = metadata["size"], metadata["channels"]
    head = metadata["head_classes"]
    names = None if head is None else [str(metadata["classes"][place]) for place in head]
    kept: dict[str, Any] = {
        "input": f"images: uint8 (batch, {channels}, {size}, {size}), values 0 to 255, "
        f"{'grey' if channels == 1 else 'RGB'}; any batch size",
        "preprocessing": f"resize as in training: {metadata['resize']}; the graph divides by 255 and "
        "normalises with mean and std itself",
        "mean": metadata["mean"],
        "std": metadata["std"],
        "score": "larger = more out-of-distribution",
        "p_value": "conformal, small = out-of-distribution",
        "is_ood": "score above the threshold",
        "threshold": calibrated.threshold.value,
        "alpha": calibrated.threshold.alpha,
        "calibration_images": calibrated.threshold.images,
        "detector": calibrated.name,
        "model": metadata["name"],
        "id": metadata["id"],
        "classes": names,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in kept.items()}


def check_exportable(deployed: Deployed, where: str | Path) -> None:
    """Raise InputError if the detector has no graph, naming those that have one."""
    name = deployed.calibrated.name
    if name not in FORMS:
        raise InputError(
            f"{where}: detector {name!r} cannot be written as ONNX; these can: {', '.join(sorted(FORMS))}"
        )
    size = sum(array.nbytes for array in deployed.calibrated.detector.state.values())
    if size >= LARGEST:
        raise InputError(
            f"{where}: the detector holds {size / 2**30:.1f} GiB, more than the 2 GiB of one ONNX file; "
            "choose one that keeps no bank of images"
        )


def export(deployed: Deployed, path: str | Path, *, where: str | Path) -> list[str]:
    """Write a scorer as ONNX and return the names of the outputs.

    `where` is named in messages. Raises InputError if the detector has no graph, or the packages of
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
    proto = program.model_proto
    onnx.helper.set_model_props(proto, contract(deployed))
    with atomic(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return names
