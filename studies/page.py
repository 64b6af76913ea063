"""README.md and index.html of a study's results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import DictLoader

from sslood.core.files import save_text
from sslood.report import render as report
from sslood.report.cells import MISSING, Code, Table, percent
from studies.done import Finished, unfinished
from studies.figure import near_and_far
from studies.plan import Study, study_names
from studies.table import BEST, best, bests
from studies.totals import hours, sizes, widths

FOLDERS = (Path(report.__file__).parent / "templates", Path(__file__).parent / "templates")
# read at once: they may be edited while a study runs
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for folder in FOLDERS for path in folder.iterdir()}
SHOWN = ("msp", "energy", "knn", "mahalanobis", "ssd", "ssdk", "auto")  # detectors with a column of their own
HOURS = ("hours", "core_hours")
ACCURACIES = {"head": ("accuracy_head", "accuracy_ensemble"), "kNN": ("accuracy_knn",)}


def write_pages(
    study: Study, states: Mapping[str, Mapping[str, Any]], done: Sequence[Finished], results: Path
) -> None:
    """Write table.csv, README.md and index.html."""
    groups = [found.rows.groups for found in done if len(found.rows.groups)]
    if groups:
        save_text(results / "table.csv", pd.concat(groups).to_csv(index=False, lineterminator="\n"))
    elif (results / "table.csv").is_file():
        (results / "table.csv").unlink()
    ours = study.name in study_names()  # any other is called by its file
    values = {
        "call": f"{study.name if ours else f'{study.name}.yaml'}{' --tiny' * study.is_tiny}",
        "study": study,
        "title": study.title,
        "table": overview(done),
        "images": f"{sizes(done)} {widths(done, SHOWN)}".strip(),
        "informed": any(found.rows.groups["low"].isna().any() for found in done if len(found.rows.groups)),
        "published": {found.part.name: found.published for found in done if found.published},
        "origins": origins(done),
        "hours": hours(done, study.core),
        "swept": [found for found in done if found.sweeps],
        "commands": [found for found in done if found.output],
        "unfinished": unfinished(study, states, done),
        "absent": _absent(done),
        "tiny": _tiny(done),
    }
    environment = report.ENVIRONMENT.overlay(loader=DictLoader(TEMPLATES))
    save_text(results / "README.md", environment.get_template("study.md.j2").render(**values))
    figure = near_and_far(pd.concat([*groups, *map(bests, groups)]), [*SHOWN, BEST]) if groups else ""
    page = environment.get_template("study.html.j2").render(**values, figure=figure)
    save_text(results / "index.html", page)


def overview(done: Sequence[Finished]) -> Table | None:
    """Return a row per part and model: accuracies, the best of all detectors, and chosen ones near / far."""
    rows: list[list[str]] = []
    known = {name for found in done if len(found.rows.groups) for name in found.rows.groups["detector"]}
    shown = [name for name in SHOWN if name in known]
    for found in done:
        groups = found.rows.groups
        for model in dict.fromkeys(groups["model"]) if len(groups) else ():
            own = groups[groups["model"] == model]
            accuracy = found.rows.accuracy[found.rows.accuracy["model"] == model]
            cells = [_accuracy(accuracy, keys) for keys in ACCURACIES.values()]
            cells += [_best(own, model, role) for role in ("near", "far")]
            cells += [_near_far(own, name) for name in shown]
            rows.append([Code(found.part.name), Code(model), str(own["seeds"].max()), *cells])
    header = ["part", "model", "seeds", *ACCURACIES, "best near", "best far", *map(Code, shown)]
    return Table(header, rows, left=("part", "model", "best near", "best far")) if rows else None


def _accuracy(rows: pd.DataFrame, keys: Sequence[str]) -> str:
    """Return the first of some accuracies that a model has."""
    values = [value for key in keys if key in rows for value in rows[key].dropna()]
    return percent(float(values[0])) if values else MISSING


def _near_far(rows: pd.DataFrame, detector: str) -> str:
    own = rows[rows["detector"] == detector].set_index("role")
    if own.empty:
        return MISSING
    texts = [percent(*own.loc[role, ["auroc", "auroc_std"]]) if role in own.index else MISSING
             for role in ("near", "far")]  # fmt: skip
    return " / ".join(texts)


def _best(rows: pd.DataFrame, model: str, role: str) -> str:
    row = best(rows, model, role)
    if row is None:
        return MISSING
    interval = "" if pd.isna(row["low"]) else f" [{percent(row['low'])}, {percent(row['high'])}]"
    return f"{row['detector']} {percent(row['auroc'])}{interval}"


def origins(done: Sequence[Finished]) -> Table:
    """Return a row per part: how long it took, on what, from which code."""
    rows: list[list[str]] = []
    for found in done:
        origin = found.origin
        rows.append([
            Code(found.part.name), str(origin["stages"]), *(f"{origin[key]:.2f}" for key in HOURS),
            ", ".join(origin["revision"]), "; ".join(origin["hardware"]),
        ])  # fmt: skip
    header = ["part", "stages", "hours of stages", "hours of cores", "revision", "hardware"]
    return Table(header, rows, left=("part", "revision", "hardware"))


def _tiny(done: Sequence[Finished]) -> str:
    """Return as a sentence which results are of a run with --tiny, "" if none is."""
    names = [f"`{found.part.name}`" for found in done if found.origin.get("tiny")]
    if not names:
        return ""
    which = f"The results of {', '.join(names)} are of" if len(names) < len(done) else "This was"
    return f"{which} a tiny run (`--tiny`: few images, short training) to see whether every part runs"


def _absent(done: Sequence[Finished]) -> dict[str, list[str]]:
    """Return {set: parts} of the sets that could not be had."""
    absent: dict[str, list[str]] = {}
    for found in done:
        for name in found.origin["absent"]:
            absent.setdefault(name, []).append(found.part.name)
    return absent
