"""Archives in the publishers' formats, made of noise and offered by the local server."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.io import savemat

from sslood.data.fetching.catalogue import load_catalogue
from sslood.data.sets.sources import read_source

CATALOGUE = load_catalogue()
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def picture(kind: str, *shape: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(noise(*shape)).save(out, kind)
    return out.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def mat(**arrays) -> bytes:
    out = io.BytesIO()
    savemat(out, arrays)
    return out.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def offered(server, name: str, bodies: dict[str, bytes], **changes):
    """Return the catalogue's entry with its files at the local server, their checksums and `changes`."""
    server.bodies.update(bodies)
    files = tuple(
        replace(
            file,
            sources=(f"{server.address}/ok/{file.name}",),
            md5=md5(bodies[file.name]),
            size=len(bodies[file.name]),
            content="",
            installed=(),
        )
        for file in CATALOGUE[name].published
        if file.name in bodies
    )
    return replace(CATALOGUE[name], published=files, **{"per_class": {}, **changes})


def fetched(entry, role="far"):
    return read_source(entry.name, entry, None, role)[0]
