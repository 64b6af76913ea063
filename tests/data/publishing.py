"""Archives in the publishers' formats, made of noise and offered by the local server."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.io import savemat

from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.source import SetSettings, all_sources

SOURCES = all_sources()
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
    """Return a source with its files at the local server, their checksums and `changes`."""
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
        for file in SOURCES[name].published
        if file.name in bodies
    )
    return replace(SOURCES[name], published=files, **{"per_class": {}, **changes})


def read_source(source, role="far", **keys):
    """Return (splits, origin) of a source for a role."""
    return source.read(source.name, ROLES[role], SetSettings(role=role, source=source.name, **keys))


def fetched(source, role="far"):
    """Return the splits of a source for a role."""
    return read_source(source, role)[0]
