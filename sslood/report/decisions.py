"""What results are worth to whoever uses a detector: one threshold, ID classes apart, ID under shift.

All of it comes from the scores that the evaluations kept, see `sslood.ood.kit.results.outputs_to_test`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.ood.measures.alarms import Rule, by_class, halved_rule, held_out_rule
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.measures.risk import aurc_with_ood
from sslood.report.columns import BY_CLASS, DECISIONS, FULL, HEADLINE
from sslood.report.frame import ScoreFiles, is_informed

RUN = ["stage", "file", "model", "detector", "seed"]  # rows with the same scores of ID images


@dataclass(frozen=True)
class KnownSide:
    """What counts as ID.

    id: name of the ID set; classes: its classes. labels: set -> int64 [N] of its test images, -1 unknown, of
    the ID set and of each set with role shifted.
    """

    id: str
    classes: Sequence[str]
    labels: Mapping[str, np.ndarray]

    @property
    def shifted(self) -> list[str]:
        return [name for name in self.labels if name != self.id]


def read_known(folder: Path, id_name: str, shifted: Sequence[str]) -> KnownSide:
    """Return what counts as ID from the set files of a folder; InputError if one is missing."""
    labels, classes = {}, {}
    for name in (id_name, *shifted):
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            raise InputError(f"{path}: no such file; run `dvc repro download`")
        tensors, metadata = load_tensors(path, kind="set", only=["test.labels"])
        labels[name], classes[name] = tensors["test.labels"], metadata["classes"]
    return KnownSide(id_name, classes[id_name], labels)


def with_decisions(
    rows: pd.DataFrame, scores: ScoreFiles, known: KnownSide, alpha: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `rows` (of `collect`) with the columns DECISIONS, and the false alarms of each run.

    The second frame has a row for each run and set that counts as ID: images, the share that is flagged at
    the rate `alpha`, by class too, how unequal the classes are, and the AUROC of a shifted set against ID
    test. Detectors that are `informed`, which have scores of their own for every OOD set, have no row there
    and no threshold. A column is NaN where there are no predicted classes, no shifted set, or too few images
    for a threshold, and absent where it is NaN for all. InputError for scores that do not fit the sets.
    """
    decided = pd.DataFrame(np.nan, rows.index, list(DECISIONS)).assign(calibrated_on="")
    alarms: list[dict[str, Any]] = []
    for _, part in rows.groupby(RUN, sort=False):
        first = part.iloc[0].to_dict()
        own, beside = _own(first, scores, known)
        rule = None if is_informed(first["detector"]) else _rule(beside, own, known, alpha)
        wrong, full = _wrong(first, scores, known), _full(own, beside, known)
        for label, row in zip(part.index, part.to_dict("records"), strict=True):
            values = _decide(scores.read(row)[0], rule, wrong, full)
            decided.loc[label, list(values)] = list(values.values())
        if rule is not None:
            decided.loc[part.index, "false_alarms"] = rule.of_id(own).mean()
            decided.loc[part.index, "calibrated_on"] = rule.source
            run = {key: first[key] for key in RUN if key != "file"}
            alarms += [run | row for row in _alarms(rule, own, beside, known)]
    columns = [key for key in RUN if key != "file"]
    columns += ["set", "images", "calibrated_on", "flagged", "spread", "p_equal", "auroc"]
    columns += [f"{BY_CLASS}{name}" for name in known.classes]
    present = decided.dropna(axis=1, how="all")
    return pd.concat([rows, present], axis=1), pd.DataFrame(alarms, columns=columns)


def _own(
    row: Mapping[str, Any], scores: ScoreFiles, known: KnownSide
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a run's scores of ID test images, and those of ID validation and shifted sets that it has."""
    own = scores.read(row)[0].id
    beside = {} if is_informed(row["detector"]) else scores.beside(row, known.shifted)
    for name, values in {known.id: own, **beside}.items():
        if name in known.labels and len(values) != len(known.labels[name]):
            raise InputError(
                f"{scores.path(row)}: {len(values)} scores for {len(known.labels[name])} test images of "
                f"{name!r}; run `dvc repro`"
            )
    return own, beside


def _full(own: np.ndarray, beside: Mapping[str, np.ndarray], known: KnownSide) -> np.ndarray | None:
    """Return the scores of all test images that count as ID; None without shifted sets, or their scores."""
    parts = [beside[name] for name in known.shifted if name in beside]
    return np.concatenate([own, *parts]) if parts and len(parts) == len(known.shifted) else None


def _rule(beside: Mapping[str, np.ndarray], own: np.ndarray, known: KnownSide, alpha: float) -> Rule | None:
    """Return the rule of `deploy`, or by halves where no scores of ID validation were kept."""
    validation = beside.get(ScoreFiles.validation_of(known.id))
    return halved_rule(own, alpha) if validation is None else held_out_rule(validation, alpha)


def _wrong(row: Mapping[str, Any], scores: ScoreFiles, known: KnownSide) -> np.ndarray | None:
    """Return which ID test images the model misclassifies, None without predicted classes or labels."""
    predicted, labels = scores.predicted(row), known.labels[known.id]
    if predicted is None or (labels < 0).any():
        return None
    return predicted != labels


def _decide(
    pair: Any, rule: Rule | None, wrong: np.ndarray | None, full: np.ndarray | None
) -> dict[str, float]:
    values: dict[str, float] = {}
    if full is not None:
        found = ood_metrics(full, pair.ood)
        values |= {f"{FULL}{name}": found[name] for name in HEADLINE}
    if rule is not None:
        values["flagged"] = rule.share(pair.ood)
    if wrong is not None:
        values |= aurc_with_ood(pair.id, wrong, pair.ood)
    return values


def _alarms(
    rule: Rule, own: np.ndarray, beside: Mapping[str, np.ndarray], known: KnownSide
) -> list[dict[str, Any]]:
    """Return the false alarms on ID test and on each shifted set, there the mean over the thresholds."""
    rows: list[dict[str, Any]] = []
    for name, labels in known.labels.items():
        if name == known.id:
            judged, auroc = [rule.of_id(own)], np.nan
        elif name in beside:
            judged = [beside[name] > threshold for threshold in rule.thresholds]
            auroc = ood_metrics(own, beside[name])["auroc"]
        else:
            continue
        parts = [by_class(flags, labels, len(known.classes)) for flags in judged]
        row = {"set": name, "images": len(labels), "calibrated_on": rule.source, "auroc": auroc}
        row |= {"flagged": float(np.mean(judged)), "spread": float(np.mean([part.spread for part in parts]))}
        row["p_equal"] = float(np.max([part.p_value for part in parts]))
        shares = np.mean([part.shares for part in parts], axis=0)
        rows.append(row | dict(zip((f"{BY_CLASS}{label}" for label in known.classes), shares, strict=True)))
    return rows
