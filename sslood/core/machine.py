"""Settings of the machine: environment variables, never params, so that they re-run nothing.

SSLOOD_DEVICE     auto (default: cuda, then mps, then cpu), cpu, cuda, cuda:1, mps
SSLOOD_PRECISION  auto (default: bf16 on cuda, and in training of large networks on CPUs that have units
                  for it, else fp32), fp32, bf16
SSLOOD_THREADS    CPU threads of torch (default: torch's own choice)
SSLOOD_COMPILE    auto (default: on for cuda), 0, 1
SSLOOD_SCRATCH    folder for checkpoints of unfinished runs (default: scratch)
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sslood.core.errors import InputError
from sslood.core.processor import multiplies_bf16

LARGE = 1_000_000  # weights


@dataclass(frozen=True)
class Machine:
    """Where and how a stage computes."""

    device: torch.device
    bf16: bool
    compile: bool
    scratch: Path
    bf16_large: bool = False  # bf16 for training networks of LARGE weights or more

    def for_training(self, network: torch.nn.Module) -> "Machine":
        """Return the settings for training a network: a large one with bf16 where the CPU has units for it.

        Speed of a SimCLR step with bf16 over float32 on two cores of an AMD EPYC (avx512_bf16), batch 256 at
        32 px: ResNet-18 (11 million weights) 2.4, resnet-20-16 (0.3) 1.9, resnet-8-16 (0.08) 1.4; at 16 px
        and batch 64, as in the quickstart, 1.3. The small ones stay in float32: they take minutes anyway, and
        their results then do not depend on what the CPU has.
        """
        large = self.bf16_large and sum(weight.numel() for weight in network.parameters()) >= LARGE
        return replace(self, bf16=True) if large else self

    def autocast(self) -> AbstractContextManager:
        """Context for forward passes: bf16 autocast where chosen, nothing else."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


def _choice(name: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(name, "auto")
    if value not in allowed:
        raise InputError(f"environment variable {name} is {value!r}; use one of {', '.join(allowed)}")
    return value


def _device() -> torch.device:
    name = os.environ.get("SSLOOD_DEVICE", "auto")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(
            f"environment variable SSLOOD_DEVICE is {name!r}; use auto, cpu, cuda, cuda:N or mps"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(
            f"SSLOOD_DEVICE asks for {name}, but torch finds none; unset it or set SSLOOD_DEVICE=cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"SSLOOD_DEVICE asks for {name}, but torch sees {torch.cuda.device_count()} CUDA device(s); "
            "unset it or set SSLOOD_DEVICE=cpu"
        )
    return device


def machine() -> Machine:
    """Read the environment, set torch's thread count, and return the settings.

    Raises InputError if a variable has an unknown value or asks for a device that is not there.
    """
    threads = os.environ.get("SSLOOD_THREADS")
    if threads is not None:
        if not threads.isdecimal() or int(threads) < 1:
            raise InputError(
                f"environment variable SSLOOD_THREADS is {threads!r}; use a number of at least 1"
            )
        torch.set_num_threads(int(threads))
    device = _device()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes stay: the fastest kernel of each is looked for once
    precision = _choice("SSLOOD_PRECISION", ("auto", "fp32", "bf16"))
    compiled = _choice("SSLOOD_COMPILE", ("auto", "0", "1"))
    auto = precision == "auto"
    return Machine(
        device=device,
        bf16=precision == "bf16" or (auto and device.type == "cuda"),
        compile=compiled == "1" or (compiled == "auto" and device.type == "cuda"),
        scratch=Path(os.environ.get("SSLOOD_SCRATCH") or "scratch"),
        bf16_large=auto and device.type == "cpu" and multiplies_bf16(),
    )
