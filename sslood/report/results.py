"""Results of the evaluation stages as one long table, and what is averaged over it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_json

KEYS = ["stage", "model", "detector", "seed", "set", "role"]
EVALUATIONS = ("posthoc", "ssd", "ssdk")  # stages with one results file a seed
# larger is better for these, smaller for the rest
RISING = {"auroc", "aupr_in", "aupr_out", "aupr_in_balanced", "aupr_out_balanced"}


@dataclass(frozen=True)
class Runs:
    """The section `runs` of params.yaml: what is run."""

    seeds: tuple[int, ...]
    objectives: tuple[str, ...]
    inits: tuple[str, ...]
    energy_inits: tuple[str, ...]
    energy_modes: tuple[str, ...]
    leaveout_backbones: tuple[str, ...]
    network_models: tuple[str, ...]
    stochastic_seeds: tuple[int, ...]
    adopted: tuple[str, ...] = ()
    finetune_inits: tuple[str, ...] = ()
    finetune_labels: tuple[float, ...] = ()


def result_files(results: Path, runs: Runs) -> list[tuple[str, int, Path]]:
    """Return (stage, seed, path) of every results file that the params ask for; never a glob."""
    files = [(stage, seed, results / stage / f"{seed}.json") for stage in EVALUATIONS for seed in runs.seeds]
    files += [("stochastic", seed, results / "stochastic" / f"{seed}.json") for seed in runs.stochastic_seeds]
    files += [
        ("network", seed, results / "network" / f"{model}-{seed}.json")
        for model in runs.network_models
        for seed in runs.seeds
    ]
    ensembles = [
        ("ensemble", runs.seeds[0], results / "ensemble" / f"{name}.json") for name in runs.leaveout_backbones
    ]
    return files + ensembles


def collect(files: Iterable[tuple[str, int, Path]], roles: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per stage x model x detector x seed x set, one column per metric.

    `files` holds (stage, seed, path of a results JSON); `roles` maps each set to near or far.
    Raises InputError if a file is missing or names a set that `roles` does not know.
    """
    rows = []
    for stage, seed, path in files:
        for model, detectors in load_json(path)["models"].items():
            for detector, sets in detectors.items():
                for name in sets.keys() - roles.keys():
                    raise InputError(
                        f"{path}: holds set {name!r}, which params.yaml does not list; run `dvc repro`"
                    )
                for name in [name for name in roles if name in sets]:  # the order of the params
                    keys = (stage, model, detector, seed, name, roles[name])
                    rows.append(dict(zip(KEYS, keys, strict=True)) | sets[name])
    if not rows:
        raise InputError("no results to summarise: `evaluate.models` in params.yaml is empty")
    return pd.DataFrame(rows)


def by_group(rows: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return near and far averages: unweighted means over sets, per model x detector x seed x role."""
    keys = ["model", "detector", "seed", "role"]
    return rows.groupby(keys, sort=False)[metrics].mean().reset_index()


def over_seeds(groups: pd.DataFrame, metrics: list[str], by: str = "role") -> pd.DataFrame:
    """Return mean, std (n - 1; NaN for one seed) and n over seeds, per model x detector x `by`.

    Columns: model, detector, `by`, then (metric, "mean" | "std" | "n").
    """
    return groups.groupby(["model", "detector", by], sort=False)[metrics].agg(["mean", "std", "count"])


def accuracies(probes: Iterable[tuple[int, Path]], ensembles: Iterable[Path] = ()) -> pd.DataFrame:
    """Return one row per model x seed of test accuracies: columns knn, linear, head, ensemble.

    `probes` holds (seed, results of the probe stage), `ensembles` the results of the ensemble stage.
    """
    rows = []
    for seed, path in probes:
        for model, found in load_json(path)["models"].items():
            values = {probe: result["accuracy"] for probe, result in found.items()}
            rows.append({"model": model, "seed": seed} | values)
    for path in ensembles:
        for model, value in load_json(path)["accuracy"].items():
            rows.append({"model": model, "seed": None, "ensemble": value})
    return pd.DataFrame(rows)


def scores_file(folder: Path, stage: str, model: str, seed: int) -> Path:
    """Return the file with the scores of a row; some stages name it after the model too."""
    names = {"ensemble": model.removeprefix("leaveout_"), "network": f"{model}-{seed}"}
    return folder / stage / f"{names.get(stage, seed)}.safetensors"
