"""What a training against outliers changed: energies, detection and accuracy before and after."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_json
from sslood.core.settings import read_section
from sslood.report.cells import MISSING, Code, Table, percent
from sslood.report.checks import check_energies
from sslood.report.columns import MAIN
from sslood.report.summary import Summary

FEW = 4  # models that have a column each; more have a row each
ARROW, ROLES, TIMES = " → ", ("near", "far"), ("before", "after")
WITHIN = 0.05, 0.95  # levels of the quantiles beside a mean
SHOWN = {"validation": "ID", "auxiliary": "outliers"}
METRICS = {"auroc": "AUROC", "fpr95_id": "FPR95"}  # those that every detector is compared by
CHOSEN = {  # what was measured after each epoch to choose by, see `choice` of the training
    "validation_accuracy": "accuracy on ID validation",
    "validation_auroc": "AUROC on tuning outliers",
    "validation_oscr": "OSCR on both",
}
MISTAKES = {"accuracy": ("accuracy", 1), "aurc": ("AURC ×10³", 10), "ece": ("calibration error", 1)}


class Trained(NamedTuple):
    """A model that was trained against outliers, the one that it started from, energies of each seed."""

    model: str
    start: str
    energies: list[dict[str, Any]]


def read_trained(folder: Path, where: str) -> list[Trained]:
    """Return the models that the section `runs` at FILE:KEY trains against outliers, with their energies.

    folder: of the energies. Those without energies, because a set does not allow them, are left out.
    InputError if a file is missing or damaged.
    """
    runs, found = read_section(where), []
    for loss, mode, start in product(
        *(runs.get(key, ()) for key in ("outlier_losses", "energy_modes", "energy_inits"))
    ):
        model = f"{loss}_{mode}_{start}"
        files = [folder / f"{model}-{seed}.json" for seed in runs["seeds"]]
        if missing := [file for file in files if not file.is_file()]:
            raise InputError(f"{missing[0]}: no such file; run `dvc repro energy`")
        for file in files:
            check_energies(file)
        energies = [content for content in map(load_json, files) if "left_out" not in content]
        found += [Trained(model, start, energies)] * bool(energies)
    return found


def before_and_after(summary: Summary, trained: Sequence[Trained]) -> Table | None:
    """Return measures x models, cells "before → after", means over seeds; None if nothing was trained.

    Of more than FEW models, models x measures. Energies are medians, and means with quantiles, over images;
    AUROC and FPR95, near / far, are those of the rows `energy` and `msp`. Below stand what was chosen, and
    how many outliers were left out, where that was so. What was not evaluated is "–".
    """
    if not trained:
        return None
    rows: list[list[str]] = [
        [f"{measure}, {title}", *(cell(one, name) for one in trained)]
        for (measure, cell), (name, title) in product(ENERGIES.items(), SHOWN.items())
    ]
    for detector, (metric, title) in product(("energy", "msp"), METRICS.items()):
        cells = (
            _pair([_near_far(summary, m, detector, metric) for m in (one.start, one.model)])
            for one in trained
        )
        rows.append([f"{title} of {detector}, near / far", *cells])
    for name, (title, factor) in MISTAKES.items():
        cells = (
            _pair([_mistake(summary, m, name, factor) for m in (one.start, one.model)]) for one in trained
        )
        rows.append([title, *cells])
    rows += [*_chosen(trained), *_left_out(trained)]
    table = Table(["before → after", *(Code(one.model) for one in trained)], rows)
    return turned(table) if len(trained) > FEW else table


def turned(table: Table) -> Table:
    """Return the table with rows as columns; the corner stays."""
    lines = list(zip(table.header, *table.rows, strict=True))
    return Table([str(name) for name in lines[0]], [list(line) for line in lines[1:]])


def by_set(summary: Summary, trained: Sequence[Trained], detector: str = "energy") -> Table | None:
    """Return models x OOD sets, cells "before → after": the AUROC of a detector in %, means over seeds.

    None for a single model. A start without a classifier has no energy: "–".
    """
    if len(trained) < 2:
        return None
    names, means = list(summary.roles), summary.by_set[(MAIN, "mean")]

    def text(model: str, name: str) -> str:
        return percent(means.get((model, detector, name), float("nan")))

    rows = [
        [Code(one.model), *(_pair([text(model, name) for model in (one.start, one.model)]) for name in names)]
        for one in trained
    ]
    return Table(["model", *map(Code, names)], rows)


def changes(summary: Summary, trained: Sequence[Trained]) -> Table | None:
    """Return detectors x models, changes of AUROC and FPR95, near / far, in points; None if none.

    Of more than FEW models, models x detectors.
    """
    names = list(dict.fromkeys(summary.by_role.index.get_level_values("detector")))
    rows = []
    for detector in names:
        cells = [_change(summary, one, detector, metric) for one, metric in product(trained, METRICS)]
        if set(cells) - {MISSING}:
            rows.append([Code(detector), *cells])
    header = [f"{one.model}, {title}" for one, title in product(trained, METRICS.values())]
    table = Table(["detector", *header], rows)
    return (turned(table) if len(trained) > FEW else table) if rows else None


def panels(trained: Sequence[Trained]) -> dict[str, dict[str, Any]]:
    """Return {model: edges and histograms of energies} of the first seed, for `figures.energies`."""
    return {
        one.model: {
            "edges": one.energies[0]["edges"],
            **{
                f"{title} {time}": one.energies[0][time][name]["counts"]
                for (name, title), time in product(SHOWN.items(), TIMES)
            },
        }
        for one in trained
    }


def _pair(texts: Sequence[str]) -> str:
    return ARROW.join(texts)


def _medians(one: Trained, name: str) -> str:
    """Return the median energies of a set before and after, means over seeds."""
    return _pair([f"{_quantile(one, time, name, 0.5):.2f}" for time in TIMES])


def _means(one: Trained, name: str) -> str:
    """Return the mean energies of a set before and after, with two quantiles, means over seeds."""
    texts = []
    for time in TIMES:
        mean = np.mean([run[time][name]["mean"] for run in one.energies])
        low, high = (_quantile(one, time, name, level) for level in WITHIN)
        texts.append(f"{mean:.2f} [{low:.1f}, {high:.1f}]")
    return _pair(texts)


def _quantile(one: Trained, time: str, name: str, level: float) -> np.floating:
    return np.mean([run[time][name]["quantiles"][run["levels"].index(level)] for run in one.energies])


ENERGIES = {"median energy": _medians, "mean energy [5 %, 95 %]": _means}


def chose(trained: Sequence[Trained]) -> bool:
    """Return whether an epoch or settings of any of the models were chosen, so that the table says which."""
    return any("tried" in run for one in trained for run in one.energies)


def _chosen(trained: Sequence[Trained]) -> list[list[str]]:
    """Return rows of what was kept, and of what that had on validation beside the last epoch."""
    if not chose(trained):
        return []
    kept = [[run["tried"][run["best"]] for run in one.energies if "tried" in run] for one in trained]
    epochs = [_distinct(f"{run['kept']['epoch']} of {run['last']['epoch']}" for run in runs) for runs in kept]
    settings = [_distinct(map(_settings, runs)) for runs in kept]
    rows = [["settings kept", *settings]] if set(settings) != {MISSING} else []
    rows.append(["epoch kept, of those trained", *epochs])
    for key, title in CHOSEN.items():
        rows.append([f"{title}, kept / last epoch", *(_kept_and_last(runs, key) for runs in kept)])
    return rows


def _settings(run: Mapping[str, Any]) -> str:
    """Return the settings that a kept candidate has, of those that vary."""
    return ", ".join(f"{key} {value}" for key, value in run.items() if key not in ("kept", "last"))


def _kept_and_last(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return a measure after the kept and after the last epoch, means over seeds."""
    texts = [percent(np.mean([run[which][key] for run in runs])) for which in ("kept", "last") if runs]
    return " / ".join(texts) or MISSING


