"""Results of the evaluation stages as one long table, their scores, and averages over sets and seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_json, load_tensors
from sslood.core.settings import Settings, read_section, strict
from sslood.ood.measures.comparison import Scores
from sslood.report.columns import DIGITS

Key = tuple[str, str, str]  # model, detector, set or role
EVALUATIONS = ("posthoc", "ssd", "ssdk")  # stages with one results file per seed
MISTAKES = ("error", "aurc", "eaurc", "mistakes_auroc", "mistakes_fpr95", "ece", "members_ece")


@dataclass(frozen=True)
class RunSettings(Settings):
    """The keys of the section `runs` of params.yaml that say which results exist."""

    seeds: Annotated[tuple[int, ...], "seeds of the models"]
    leaveout_backbones: Annotated[tuple[str, ...], "leave-out ensembles"]
    leaveout_losses: Annotated[tuple[str, ...], "of their members"]
    network_models: Annotated[tuple[str, ...], "models that are evaluated by the stage `network`"]
    stochastic_seeds: Annotated[tuple[int, ...], "seeds that are evaluated by the stage `stochastic`"]
    deep_models: Annotated[tuple[str, ...], "classifiers whose seeds are a deep ensemble"] = ()


def informed(detectors: Iterable[str]) -> np.ndarray:
    """Return which detectors have seen images of the OOD set that they are tested on: bool [N].

    These are the rows of the stage ssdk, and that of published steps for each set. They are never called the
    best.
    """
    return np.array([is_informed(name) for name in detectors], bool)


def is_informed(detector: str) -> bool:
    """Return `informed` of one detector."""
    return detector in ("ssdk", "eloc_published") or detector.startswith("ssdk_")


class ResultsFile(NamedTuple):
    """The results of one run of an evaluation stage; the file of its scores has the same name."""

    stage: str
    seed: int
    path: Path


def read_runs(where: str) -> RunSettings:
    """Return the settings at FILE:KEY; keys that concern other stages are ignored."""
    own = RunSettings.__dataclass_fields__
    return strict(
        RunSettings, {key: value for key, value in read_section(where).items() if key in own}, where
    )


def result_files(results: Path, runs: RunSettings) -> list[ResultsFile]:
    """Return the results files that the params ask for; never whatever lies in the folder."""
    names = [(stage, seed, f"{seed}") for stage in EVALUATIONS for seed in runs.seeds]
    names += [("stochastic", seed, f"{seed}") for seed in runs.stochastic_seeds]
    names += [("network", seed, f"{model}-{seed}") for model in runs.network_models for seed in runs.seeds]
    kinds = [f"{backbone}-{loss}" for backbone in runs.leaveout_backbones for loss in runs.leaveout_losses]
    names += [("ensemble", runs.seeds[0], kind) for kind in kinds]
    names += [("deep_ensemble", runs.seeds[0], model) for model in runs.deep_models]
    return [ResultsFile(stage, seed, results / stage / f"{name}.json") for stage, seed, name in names]


def collect(files: Iterable[ResultsFile], roles: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per stage, model, detector, seed and set, with one column per metric.

    `roles` maps each set to near or far, in the order in which sets are shown. The column `file` names the
    file of scores. Raises InputError if a file is missing or holds a set that is not in `roles`.
    """
    rows: list[dict[str, Any]] = []
    for stage, seed, path in files:
        for model, detectors in load_json(path)["models"].items():
            for detector, sets in detectors.items():
                for name in sets.keys() - roles.keys():
                    raise InputError(
                        f"{path}: holds set {name!r}, which params.yaml does not list; run `dvc repro`"
                    )
                keys = {"file": path.stem, "stage": stage, "model": model, "detector": detector, "seed": seed}
                rows += [
                    {**keys, "set": name, "role": role, **sets[name]}
                    for name, role in roles.items()
                    if name in sets
                ]
    if not rows:
        reasons = {row["reason"] for file in files for row in load_json(file.path).get("left_out", [])}
        why = f"all is left out: {'; '.join(sorted(reasons))}" if reasons else "`evaluate.models` is empty"
        raise InputError(f"no results to summarise: {why}; change evaluate.models or sets in params.yaml")
    return pd.DataFrame(rows)


def left_out(files: Iterable[Path]) -> pd.DataFrame:
    """Return one row per model, detector and set that the sets do not allow, with its reason.

    "" stands for all detectors, or all sets; `files` are results of evaluations and probes.
    """
    rows = [row for path in files for row in load_json(path).get("left_out", [])]
    return pd.DataFrame(rows, columns=["model", "detector", "set", "reason"]).drop_duplicates()


