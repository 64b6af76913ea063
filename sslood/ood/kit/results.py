"""The outputs of an evaluation: metrics of every detector and set, and the score of every image.

Both are the same on every machine. Processors add in different orders, so float64 scores differ from about
the 13th digit of their terms on: they are rounded, once, in `add`, before any metric is computed from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError, LeftOut
from sslood.core.files import save_json, save_tensors
from sslood.core.rounding import to_multiples
from sslood.core.settings import Settings
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Embeddings, Outputs, read_embeddings
from sslood.ood.measures.metrics import ood_metrics

Models = dict[str, dict[str, dict[str, Any]]]
SHIFTED = "shifted"  # role of sets that count as ID
PREDICTED = "predicted"  # in the place of a detector's name: classes instead of scores
BITS = 20  # of a score: steps of a millionth of the spread of ID scores, or of the distance from them


class Results:
    """Metrics and scores of one stage, collected detector by detector.

    chosen: what was set or selected, as {"value": ..., "source": ...} under a name.
    extra: more top-level keys of the JSON, e.g. "accuracy".
    left_out: rows that the sets do not allow, {"model", "detector", "set", "reason"} each; "" stands for all.
    """

    def __init__(self, stage: str, seed: int, id_name: str):
        self.stage, self.seed, self.id = stage, seed, id_name
        self.models: Models = {}
        self.chosen: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.scores: dict[str, np.ndarray] = {}
        self.roles: dict[str, str] = {}
        self.left_out: list[dict[str, str]] = []

    def leave_out(self, reason: LeftOut, model: str, detector: str = "", name: str = "") -> None:
        """Record why a model, a detector of it or that on one OOD set has no row."""
        row = {"model": model, "detector": detector, "set": name, "reason": reason.reason}
        self.left_out.append(row)

    def add(
        self, model: str, detector: str, scores: Mapping[str, np.ndarray], *, on_validation: bool = False
    ) -> None:
        """Compare the ID scores with those of each OOD set; `scores`: set -> float64 [N], ID set included.

        Those of ID validation and of sets with role shifted are kept without metrics, for `summarize`. With
        `on_validation`, the score was fitted on ID validation, and those of ID validation are not kept: a
        threshold from them would flag more of other ID images than it says. Raises LeftOut, naming model,
        detector and set, if a score is NaN or infinite.
        """
        if on_validation:
            scores = {name: own for name, own in scores.items() if name != validation_of(self.id)}
        for name, values in scores.items():
            if bad := int((~np.isfinite(values)).sum()):
                reason = (
                    f"{bad} of {len(values)} scores of {name!r} are NaN or infinite, which no metric counts"
                )
                raise LeftOut(reason, f"{model}, {detector}: ")
        unrounded = scores[self.id]
        scores = {name: rounded(values, unrounded) for name, values in scores.items()}
        inside = scores[self.id]
        self.models.setdefault(model, {})[detector] = {
            name: ood_metrics(inside, values) for name, values in scores.items() if self._is_ood(name)
        }
        self.scores |= {f"{model}.{detector}.{name}": values for name, values in scores.items()}

    def _is_ood(self, name: str) -> bool:
        return name not in (self.id, validation_of(self.id)) and self.roles.get(name) != SHIFTED

    def add_classes(self, model: str, predicted: np.ndarray) -> None:
        """Keep the classes that a model predicts for ID test images: int64 [N]."""
        self.scores[f"{model}.{PREDICTED}.{self.id}"] = predicted

    def scores_of(self, model: str, detector: str) -> dict[str, np.ndarray]:
        """Return the scores of a row that was added: set -> float64 [N]."""
        prefix = f"{model}.{detector}."
        found = {key: values for key, values in self.scores.items() if key.startswith(prefix)}
        return {key.removeprefix(prefix): values for key, values in found.items()}

    def repeat(self, model: str, detector: str, name: str) -> None:
        """Add a row that was added once more, under another name."""
        self.models[model][name] = self.models[model][detector]
        own = self.scores_of(model, detector)
        self.scores |= {f"{model}.{name}.{one}": values for one, values in own.items()}

    def record_settings(self, settings: Settings, prefix: str = "") -> None:
        """Record hyperparameters taken from the params."""
        for name, value in asdict(settings).items():
            key = f"{prefix}.{name}" if prefix else name
            self.chosen[key] = {"value": value, "source": "params"}

    def record_choice(
        self, settings: Settings, prefix: str, source: str, candidates: list[dict[str, Any]]
    ) -> None:
        """Record hyperparameters chosen from `candidates`, and on what (`source`)."""
        for name, value in asdict(settings).items():
            searched = any(name in candidate for candidate in candidates)
            entry = {"value": value, "source": source if searched else "params"}
            self.chosen[f"{prefix}.{name}"] = entry | ({"candidates": candidates} if searched else {})

    def save(self, results: str | Path, scores: str | Path, **metadata: Any) -> None:
        """Write both files. InputError if nothing was scored, unless it was left out."""
        if not self.models and not self.left_out:
            raise InputError(
                f"{self.stage}: no model has what the chosen detectors read; choose other models or detectors"
            )
        header = {"stage": self.stage, "seed": self.seed, "id": self.id, "sets": self.roles, **metadata}
        save_tensors(scores, self.scores, kind="scores", metadata=header)
        left_out = {"left_out": self.left_out} if self.left_out else {}
        save_json(results, {"models": self.models, "chosen": self.chosen, **self.extra, **left_out})

    def summary(self) -> str:
        """Return one sentence with the count and the range of AUROC."""
        values = [
            metrics["auroc"]
            for model in self.models.values()
            for sets in model.values()
            for metrics in sets.values()
        ]
        count = sum(len(detectors) for detectors in self.models.values())
        lines = [
            f"{' · '.join(filter(None, list(row.values())[:3]))} ({row['reason']})" for row in self.left_out
        ]
        note = f"; left out: {', '.join(lines)}" if lines else ""
        if not values:
            return f"no results{note}"
        parts = ((count, "detector"), (len(self.models), "model"), (len(values), "comparison"))
        detectors, models, comparisons = (f"{number} {word}{'s' * (number != 1)}" for number, word in parts)
        return f"{detectors} of {models}, {comparisons}, AUROC {min(values):.3f} to {max(values):.3f}{note}"


def rounded(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return scores [N], float64, without the digits that are rounding errors; their order stays.

    A score keeps `BITS` binary digits of its distance from the median of the ID scores `inside` or, nearer
    than that, of their median deviation: a score that varies in its fifth digit, as ODIN's at temperature
    1000, is not cut at its sixth. Where the median deviation is 0, as of many equal ID scores, the digits are
    of the score itself. Infinities stay.
    """
    finite = inside[np.isfinite(inside)]
    centre = float(np.median(finite)) if finite.size else 0.0
    spread = float(np.median(np.abs(finite - centre))) if finite.size else 0.0
    if spread > 0.0:
        centre = float(to_multiples(np.array(centre), spread, BITS))
    else:
        centre = 0.0
    distance = np.asarray(scores, np.float64) - centre
    return np.where(
        np.isfinite(distance),
        centre + to_multiples(distance, np.maximum(np.abs(distance), spread), BITS),
        scores,
    )


