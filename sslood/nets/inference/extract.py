"""Forward passes for evaluation: eval mode, batch by batch, the same whatever else is in the batch."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.data.images.resident import normalise
from sslood.nets.networks.files import Model

Arrays = dict[str, np.ndarray]


def outputs(model: Model, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return features [N, D] and, where the model has them, logits [N, K] and projections [N, P].

    A model whose embedding is a Gaussian gives its mu and log_variance too. `images` are normalised floats
    on the model's device.
    """
    found = model.embedded(images)
    if model.head is not None:
        found["logits"] = model.head(found["features"])
    return found


@torch.inference_mode()
def extract(
    model: Model, images: Iterator[torch.Tensor], *, mean: Sequence[float], std: Sequence[float]
) -> Arrays:
    """Return `outputs` of a stream of image batches as float32 arrays, in order.

    Batches are uint8, or floats in [0, 1], [B, C, H, W]. The model is put into eval mode. Always full float32
    (neither bf16 nor TF32): detectors invert covariances of these features. InputError on an empty stream.
    """
    model.eval()
    device = next(model.parameters()).device
    parts: dict[str, list[np.ndarray]] = {}
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for batch in images:
            for key, value in outputs(model, normalise(batch.to(device), mean, std)).items():
                parts.setdefault(key, []).append(value.float().cpu().numpy())
    if not parts:
        raise InputError("a split without images cannot be embedded; write the set again")
    return {key: np.concatenate(value) for key, value in parts.items()}


def batches(images: np.ndarray, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield uint8 images [N, C, H, W] as tensors of at most `batch_size`, in order."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))


def check_finite(arrays: Arrays, *, model: str, where: str) -> None:
    """Raise InputError naming the model, the set and how many images have a NaN or infinite value."""
    for key, values in arrays.items():
        bad = int((~np.isfinite(values).reshape(len(values), -1).all(1)).sum())
        if bad:
            raise InputError(
                f"model {model!r}, set {where!r}: {bad} of {len(values)} images have {key} that are NaN "
                f"or infinite; the training has diverged: lower its learning rate"
            )


def check_batch_invariance(
    model: Model,
    images: np.ndarray,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    name: str,
    count: int = 16,
) -> None:
    """Raise InputError unless an image has the same outputs alone and in a batch, to 1e-3 of their size.

    Batch normalisation that uses the statistics of the batch shows here as a difference of order one;
    what remains between batch sizes in float32 is rounding.
    """
    probe = images[:count]
    together = extract(model, batches(probe, count), mean=mean, std=std)
    alone = extract(model, batches(probe, 1), mean=mean, std=std)
    for key, values in together.items():
        scale = np.abs(values).max()
        if np.isfinite(scale) and np.abs(values - alone[key]).max() > 1e-3 * scale + 1e-6:
            raise InputError(
                f"model {name!r}: the {key} of an image depend on the other images of its batch, so no score "
                f"of it can be trusted; use a network whose layers do not mix images in eval mode"
            )
