"""All results with what they are worth, as one object, and the files of numbers that are made from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from sslood.core.files import load_json, save_json, save_text
from sslood.core.threads import blas_threads
from sslood.report.checks import check_evaluation, check_probe
from sslood.report.columns import DECISIONS, DIGITS, FILTERED, HEADLINE, MAIN, SECOND, SUMMARISED
from sslood.report.decisions import KnownSide, with_decisions
from sslood.report.ensembles import Swept, read_sweeps
from sslood.report.evidence import (
    NEAR_BEST,
    NEAR_CONTROL,
    Audit,
    in_whole_groups,
    near_best,
    near_control,
    of_roles,
    read_audit,
    with_audit,
    with_significance,
)
from sslood.report.frame import (
    Key,
    RunSettings,
    ScoreFiles,
    accuracies,
    by_group,
    collect,
    informed,
    left_out,
    mistakes,
    over_seeds,
    result_files,
    rounded,
)
from sslood.report.price import Choice, choices, with_price


@dataclass(frozen=True)
class Summary:
    """The results of one run of the pipeline.

    rows: one per stage, model, detector, seed and set. accuracy, mistakes: of classifiers, see frame.py.
    margin: AUROC above the artefact control up to which a result is marked. roles: {OOD set: near or far}.
    left_out: rows that the sets do not allow, with their reasons. alarms: false alarms of each run at the
    rate `alpha`, see decisions.py; classes: of the ID set; shifted: sets that count as ID. choices: {model:
    what `auto` chose}. sweeps: of ensembles, see ensembles.py.
    """

    id: str
    rows: pd.DataFrame
    accuracy: pd.DataFrame
    mistakes: pd.DataFrame
    audit: Audit
    margin: float
    roles: Mapping[str, str]
    left_out: pd.DataFrame
    alarms: pd.DataFrame
    alpha: float
    classes: Sequence[str]
    shifted: Sequence[str]
    choices: Mapping[str, list[Choice]] = field(default_factory=dict)
    sweeps: Mapping[str, Swept] = field(default_factory=dict)

    @cached_property
    def metrics(self) -> list[str]:
        return [name for name in SUMMARISED if name in self.rows.columns]

    @cached_property
    def _measured(self) -> list[str]:
        return self.metrics + [name for name in DECISIONS if name in self.rows.columns]

    @cached_property
    def groups(self) -> pd.DataFrame:
        """Near and far averages of each model, detector and seed."""
        return by_group(self.rows, self._measured)

    @cached_property
    def by_role(self) -> pd.DataFrame:
        return over_seeds(self.groups, self._measured)

    @cached_property
    def by_set(self) -> pd.DataFrame:
        return over_seeds(self.rows, self._measured, by="set")

    @cached_property
    def filtered(self) -> pd.DataFrame | None:
        """The headline metrics by set without the images that the audit excludes, None if there are none."""
        if not self.audit.n_excluded:
            return None
        names = {f"{FILTERED}{name}": name for name in HEADLINE}
        rows = self.rows.drop(columns=list(HEADLINE)).rename(columns=names)
        return over_seeds(rows, HEADLINE, by="set")

    @cached_property
    def control(self) -> dict[str, float]:
        """AUROC of the artefact control, by set and by role."""
        by_set = self.audit.control()
        return by_set | of_roles(by_set, self.roles)

    @cached_property
    def near_best(self) -> set[Key]:
        """Keys, by set and by role, of results that are not significantly worse than the best."""
        by_set = near_best(self.rows)
        return by_set | in_whole_groups(by_set, self.roles)

    def marks(self, summary: pd.DataFrame, *, best: bool = True) -> dict[Key, str]:
        """Return {key of `summary`: † if near the control, and if `best` ‡ if near the best}."""
        low = near_control(summary, self.control, self.margin)
        high = self.near_best if best else set()
        marks = {
            key: NEAR_CONTROL * (key in low) + NEAR_BEST * (key in high) for key in summary.index.tolist()
        }
        return {key: mark for key, mark in marks.items() if mark}

    def best(self, summary: pd.DataFrame, by: str) -> dict[str, Key]:
        """Return {set or role: key with the highest mean AUROC}, the first of equal ones.

        `summary` is `by_set` or `by_role`. Detectors that are `informed` do not compete.
        """
        means = summary[(MAIN, "mean")]
        rivals = means[~informed(means.index.get_level_values("detector"))].dropna()
        return {name: part.idxmax() for name, part in rivals.groupby(level=by, sort=False)}

    def best_detectors(self) -> dict[str, str]:
        """Return {model: detector} with the highest mean of near and far AUROC, best model first."""
        rivals = self.groups[~informed(self.groups["detector"])]
        means = rivals.groupby(["model", "detector"], sort=False)[MAIN].mean().reset_index()
        best = means.loc[means.groupby("model", sort=False)[MAIN].idxmax()]
        best = best.sort_values(MAIN, ascending=False, kind="stable")
        return dict(zip(best["model"], best["detector"], strict=True))


def summarise(
    results: Path,
    scores: ScoreFiles,
    runs: RunSettings,
    roles: Mapping[str, str],
    audit: Path,
    margin: float,
    known: KnownSide,
    alpha: float,
) -> Summary:
    """Return the summary of the results that `runs` asks for; `results` is their folder, `audit` a file.

    known: what counts as ID. alpha: share of ID images that may be called OOD, for decisions.

    Raises InputError for whatever is missing, damaged, or does not fit the params.
    """
    audited = read_audit(audit, [scores.id, *roles])
    files = result_files(results, runs)
    probes = [(seed, results / "probe" / f"{seed}.json") for seed in runs.seeds]
    for file in files:
        check_evaluation(file.path)
    for _, path in probes:
        check_probe(path)
    with blas_threads(0):  # many small computations, and sums in the same order on every machine
        rows = with_price(with_audit(with_significance(collect(files, roles), scores), scores, audited))
        rows, alarms = with_decisions(rows, scores, known, alpha)
    ensembles = [file.path for file in files if "accuracy" in load_json(file.path)]
    return Summary(
        scores.id,
        rounded(rows),
        accuracies(probes, ensembles),
        mistakes(probes, ensembles),
        audited,
        margin,
        roles,
        left_out([*(file.path for file in files), *(path for _, path in probes)]),
        rounded(alarms),
        alpha,
        known.classes,
        known.shifted,
        choices(files),
        read_sweeps(file.path for file in files if file.stage == "ensemble"),
    )


def write_metrics(folder: Path, summary: Summary) -> None:
    """Write the numbers: the DVC metrics, summary.json, results.csv and alarms.csv; fractions.

    The DVC metrics are one small JSON per model and detector, and one per model: few, stable keys, which
    `dvc metrics show` and `dvc metrics diff` print.
    """
    for (model, detector), part in summary.by_role.groupby(level=["model", "detector"], sort=False):
        values = {
            f"{role}_{metric}": round(float(part.loc[(model, detector, role), (metric, "mean")]), DIGITS)
            for role in part.index.get_level_values("role")
            for metric in (MAIN, SECOND)
        }
        save_json(folder / "ood" / f"{model}.{detector}.json", values)
    for model, part in summary.accuracy.groupby("model", sort=False):
        means = part.drop(columns=["model", "seed"]).mean().dropna()
        values = {f"accuracy_{probe}": round(float(value), DIGITS) for probe, value in means.items()}
        save_json(folder / "accuracy" / f"{model}.json", values)
    save_json(folder / "summary.json", nested(summary.by_set, summary.metrics))
    table = summary.rows.drop(columns="file")
    save_text(folder / "results.csv", table.to_csv(index=False, lineterminator="\n"))
    save_text(folder / "alarms.csv", summary.alarms.to_csv(index=False, lineterminator="\n"))


def nested(by_set: pd.DataFrame, metrics: list[str]) -> dict:
    """Return {model: {detector: {set: {metric: {mean, std, n}}}}}; std is absent for one seed."""
    content: dict = {}
    for (model, detector, name), row in by_set.iterrows():
        place = content.setdefault(model, {}).setdefault(detector, {}).setdefault(name, {})
        for metric in metrics:
            parts = {part: float(row[(metric, part)]) for part in ("mean", "std")}
            place[metric] = {
                part: round(value, DIGITS) for part, value in parts.items() if not np.isnan(value)
            }
            place[metric]["n"] = int(row[(metric, "count")])
    return content