def rounded(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` with all fractions rounded, so that no later step sees the noise of a machine.

    Whatever is averaged, compared, marked or printed comes from these numbers.
    """
    return rows.round(DIGITS)


class ScoreFiles:
    """The scores behind the rows of `collect`; each file is opened once."""

    def __init__(self, folder: Path, id_name: str):
        self.folder, self.id = folder, id_name
        self._files: dict[Path, dict[str, np.ndarray]] = {}

    def path(self, row: Mapping[str, Any]) -> Path:
        """Return the file that holds the scores of a row."""
        return self.folder / row["stage"] / f"{row['file']}.safetensors"

    def read(self, row: Mapping[str, Any]) -> tuple[Scores, np.ndarray]:
        """Return the scores of a row, and the positions of its OOD images in the test split.

        Raises InputError if the file is missing or does not hold them.
        """
        path = self.path(row)
        arrays = self._arrays(path)
        prefix = f"{row['model']}.{row['detector']}"
        # SSD_k and published steps score the ID images anew for every OOD set
        inside = arrays.get(f"{prefix}.{self.id}.{row['set']}", arrays.get(f"{prefix}.{self.id}"))
        outside = arrays.get(f"{prefix}.{row['set']}")
        if inside is None or outside is None:
            raise InputError(
                f"{path}: no scores of {prefix} for {row['set']}; run `dvc repro {row['stage']}` again"
            )
        # the images that SSD_k knows are not among its test images
        positions = arrays.get(f"{prefix}.{row['set']}.index", np.arange(len(outside)))
        return Scores(inside, outside), positions

    def beside(self, row: Mapping[str, Any], shifted: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the scores of a row for ID validation and for `shifted` sets, as far as they were kept."""
        arrays, prefix = self._arrays(self.path(row)), f"{row['model']}.{row['detector']}"
        names = (self.validation_of(self.id), *shifted)
        return {name: arrays[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in arrays}

    def predicted(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """Return the classes that a row's model predicts for ID test images [N], None if nobody kept them."""
        for path in (self.path(row), self.folder / "posthoc" / f"{row['seed']}.safetensors"):
            key = f"{row['model']}.predicted.{self.id}"
            if path.is_file() and key in self._arrays(path):
                return self._arrays(path)[key]
        return None

    @staticmethod
    def validation_of(id_name: str) -> str:
        """Return the name under which evaluations keep the scores of ID validation."""
        return f"{id_name}.validation"

    def _arrays(self, path: Path) -> dict[str, np.ndarray]:
        if path not in self._files:
            self._files[path] = load_tensors(path, kind="scores")[0]
        return self._files[path]


def by_group(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return near and far averages: unweighted means over sets, per model, detector, seed and role.

    A row that lacks a set of the role has no average: it would be over other sets than its rivals'.
    """
    keys, sets = ["model", "detector", "seed", "role"], rows.groupby("role")["set"].nunique()
    grouped = rows.groupby(keys, sort=False)
    means, counts = grouped[list(metrics)].mean().reset_index(), grouped["set"].nunique().to_numpy()
    return means[counts == means["role"].map(sets)].reset_index(drop=True)


def over_seeds(groups: pd.DataFrame, metrics: Sequence[str], by: str = "role") -> pd.DataFrame:
    """Return mean, std (n - 1; NaN for one seed) and count over seeds, per model, detector and `by`.

    The index is (model, detector, `by`), the columns are (metric, "mean" | "std" | "count").
    """
    grouped = groups.groupby(["model", "detector", by], sort=False)[list(metrics)]
    return grouped.agg(["mean", "std", "count"])


def accuracies(probes: Iterable[tuple[int, Path]], ensembles: Iterable[Path] = ()) -> pd.DataFrame:
    """Return one row per model and seed of test accuracies: columns knn, linear, head, ensemble, members.

    `probes` holds (seed, results of the stage probe), `ensembles` those of ensemble and deep_ensemble;
    members: the mean over those of the former, each on the images of the classes that it knows.
    """
    rows = []
    for seed, path in probes:
        for model, probed in load_json(path)["models"].items():
            values = {probe: result["accuracy"] for probe, result in probed.items()}
            rows.append({"model": model, "seed": seed} | values)
    for path in ensembles:
        found = load_json(path)
        for model, value in found["accuracy"].items():
            more = _of_members(found, model, "accuracy", "members")
            rows.append({"model": model, "seed": None, "ensemble": value, **more})
    return rounded(pd.DataFrame(rows)) if rows else pd.DataFrame(columns=["model", "seed"])


def mistakes(probes: Iterable[tuple[int, Path]], ensembles: Iterable[Path] = ()) -> pd.DataFrame:
    """Return one row per classifier and seed: how well it knows its own mistakes, columns MISTAKES.

    `probes` holds (seed, results of the stage probe), `ensembles` the results of the stage ensemble, each of
    which is a classifier too; members_ece: the mean of its members' calibration errors, each on the images of
    the classes that it knows. Empty if no model has a head.
    """
    rows: list[dict[str, Any]] = []
    for seed, path in probes:
        for model, probed in load_json(path)["models"].items():
            head = probed.get("head", {})
            if "aurc" in head:
                values = {"error": 1 - head["accuracy"], **head}
                rows.append({"model": model, "seed": seed} | {name: values.get(name) for name in MISTAKES})
    for path in ensembles:
        found = load_json(path)
        for model, own in found.get("mistakes", {}).items():
            more = _of_members(found, model, "ece", "members_ece")
            rows.append({"model": model, "seed": None, **own, **more})
    frame = pd.DataFrame(rows, columns=["model", "seed", *MISTAKES])
    return rounded(frame.astype(dict.fromkeys(MISTAKES, float)))


def _of_members(found: Mapping[str, Any], model: str, what: str, column: str) -> dict[str, float]:
    """Return {column: the mean of `what` over an ensemble's members}, {} if its results name none."""
    own = [member[what] for member in found.get("members", {}).get(model, {}).values()]
    return {column: float(np.mean(own))} if own else {}
