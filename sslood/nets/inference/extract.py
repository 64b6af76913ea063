"""Forward passes for evaluation: eval mode, batch by batch, the same whatever else is in the batch."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from sslood.core.batches import batches as batches
from sslood.core.batches import normalised
from sslood.core.errors import InputError
from sslood.core.precision import Precision, autocast, dtype_of
from sslood.core.rounding import on_grid
from sslood.nets.networks.model import Model

Arrays = dict[str, np.ndarray]


def outputs(model: Model, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return features [N, D] and, where the model has them, logits [N, K] and projections [N, P].

    A model whose embedding is a Gaussian gives its mu and log_variance too. `images` are normalised floats
    on the model's device.
    """
    parts = model.embedded(images)
    if model.head is not None:
        parts["logits"] = model.head(parts["features"])
    return parts


@torch.inference_mode()
def extract(
    model: Model,
    images: Iterable[torch.Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    precision: Precision = "float32",
) -> Arrays:
    """Return `outputs` of a stream of image batches as float32 arrays, in order.

    Batches are uint8, or floats in [0, 1], [B, C, H, W]. The model is put into eval mode and, with float64,
    into that type. Never TF32: detectors invert covariances of these features. In float64 they are rounded
    (`on_grid`), which makes the arrays the same on all CPUs. InputError on an empty stream.
    """
    model.eval().to(dtype_of(precision))
    device = next(model.parameters()).device
    parts: dict[str, list[np.ndarray]] = {}
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for batch in normalised(images, mean, std, device=device, dtype=model.dtype):
            with autocast(device, precision):
                result = outputs(model, batch)
            for key, value in result.items():
                parts.setdefault(key, []).append(value.to(model.dtype).cpu().numpy())
    if not parts:
        raise InputError("a split without images cannot be embedded; write the set again")
    arrays = {key: np.concatenate(value) for key, value in parts.items()}
    if precision == "float64":
        arrays = {key: on_grid(values) for key, values in arrays.items()}
    return {key: values.astype(np.float32, copy=False) for key, values in arrays.items()}


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
    precision: Precision = "float64" if model.dtype == torch.float64 else "float32"
    together = extract(model, batches(probe, count), mean=mean, std=std, precision=precision)
    alone = extract(model, batches(probe, 1), mean=mean, std=std, precision=precision)
    for key, values in together.items():
        scale = np.abs(values).max()
        if np.isfinite(scale) and np.abs(values - alone[key]).max() > 1e-3 * scale + 1e-6:
            raise InputError(
                f"model {name!r}: the {key} of an image depend on the other images of its batch, so no "
                f"score of it means anything; use a network whose layers do not mix images in eval mode"
            )