def results_of(
    stage: str, folder: str | Path, models: Sequence[str], seed: int
) -> tuple[Results, list[Embeddings]]:
    """Return (results of a stage, the embeddings of its models); models that were left out are recorded.

    Raises InputError as `read_embeddings` does.
    """
    files, reasons = [], {}
    for model in models:
        try:
            files.append(read_embeddings(folder, model, seed))
        except LeftOut as reason:
            reasons[model] = reason
    results = Results(stage, seed, files[0].id if files else "")
    for model, why in reasons.items():
        results.leave_out(why, model)
    return results, files


def outputs_to_test(embeddings: Embeddings) -> dict[str, Outputs]:
    """Return what is scored: test outputs of the ID set, of every OOD and shifted set, then ID validation.

    The last, "<id>.validation", is there unless the model was trained on it: thresholds come from its scores,
    where the detector was not fitted on it either.
    Raises InputError if there is no OOD set.
    """
    if not embeddings.ood_sets:
        raise InputError(f"{embeddings.path}: holds no set with role near or far; list some under `sets`")
    names = (embeddings.id, *embeddings.ood_sets, *embeddings.shifted_sets)
    tests = {name: embeddings.outputs(name, "test") for name in names}
    if not embeddings.saw_validation:
        tests[validation_of(embeddings.id)] = embeddings.outputs(embeddings.id, "validation")
    return tests


def validation_of(id_name: str) -> str:
    """Return the name under which the scores of ID validation are kept."""
    return f"{id_name}.validation"


def score_sets(detector: Detector, tests: Mapping[str, Outputs]) -> dict[str, np.ndarray]:
    """Return set -> float64 [N] from a fitted detector."""
    return {name: detector.score(outputs) for name, outputs in tests.items()}
