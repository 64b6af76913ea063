"""What an encoder is worth: accuracies of probes, metrics of detectors, and where its training ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd

from sslood.core.files import save_tensors
from sslood.core.machine import machine
from sslood.core.settings import Settings
from sslood.core.threads import blas_threads
from sslood.data.images.augment import AugmentSettings
from sslood.data.sets.roles.roles import ROLES, names_of_roles
from sslood.nets.inference.embed import EmbedSettings, embed_model
from sslood.nets.probing.model import probe_model
from sslood.nets.probing.probes import KNNProbeSettings, LinearProbeSettings
from sslood.nets.selfsup.kept import Kept
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.evaluation import evaluate
from sslood.ood.kit.outputs import read_embeddings
from sslood.ood.kit.results import Results

LAST = ("loss", "kl", "sigma", "spread", "effective_rank")  # of a training's curves, kept beside accuracies
Detectors = dict[str, tuple[type[Detector], Settings]]


@dataclass(frozen=True)
class Images:
    """Image sets: their entries by name, the folder of their files, and the name of the ID set."""

    sets: Mapping[str, Mapping[str, Any]]
    folder: str
    id: str

    @property
    def id_set(self) -> str:
        return f"{self.folder}/{self.id}.safetensors"

    @property
    def roles(self) -> dict[str, str]:
        """Return {set: role} of those that are embedded."""
        roles = names_of_roles(self.sets, "sets")
        return {name: role for name, role in roles.items() if ROLES[role].embedded}


@dataclass(frozen=True)
class Evaluation:
    """What is done with the encoder of every cell: its embeddings, probes and detectors."""

    embed: EmbedSettings
    knn: KNNProbeSettings
    linear: LinearProbeSettings
    detectors: Detectors
    images: int = 0  # of ID train that probes learn from, at most; 0 = all

    def recorded(self) -> dict[str, Any]:
        """Return all settings that affect the result."""
        parts = {"embed": self.embed, "knn": self.knn, "linear": self.linear}
        found: dict[str, Any] = {name: vars(settings) for name, settings in parts.items()}
        found["images"] = self.images
        return {**found, "detectors": {name: vars(own) for name, (_, own) in self.detectors.items()}}

    def code(self) -> tuple[str, ...]:
        """Return the modules whose code affects the result."""
        return __name__, *(kind.__module__ for kind, _ in self.detectors.values())


def evaluated(kept: Kept, seed: int, evaluation: Evaluation, images: Images, folder: Path) -> dict[str, Any]:
    """Return {"encoder": accuracies and last values of the curves, "scores": {detector: {set: metrics}},
    "left_out": {detector: reason}} of an encoder.

    folder: for its embeddings, which are deleted. Raises InputError as `embed_sets` and detectors do.
    """
    tensors, metadata = embed_model(
        str(kept.model), images.sets, images.folder, images.id,
        settings=evaluation.embed, recipe=AugmentSettings(), seed=seed,
    )  # fmt: skip
    model = metadata["model"]
    path = folder / f"{model}.safetensors"
    try:
        save_tensors(path, tensors, kind="embeddings", metadata=metadata)
        probed, _ = probe_model(
            str(path), metadata, evaluation.knn, evaluation.linear, seed=seed, judge_head=lambda *_: {},
            most=evaluation.images,
        )  # fmt: skip
        results = Results("sweep", seed, images.id)
        file = read_embeddings(folder, model, seed)
        with blas_threads(file.size):
            for _ in evaluate(file, evaluation.detectors, results, device=str(machine().device)):
                pass
    finally:
        rmtree(folder, ignore_errors=True)
    accuracies = {f"{probe}_accuracy": found["accuracy"] for probe, found in probed.items()}
    return {
        "encoder": {**accuracies, **_last(kept.curves)},
        "scores": results.models.get(model, {}),
        "left_out": {row["detector"]: row["reason"] for row in results.left_out},
    }


def _last(curves: Path) -> dict[str, float]:
    """Return the last values of a training's curves."""
    rows = pd.read_csv(curves)
    found = {name: rows[name].dropna() for name in LAST if name in rows}
    return {name: float(values.iloc[-1]) for name, values in found.items() if len(values)}
