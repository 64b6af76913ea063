"""Settings of the machine: environment variables, never params, so that they re-run nothing.

SSLOOD_DEVICE     auto (default: cuda, then mps, then cpu), cpu, cuda, cuda:1, mps
SSLOOD_THREADS    CPU threads of torch (default: torch's own choice)
SSLOOD_COMPILE    auto (default: on for cuda), 0, 1
SSLOOD_SCRATCH    folder for checkpoints of unfinished runs (default: scratch)
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from sslood.core.errors import InputError
from sslood.core.precision import Precision, has_float64
from sslood.core.renamed import VARIABLES


@dataclass(frozen=True)
class Machine:
    """Where and how a stage computes."""

    device: torch.device
    compile: bool
    scratch: Path


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
        device = torch.device("meta")  # refused below
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(
            f"environment variable SSLOOD_DEVICE is {name!r}; use auto, cpu, cuda, cuda:N or mps"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(
            f"SSLOOD_DEVICE asks for {name}, but torch finds none; unset it or set SSLOOD_DEVICE=cpu"
        )
    # torch keeps the number in 8 bits, so that of a large one is negative
    if device.type == "cuda" and not 0 <= (device.index or 0) < torch.cuda.device_count():
        raise InputError(
            f"SSLOOD_DEVICE asks for {name}, but torch sees {torch.cuda.device_count()} CUDA device(s); "
            "unset it or set SSLOOD_DEVICE=cpu"
        )
    return device


def machine(precision: Precision = "float32") -> Machine:
    """Read the environment, set torch's thread count, and return the settings.

    A device that cannot compute in `precision` leaves the work to the CPU, with a line on stderr. Raises
    InputError if a variable has an unknown value or asks for a device that is not there.
    """
    for name in VARIABLES.keys() & os.environ.keys():
        raise InputError(f"environment variable {name} is gone: {VARIABLES[name]}; unset it")
    threads = os.environ.get("SSLOOD_THREADS")
    if threads is not None:
        if not threads.isdecimal() or len(threads) > 4 or int(threads) < 1:
            raise InputError(
                f"environment variable SSLOOD_THREADS is {threads!r}; use a number from 1 to 9999"
            )
        torch.set_num_threads(int(threads))
    device = _device()
    if precision == "float64" and not has_float64(device):
        print(f"{device} cannot compute in float64, which the params ask for; using the CPU", file=sys.stderr)
        device = torch.device("cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes stay the same: search the fastest kernel of each once
    compiled = _choice("SSLOOD_COMPILE", ("auto", "0", "1"))
    return Machine(
        device=device,
        compile=compiled == "1" or (compiled == "auto" and device.type == "cuda"),
        scratch=Path(os.environ.get("SSLOOD_SCRATCH") or "scratch"),
    )
