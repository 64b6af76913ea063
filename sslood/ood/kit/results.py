"""What an evaluation writes: metrics of every detector and set, and the score of every image."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import save_json, save_tensors
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.measures.metrics import ood_metrics

Models = dict[str, dict[str, dict[str, dict[str, float]]]]


class Results:
    """Metrics and scores of one stage, collected detector by detector.

    chosen: what was set or selected, as {"value": ..., "source": ...} under a name.
    extra: more top-level keys of the JSON, e.g. "accuracy".
    """

    def __init__(self, stage: str, seed: int, id_name: str):
        self.stage, self.seed, self.id = stage, seed, id_name
        self.models: Models = {}
        self.chosen: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.scores: dict[str, np.ndarray] = {}
        self.roles: dict[str, str] = {}

    def add(self, model: str, detector: str, scores: Mapping[str, np.ndarray]) -> None:
        """Compare the ID scores with those of each OOD set; `scores` maps set -> float64 [N], ID first."""
        found = {
            name: ood_metrics(scores[self.id], values) for name, values in scores.items() if name != self.id
        }
        self.models.setdefault(model, {})[detector] = found
        self.scores |= {f"{model}.{detector}.{name}": values for name, values in scores.items()}

    def settings(self, settings: Any, prefix: str = "") -> None:
        """Record hyperparameters that stand in params.yaml."""
        for name, value in asdict(settings).items():
            key = f"{prefix}.{name}" if prefix else name
            self.chosen[key] = {"value": value, "source": "params"}

    def found(self, settings: Any, prefix: str, source: str, candidates: list[dict[str, Any]]) -> None:
        """Record hyperparameters that were chosen from `candidates`, and on what (`source`)."""
        for name, value in asdict(settings).items():
            searched = any(name in candidate for candidate in candidates)
            entry = {"value": value, "source": source if searched else "params"}
            self.chosen[f"{prefix}.{name}"] = entry | ({"candidates": candidates} if searched else {})

    def save(self, results: str | Path, scores: str | Path, **metadata: Any) -> None:
        """Write both files. InputError if nothing was scored."""
        if not self.models:
            raise InputError(
                f"{self.stage}: no model has what the chosen detectors read; choose other models or detectors"
            )
        about = {"stage": self.stage, "seed": self.seed, "id": self.id, "sets": self.roles, **metadata}
        save_tensors(scores, self.scores, kind="scores", metadata=about)
        save_json(results, {"models": self.models, "chosen": self.chosen, **self.extra})

    def summary(self) -> str:
        """Return one sentence with the count and the range of AUROC."""
        values = [
            metrics["auroc"]
            for model in self.models.values()
            for sets in model.values()
            for metrics in sets.values()
        ]
        count = sum(len(detectors) for detectors in self.models.values())
        return (
            f"{count} detectors of {len(self.models)} models, {len(values)} comparisons, "
            f"AUROC {min(values):.3f} to {max(values):.3f}"
        )


def outputs_to_test(embeddings: Embeddings) -> dict[str, Outputs]:
    """Return the test outputs of the ID set, then of every OOD set; InputError if there is no OOD set."""
    if not embeddings.ood_sets:
        raise InputError(f"{embeddings.path}: holds no set with role near or far; list some under `sets`")
    return {name: embeddings.outputs(name, "test") for name in (embeddings.id, *embeddings.ood_sets)}


def score_sets(detector: Detector, tests: Mapping[str, Outputs]) -> dict[str, np.ndarray]:
    """Return set -> float64 [N] from a fitted detector."""
    return {name: detector.score(outputs) for name, outputs in tests.items()}