def _distinct(texts: Iterable[str]) -> str:
    """Return the texts of all seeds, each once; "–" if there is none."""
    return "; ".join(dict.fromkeys(filter(None, texts))) or MISSING


def _left_out(trained: Sequence[Trained]) -> list[list[str]]:
    """Return the row of how many outliers were left out since they are none; [] where none was."""
    counts = [[run["outliers"] for run in one.energies if "outliers" in run] for one in trained]
    if not any(count["left_out"] for runs in counts for count in runs):
        return []
    return [
        ["outliers left out", *(_distinct(f"{c['left_out']} of {c['n']}" for c in runs) for runs in counts)]
    ]


def _mean(summary: Summary, model: str, detector: str, role: str, metric: str) -> float:
    key = (model, detector, role)
    return summary.by_role.loc[key, (metric, "mean")] if key in summary.by_role.index else float("nan")


def _near_far(summary: Summary, model: str, detector: str, metric: str) -> str:
    values = [_mean(summary, model, detector, role, metric) for role in ROLES]
    return " / ".join(map(percent, values)) if not all(map(np.isnan, values)) else MISSING


def _change(summary: Summary, one: Trained, detector: str, metric: str) -> str:
    moved = [
        _mean(summary, one.model, detector, role, metric) - _mean(summary, one.start, detector, role, metric)
        for role in ROLES
    ]
    texts = [MISSING if np.isnan(value) else f"{100 * value:+.1f}" for value in moved]
    return " / ".join(texts) if set(texts) != {MISSING} else MISSING


def _mistake(summary: Summary, model: str, name: str, factor: float) -> str:
    rows: pd.DataFrame = summary.mistakes[summary.mistakes["model"] == model]
    if not len(rows):
        return MISSING
    value = 1 - rows["error"].mean() if name == "accuracy" else rows[name].mean()
    return percent(factor * value, decimals=1 if factor == 1 else 2)
