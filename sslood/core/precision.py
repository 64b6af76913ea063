"""Precision of a computation: a setting that results depend on, so it stands in the params.

float64 gives the same results on every CPU: what kernels and thread counts change is rounding of 1e-16, of
which a training makes 1e-13, and `sslood.core.rounding` takes that away from what is stored. float32 and bf16
are faster, and depend on the machine.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float64", "float32", "bf16"]


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the dtype of parameters, buffers and images; that of bf16 is float32, under `autocast`."""
    return torch.float64 if precision == "float64" else torch.float32


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Context for forward passes: with bf16, torch's automatic mixed precision; else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Return what autocast left in half precision as float32, and anything wider as it is."""
    return x.float() if x.dtype.itemsize < 4 else x


def has_float64(device: torch.device) -> bool:
    """Whether torch can compute in float64 on a device (Apple's GPUs cannot)."""
    return device.type != "mps"


def standard_normal(size: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Return draws from N(0, 1) on the generator's device (None: torch's default generator, the CPU).

    They are float64 where the device has it: torch's float32 normals of AVX2 kernels and of generic ones
    differ in the last digits, while its float64 normals and its uniform numbers agree.
    """
    device = torch.device("cpu") if generator is None else generator.device
    dtype = torch.float64 if has_float64(device) else torch.float32
    return torch.randn(tuple(size), dtype=dtype, device=device, generator=generator)
