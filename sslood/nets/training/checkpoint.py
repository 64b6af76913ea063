"""Checkpoints of unfinished runs, in a scratch folder, under a fingerprint of all that affects the run."""

import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from sslood.core.closure import TOP, import_closure
from sslood.core.files import atomic
from sslood.nets.training.ranks import from_first, rank


def fingerprint(options: Mapping[str, Any], inputs: Iterable[Path], *modules: str) -> str:
    """Return the SHA-256 of a run: its science options, its input files, and its code.

    `options` are JSON values (paths and tuples are taken as text and lists). `inputs` are hashed by
    content, folders file by file. The code is the import closure of `modules` inside the repository
    and the version of torch.
    """
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    digest.update(torch.__version__.encode())
    for path in map(Path, inputs):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    for file in import_closure(*modules):
        digest.update(str(file.relative_to(TOP)).encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class Checkpoint:
    """One file `<folder>/<name>.pt` that holds the state of an unfinished run and its fingerprint.

    Of several processes only the first reads and writes it; the others receive what it read.
    """

    def __init__(self, folder: Path, name: str, fingerprint: str):
        self.path = Path(folder) / f"{name}.pt"
        self.fingerprint = fingerprint

    def load(self) -> dict[str, Any] | None:
        """Return the saved state with its tensors on the CPU, or None if there is none.

        A file of another fingerprint, or one that cannot be read, is ignored, with a line on stderr.
        """
        return from_first(self._load)

    def _load(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            saved, state = content["fingerprint"], content["state"]
        except Exception:  # whatever a damaged file makes of the unpickler: the run starts anew
            self._warn("not a readable checkpoint")
            return None
        if saved != self.fingerprint:
            self._warn("belongs to other options, inputs or code")
            return None
        return state

    def _warn(self, why: str) -> None:
        print(f"{self.path}: {why}; ignored, starting from the beginning", file=sys.stderr)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write `state` (nested dicts and lists of tensors and plain values), all of it or nothing."""
        if rank() > 0:
            return
        content = io.BytesIO()  # torch's own writer turns a full disk into an unreadable RuntimeError
        torch.save({"fingerprint": self.fingerprint, "state": dict(state)}, content)
        with atomic(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def delete(self) -> None:
        """Remove the file, if there is one: the run is finished."""
        if rank() == 0:
            self.path.unlink(missing_ok=True)
