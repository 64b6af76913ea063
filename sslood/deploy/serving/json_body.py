"""A request's body as JSON: pictures in base64, or vectors."""

import base64
import json
from typing import Any

import numpy as np

from sslood.core.errors import as_line
from sslood.deploy.serving.given import LONGEST, Upload, Vectors, name_of, too_many
from sslood.deploy.serving.limits import Limits, Refused

_IMAGES = '{"images": [{"name": "a.jpg", "data": "<base64>"}, …]}, or strings of base64 alone'
_VECTORS = '{"vectors": [[…], …]}, with lists `ids` and `logits` of the same length if you like'


def from_json(content: bytes, limits: Limits, width: int) -> list[Upload] | Vectors:
    """Return what a body gives; width: numbers that one image has, its vector's and logits.

    Raises Refused (400, 413) for what is neither of the two forms, and for more than so many images have.
    """
    most = limits.images * (width + LONGEST)  # names may have brackets and commas too
    if sum(map(content.count, (b"[", b"{", b","))) > most:  # as objects they take 20 times their bytes
        raise Refused(
            413,
            f"the body has more lists or numbers than {limits.images} vectors of the detector's model; send "
            "several requests, or start the server with a larger --max_images",
        )
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not valid JSON ({as_line(error)}); send {_IMAGES}") from None
    keys = value.keys() if isinstance(value, dict) else set()
    lists = all(isinstance(value[key], list) for key in keys)
    if lists and keys == {"images"}:
        if len(value["images"]) > limits.images:
            raise too_many(limits)
        return [_picture(entry, f"images[{place}]") for place, entry in enumerate(value["images"])]
    if lists and {"vectors"} <= keys <= {"vectors", "ids", "logits"}:
        if max(map(len, value.values())) > limits.images:
            raise too_many(limits)
        return _vectors(**value)
    raise Refused(400, f"the body has other keys than it may, or no lists; send {_IMAGES}; or {_VECTORS}")


def _picture(entry: Any, place: str) -> Upload:
    """Return the picture of one entry of `images`, which `place` names in messages."""
    found = {"data": entry} if isinstance(entry, str) else entry
    if not isinstance(found, dict) or not {"data"} <= found.keys() <= {"data", "name"}:
        raise Refused(400, f"{place} is neither base64 nor an object of `data` and `name`; send {_IMAGES}")
    data, name = found["data"], found.get("name", place)
    if not isinstance(data, str) or not isinstance(name, str):
        raise Refused(400, f"{place} has a `data` or `name` that is no text; send {_IMAGES}")
    if data.startswith("data:"):  # as a browser writes the content of a file
        data = data.partition(",")[2]
    try:
        return Upload(name_of(name), base64.b64decode(data, validate=True))
    except ValueError as error:
        reason = f"its data is no base64 ({as_line(error)}); encode the bytes of the file"
        raise Refused(400, f"{place}: {reason}") from None


def _vectors(vectors: list, ids: list | None = None, logits: list | None = None) -> Vectors:
    names = [f"vectors[{place}]" for place in range(len(vectors))] if ids is None else ids
    if len(names) != len(vectors) or (logits is not None and len(logits) != len(vectors)):
        count = f"{len(vectors)} vector{'s' * (len(vectors) != 1)}"
        raise Refused(400, f"the body has {count}, and not as many ids or logits; send {_VECTORS}")
    if not all(isinstance(name, str | int) for name in names):
        raise Refused(400, "an ID is neither text nor a whole number; make them texts")
    texts = [name_of(str(name)) for name in names]
    return Vectors(texts, _matrix(vectors, "vectors"), None if logits is None else _matrix(logits, "logits"))


def _matrix(rows: list, key: str) -> np.ndarray:
    """Return float32 [N, width]; what float32 cannot hold is infinite."""
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    for place, row in enumerate(rows):
        if not isinstance(row, list) or not row or {*map(type, row)} - {int, float}:
            raise Refused(400, f"{key}[{place}] is no list of numbers; send {_VECTORS}")
        if len(row) != width:
            wide = f"{key}[{place}] has {len(row)} numbers, and {key}[0] has {width}"
            raise Refused(400, f"{wide}; send those of one model")
    try:
        with np.errstate(over="ignore"):
            return np.array(rows, np.float64).astype(np.float32).reshape(len(rows), width)
    except OverflowError:
        raise Refused(400, f"`{key}` has a whole number that is too large; send floats") from None
