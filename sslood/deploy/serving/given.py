"""What a request gives to decide about: pictures, or vectors of the model."""

from dataclasses import dataclass

import numpy as np

from sslood.core.names import shown
from sslood.deploy.serving.limits import Limits, Refused

LONGEST = 1024  # characters of a name that is given back


@dataclass(frozen=True)
class Upload:
    """A picture as it came: its name, which may be shown anywhere, and the bytes of its file."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Vectors:
    """Names of N images, their vectors float32 [N, D] and, if given, logits float32 [N, K]."""

    names: list[str]
    vectors: np.ndarray
    logits: np.ndarray | None


def name_of(text: str) -> str:
    """Return a client's name of a picture as text that may be shown anywhere."""
    return shown(text)[:LONGEST]


def too_many(limits: Limits) -> Refused:
    """Return the refusal of more pictures or vectors than a request may have."""
    return Refused(
        413,
        f"the request has more than the {limits.images} pictures or vectors that this server takes at once; "
        "send several requests, or start it with a larger --max_images",
    )
