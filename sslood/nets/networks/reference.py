"""What a model computes for one fixed image: a record that tells when the code computes something else.

Weights load into any code that has the same names and shapes. A stage that loads a model does not declare
the code of its backbone, so the record must show a change of it: editing a backbone so that it computes
something else re-runs the stages that train with it, changes the record, hence the file, and so all that
reads it. A comment changes nothing.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError, as_line
from sslood.core.rounding import decimal
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.model import Model
from sslood.nets.networks.user_architectures import is_own

TOLERANCE = 1e-4  # relative to the norm
PROJECTIONS = 3


def numbers(count: int, key: int) -> np.ndarray:
    """Return `count` pseudo-random numbers float64 of mean 0 and variance 1, uniform, for ever the same.

    SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) at the positions after `key` * 2^32;
    no generator of a library, whose stream may change with its version.
    """
    with np.errstate(over="ignore"):
        bits = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(key << 32)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
    return (uniform - 0.5) * 12**0.5


@torch.inference_mode()
def reference_answer(model: Model, card: ModelCard) -> dict[str, list[float]]:
    """Return {"features": [norm, three projections]} and, with a head, "logits", of one fixed image.

    The model, on the CPU, is not changed. Computed in float64 and eval mode, rounded to 6
    significant digits. A user's architecture, which may not compute in float64, in float32.
    """
    precision = torch.float32 if is_own(card.arch) else torch.float64
    network = copy.deepcopy(model).to(precision).eval()
    shape = (1, card.channels, card.size, card.size)
    image = torch.from_numpy(numbers(card.channels * card.size**2, 0).reshape(shape)).to(precision)
    features = network.features(image)
    answers = {"features": features}
    if card.head_classes is not None:
        answers["logits"] = network.need_head()(features)
    return {name: _digest(answer[0].double()) for name, answer in answers.items()}


def _digest(answer: Tensor) -> list[float]:
    """Return norm and projections of a vector [D], rounded."""
    directions = torch.from_numpy(numbers(PROJECTIONS * len(answer), 1).reshape(PROJECTIONS, -1))
    values = [answer.norm().item(), *(directions @ answer / len(answer) ** 0.5).tolist()]
    return [decimal(value) + 0.0 for value in values]  # + 0.0: no minus zero


def check_reference(model: Model, card: ModelCard, where: str | Path) -> None:
    """Raise InputError if the model computes something else than when the file `where` was written."""
    for name, now in reference_answer(model, card).items():
        then = card.reference.get(name, [])
        if not _agree(then, now):
            raise InputError(
                f"{where}: the weights load, but this code computes other {name} than when the file was "
                f"written (norm {then[:1]} then, {now[:1]} now{_library(card)}); {card.again}"
            )


def _library(card: ModelCard) -> str:
    """Say which version of another library the file was written with, if its network is of one."""
    library = card.network.get("library")
    return f", with {as_line(library, 40)} then" if library else ""


def _agree(then: list[float], now: list[float]) -> bool:
    """Whether two digests differ by at most TOLERANCE of the norm; NaN agrees with nothing."""
    return len(then) == len(now) and np.allclose(then, now, rtol=0, atol=TOLERANCE * now[0])
